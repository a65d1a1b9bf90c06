"""A real WebSocket client that does not read."""

import secrets
import socket
from base64 import b64encode
from typing import Self
from urllib.parse import urlsplit

RECEIVE_BUFFER_BYTES = 4096
"""What the kernel may hold for us: little, so that the server soon notices."""


class SlowReader:
    """Connects to a ``ws://`` URL and reads nothing, so that what it is sent waits in the server.

    >>> with SlowReader(f"ws://127.0.0.1:{port}/ws/slow") as slow:
    ...     ...  # send it more than its outbox holds
    ...     assert b"slow consumer" in slow.read_on()
    """

    def __init__(self, url: str, timeout_s: float = 5.0) -> None:
        parts = urlsplit(url)
        if parts.scheme != "ws" or parts.hostname is None:
            raise ValueError(f"url must be ws://host:port/…, got {url!r}")
        self._socket = socket.socket()
        self._socket.settimeout(timeout_s)
        # Before the connection is made: it says how much we take.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        self._socket.connect((parts.hostname, parts.port or 80))
        target = parts.path or "/"
        self._shake_hands(f"{target}?{parts.query}" if parts.query else target, parts.netloc)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _shake_hands(self, target: str, host: str) -> None:
        lines = [f"GET {target} HTTP/1.1", f"Host: {host}", "Upgrade: websocket", "Connection: Upgrade"]
        lines.append(f"Sec-WebSocket-Key: {b64encode(secrets.token_bytes(16)).decode()}")
        lines.append("Sec-WebSocket-Version: 13")
        self._socket.sendall("\r\n".join([*lines, "", ""]).encode())
        answer = b""
        while b"\r\n\r\n" not in answer:
            read = self._socket.recv(1)  # no byte more than the handshake: the rest is what we do not read
            if not read:
                break
            answer += read
        status = answer.partition(b"\r\n")[0].decode(errors="replace")
        if " 101 " not in status:
            self.close()
            raise ConnectionError(f"the server refused the WebSocket: {status or 'no answer'}")

    def read_on(self) -> bytes:
        """Return all that comes until the server ends the connection: WebSocket frames, as they are.

        Raises:
            TimeoutError: It goes on, or says nothing, for longer than the timeout.
        """
        read = bytearray()
        try:
            while chunk := self._socket.recv(65536):
                read += chunk
        except ConnectionResetError:  # aborted: it did not wait for us
            pass
        return bytes(read)

    def close(self) -> None:
        """End the connection."""
        self._socket.close()
