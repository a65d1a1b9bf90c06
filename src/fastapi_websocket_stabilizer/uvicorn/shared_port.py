"""The port that a worker of ``uvicorn --workers`` shares with the others, while it drains.

The kernel gives a newcomer to any process that listens. One that drains would refuse him, and another would have
taken him: so it leaves the port to the others, and yet looks whether there are any. Nobody is to hang in a queue
that nobody empties: a probe is to hear 503, and a client that it should come back.
"""

import asyncio
import os
import selectors
import socket
from contextlib import suppress
from typing import Any

from ..runtime.loops import running_loop

LOOK_EVERY_S = 0.05
LOOKS = 4
"""So many looks in a row that find somebody waiting: no other worker takes anybody."""


class SharedPort:
    """A uvicorn ``Server``'s listening sockets; only who waits for long is served here."""

    def __init__(self, server: Any) -> None:
        self._server = server
        self._waiting = selectors.DefaultSelector()
        listening = getattr(server, "servers", ())  # none before it has started
        self._listeners = [_copy(each) for one in listening for each in one.sockets]
        for listener in self._listeners:
            self._waiting.register(listener, selectors.EVENT_READ)
        for one in listening:
            one.close()
        self._greeting: set[asyncio.Task[None]] = set()
        self._task = running_loop().create_task(self._watch(), name="shared-port")

    def close(self) -> None:
        """Let go of the port. May be called again."""
        self._task.cancel()
        self._waiting.close()
        for listener in self._listeners:
            listener.close()

    async def _watch(self) -> None:
        seen = 0
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            found = self._waiting.select(0)
            seen = seen + 1 if found else 0
            if seen >= LOOKS:
                seen = 0
                for key, _ in found:
                    self._take_all(key.fileobj)

    def _take_all(self, listener: Any) -> None:
        with suppress(OSError):  # nobody waits any more, or he has gone, or there are no descriptors left
            while True:
                accepted, _ = listener.accept()
                accepted.setblocking(False)
                task = running_loop().create_task(self._greet(accepted), name="shared-port-greeting")
                self._greeting.add(task)
                task.add_done_callback(self._greeting.discard)

    async def _greet(self, accepted: socket.socket) -> None:
        with suppress(OSError):  # TLS that does not come about, too
            await running_loop().connect_accepted_socket(
                self._protocol, accepted, ssl=self._server.config.ssl
            )

    def _protocol(self) -> asyncio.Protocol:
        server = self._server
        protocol: asyncio.Protocol = server.config.http_protocol_class(
            config=server.config, server_state=server.server_state, app_state=server.lifespan.state
        )
        return protocol


def _copy(listener: Any) -> socket.socket:
    copy = socket.socket(fileno=os.dup(listener.fileno()))
    copy.setblocking(False)
    return copy
