"""All that is done to uvicorn: the WebSocket class, what sockets gather and read, SIGTERM, the shared port.

``uvicorn --ws fastapi_websocket_stabilizer.uvicorn:WebSocketProtocol`` names the class. It is loaded when it is asked
for, since everything else here works without uvicorn.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .protocol import WebSocketProtocol as WebSocketProtocol


def __getattr__(name: str) -> Any:
    if name == "WebSocketProtocol":
        from .protocol import WebSocketProtocol

        return WebSocketProtocol
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
