"""A WebSocket without a network, for handlers, hooks and ``manager.connect``."""

import asyncio
import json
from typing import Any

from starlette.types import Message as AsgiEvent
from starlette.websockets import WebSocket, WebSocketState

from .. import close_codes


class FakeWebSocket(WebSocket):
    """A real Starlette WebSocket whose client is the test.

    >>> socket = FakeWebSocket()
    >>> await manager.connect("alice", socket)
    >>> await manager.send_to_client("alice", {"n": 1})
    >>> assert socket.received_json == [{"n": 1}]

    Attributes:
        received: Messages that the client has received, as ``str`` or ``bytes``. JSON is text.
        closed_with: Code and reason after either side has closed the socket, otherwise None.
    """

    def __init__(self, path: str = "/", *, is_accepted: bool = True) -> None:
        scope: dict[str, Any] = {"type": "websocket", "path": path, "headers": [], "query_string": b""}
        scope |= {"scheme": "ws", "client": ("testclient", 50000), "server": ("testserver", 80)}
        scope |= {"subprotocols": [], "extensions": {}}
        super().__init__(scope, self._to_application, self._to_client)
        if is_accepted:
            self.client_state = self.application_state = WebSocketState.CONNECTED
        self.received: list[str | bytes] = []
        self.closed_with: tuple[int, str] | None = None
        self._events: asyncio.Queue[AsgiEvent] = asyncio.Queue()
        self._reads = asyncio.Event()
        self._reads.set()
        if not is_accepted:
            self._events.put_nowait({"type": "websocket.connect"})

    @property
    def is_open(self) -> bool:
        """Whether neither side has closed the socket."""
        return self.closed_with is None

    @property
    def received_json(self) -> list[Any]:
        """Messages that the client has received, decoded from JSON."""
        return [json.loads(message) for message in self.received]

    def say(self, message: str | bytes) -> None:
        """Send a message from the client to the application."""
        kind = "text" if isinstance(message, str) else "bytes"
        self._events.put_nowait({"type": "websocket.receive", kind: message})

    def hang_up(self, code: int = close_codes.GOING_AWAY, reason: str = "") -> None:
        """Close the socket from the client's side. Code 1006 means that the client left without a close frame."""
        if self.closed_with is None:
            self.closed_with = (code, reason)
            self._events.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
            self._reads.set()

    def stall(self) -> None:
        """Stop reading on the client's side. Sends then wait until ``read_on()``."""
        self._reads.clear()

    def read_on(self) -> None:
        """Read the waiting messages, and continue reading."""
        self._reads.set()

    async def _to_application(self) -> AsgiEvent:
        return await self._events.get()

    async def _to_client(self, event: AsgiEvent) -> None:
        if event["type"] == "websocket.close":
            self.hang_up(event.get("code", close_codes.NORMAL), event.get("reason") or "")
            return
        if event["type"] == "websocket.send":
            await self._reads.wait()
            if self.closed_with is not None:
                raise OSError("the client is gone")  # the class that servers raise
            text = event.get("text")
            self.received.append(event["bytes"] if text is None else text)
