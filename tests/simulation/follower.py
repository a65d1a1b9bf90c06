"""Clients of ``stabilizer.v1`` in a simulation: real handshakes and frames, on sockets that exist in memory only."""

import asyncio
import contextvars
from collections.abc import Callable
from typing import Any

from starlette.exceptions import WebSocketException
from starlette.websockets import WebSocket, WebSocketDisconnect

from fastapi_websocket_stabilizer import WebSocketStabilizerError, close_codes
from fastapi_websocket_stabilizer_client.machine import Machine
from fastapi_websocket_stabilizer_client.messages import Lost, Message
from tests.chaos.history import History
from tests.chaos.recorder import Recorder
from tests.simulation.node import Node, Socket

ABNORMAL = 1006
LOST_AFTER_S = 0.01
"""Seconds until the peer of a connection that was dropped is told so."""


class Follower(Recorder):
    """One client object. Each of its connections goes to the node that ``choose`` returns."""

    def __init__(
        self,
        name: str,
        rooms: list[str],
        history: History,
        now_s: Callable[[], float],
        choose: Callable[[], Node],
        sockets: list[Socket],
        abrupt: float,
    ) -> None:
        super().__init__(name, history, now_s, Machine, abrupt)
        self._rooms, self._choose, self._sockets = rooms, choose, sockets
        self._links: dict[int, Link] = {}
        self.world: contextvars.Context = contextvars.copy_context()

    def dial(self, generation: int, items: tuple[str, ...]) -> None:
        link = self._links[generation] = Link(self, generation, self._choose(), items)
        self._sockets.append(link)
        link.node.do(link.serve(self._rooms))

    def send(self, generation: int, frame: str | bytes) -> None:
        if (link := self._links.get(generation)) is not None:
            link.put({"type": "websocket.receive", "text" if isinstance(frame, str) else "bytes": frame})

    def end(self, generation: int) -> None:
        if (link := self._links.pop(generation, None)) is not None:
            link.drop()

    def deliver(self, event: Message | Lost) -> None:
        if isinstance(event, Lost) or "|" in str(
            event.data
        ):  # others are checked with those of plain sockets
            super().deliver(event)

    def lose(self, node: Node) -> None:
        """Notice that a node has crashed."""
        for generation, link in tuple(self._links.items()):
            if link.node is node:
                asyncio.get_running_loop().call_later(LOST_AFTER_S, self.over, generation, ABNORMAL, "")

    def over(self, generation: int, code: int, reason: str) -> None:
        """Note that a socket is closed, unless this client has dropped it."""
        if self._links.pop(generation, None) is not None:
            self.closed(generation, code, reason)

    def arrived(self, generation: int, event: dict[str, Any]) -> None:
        """Take an event of a socket."""
        if generation not in self._links:
            return
        if event["type"] == "websocket.accept":
            self.opened(generation, event.get("subprotocol"))
        elif event["type"] == "websocket.close":
            self.over(generation, event.get("code") or close_codes.NORMAL, event.get("reason") or "")
        else:
            text = event.get("text")
            self.take(generation, event["bytes"] if text is None else text)


class Link(Socket):
    """One socket between a follower and a node."""

    def __init__(self, follower: Follower, generation: int, node: Node, items: tuple[str, ...]) -> None:
        super().__init__(follower.name, node, lambda _: None)
        self.hung_up = True  # whether its claim was the last one is decided by the session
        self._follower, self._generation, self._items = follower, generation, items
        self._loop: Any = asyncio.get_running_loop()
        self._events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._is_dropped = False

    @property
    def is_open(self) -> bool:
        """Whether the connection has not ended. Its close takes some turns of the event loop."""
        return super().is_open and self.connection is not None and self.connection.ended is None

    async def serve(self, rooms: list[str]) -> None:
        """Handle the socket, as the application and the server of the node do."""
        scope = {
            "type": "websocket", "path": "/", "headers": [], "query_string": b"", "subprotocols": [*self._items],
        }  # fmt: skip
        websocket = WebSocket(scope, receive=self._events.get, send=self._send)
        self.put({"type": "websocket.connect"})
        await websocket.receive()
        code, reason = int(close_codes.NORMAL), ""
        try:
            async with self.node.manager.connection(websocket, self.client, rooms=rooms) as connection:
                self.connection = connection
                async for _ in connection:
                    pass
        except WebSocketException as error:
            code, reason = error.code, error.reason
        except WebSocketDisconnect as error:
            code, reason = error.code, error.reason
        except WebSocketStabilizerError:
            code = int(close_codes.INTERNAL_ERROR)
        self._finish(code, reason)

    async def _send(self, event: Any) -> None:
        if self._is_dropped or self.closed_with is not None:
            raise OSError("closed")
        if event["type"] == "websocket.close":
            self._finish(event.get("code") or close_codes.NORMAL, event.get("reason") or "")
        else:
            self._tell(event)

    def _finish(self, code: int, reason: str) -> None:
        if self.closed_with is None:
            self.closed_with = code, reason
            self._tell({"type": "websocket.close", "code": code, "reason": reason})

    def _tell(self, event: dict[str, Any]) -> None:
        context = self._follower.world.copy()
        self._loop.call_soon(self._follower.arrived, self._generation, event, context=context)

    def put(self, event: dict[str, Any]) -> None:
        """Send an event to the application."""
        self._events.put_nowait(event)

    def drop(self) -> None:
        """Break the connection. The node notices it soon."""
        self._is_dropped = True
        self.closed_with = self.closed_with or (ABNORMAL, "dropped")
        event = {"type": "websocket.disconnect", "code": ABNORMAL}
        self._loop.call_later(LOST_AFTER_S, self.put, event)
