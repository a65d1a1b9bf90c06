"""A real WebSocket client that does not read."""

import secrets
import socket
from base64 import b64encode
from typing import Self
from urllib.parse import urlsplit

RECEIVE_BUFFER_BYTES = 4096
"""Receive buffer of the kernel. It is small, so that the server is soon blocked."""


class SlowReader:
    """A client of a ``ws://`` URL that reads nothing, so that its messages wait in the server.

    >>> with SlowReader(f"ws://127.0.0.1:{port}/ws/slow") as slow:
    ...     ...  # send more messages than its outbox can hold
    ...     assert b"slow consumer" in slow.read_on()
    """

    def __init__(self, url: str, timeout_s: float = 5.0) -> None:
        parts = urlsplit(url)
        if parts.scheme != "ws" or parts.hostname is None:
            raise ValueError(f"url must be ws://host:port/…, got {url!r}")
        self._socket = socket.socket()
        self._socket.settimeout(timeout_s)
        # Before connect(), because the handshake announces the size of the buffer.
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
            read = self._socket.recv(1)  # only the handshake; the rest must stay unread
            if not read:
                break
            answer += read
        status = answer.partition(b"\r\n")[0].decode(errors="replace")
        if " 101 " not in status:
            self.close()
            raise ConnectionError(f"the server refused the WebSocket: {status or 'no answer'}")

    def read_on(self) -> bytes:
        """Read until the server closes the connection, and return the raw WebSocket frames.

        Raises:
            TimeoutError: The server sent nothing for ``timeout_s`` seconds.
        """
        read = bytearray()
        try:
            while chunk := self._socket.recv(65536):
                read += chunk
        except ConnectionResetError:  # the server has aborted the connection
            pass
        return bytes(read)

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()
