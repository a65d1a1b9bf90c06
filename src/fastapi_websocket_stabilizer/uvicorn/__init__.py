"""All changes to uvicorn: the WebSocket class, its reading and writing, SIGTERM, the shared port, log redaction.

``uvicorn --ws fastapi_websocket_stabilizer.uvicorn:WebSocketProtocol`` selects the class. It is imported on first
use, because the other modules work without uvicorn.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .protocol import WebSocketProtocol as WebSocketProtocol


def __getattr__(name: str) -> Any:
    if name == "WebSocketProtocol":
        from .protocol import WebSocketProtocol

        return WebSocketProtocol
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
