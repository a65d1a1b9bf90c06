"""The shared port of ``uvicorn --workers``, while one of the workers drains.

The kernel gives each new connection to any worker that is listening. A draining worker would refuse it although
another worker could serve it, so a draining worker stops listening. If no other worker accepts the connection, this
one does. It answers 503 (or closes with 1012), so that the client is not left waiting.
"""

import asyncio
import os
import selectors
import socket
from contextlib import suppress
from typing import Any

from ..runtime.loops import running_loop

LOOK_EVERY_S = 0.05
"""Seconds between two polls of the listening sockets."""
LOOKS = 4
"""Number of consecutive polls with a waiting connection that prove that no other worker is accepting."""


class SharedPort:
    """The listening sockets of a draining uvicorn ``Server``.

    Accepts only connections that no other worker has accepted.
    """

    def __init__(self, server: Any) -> None:
        self._server = server
        self._waiting = selectors.DefaultSelector()
        listening = getattr(server, "servers", ())  # the attribute is missing before the server has started
        self._listeners = [_copy(each) for one in listening for each in one.sockets]
        for listener in self._listeners:
            self._waiting.register(listener, selectors.EVENT_READ)
        for one in listening:
            one.close()
        self._greeting: set[asyncio.Task[None]] = set()
        self._task = running_loop().create_task(self._watch(), name="shared-port")

    def close(self) -> None:
        """Close this worker's copies of the listening sockets. Idempotent."""
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
        with suppress(OSError):  # no connection is waiting, the peer is gone, or no descriptors are left
            while True:
                accepted, _ = listener.accept()
                accepted.setblocking(False)
                task = running_loop().create_task(self._greet(accepted), name="shared-port-greeting")
                self._greeting.add(task)
                task.add_done_callback(self._greeting.discard)

    async def _greet(self, accepted: socket.socket) -> None:
        with suppress(OSError):  # includes a failed TLS handshake
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
