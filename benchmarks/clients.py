"""The load generator: a process that holds raw WebSockets and tells the harness what they received."""

import base64
import secrets
import socket
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Client, Connection
from pathlib import Path
from typing import Any

from .receiver import Receiver

HANDSHAKE_TIMEOUT_S = 30.0
CLOSE_TIMEOUT_S = 10.0
BATCH = 64
"""Handshakes under way at the same time."""
OFFER = "permessage-deflate; client_max_window_bits"
"""What Chromium offers."""
TEXT, CLOSE = 0x1, 0x8
COMPRESSED = 0x40


@dataclass(frozen=True, slots=True)
class Crowd:
    """Clients to connect: number ``i`` goes to port ``i % len(ports)``, its ``{id}`` in ``path`` is ``i``."""

    ports: list[int]
    count: int
    path: str
    speaks_socketio: bool = False
    offers_deflate: bool = False


class Socket:
    """One client until it is handed to the receiver."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=HANDSHAKE_TIMEOUT_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.early = b""
        self.extensions = ""

    def request(self, path: str, port: int, offers_deflate: bool) -> None:
        """Ask for the upgrade."""
        lines = [
            f"GET {path} HTTP/1.1",
            f"Host: 127.0.0.1:{port}",
            "Upgrade: websocket",
            "Connection: Upgrade",
        ]
        lines += ["Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {_key()}"]
        lines += [f"Sec-WebSocket-Extensions: {OFFER}"] * offers_deflate
        self.socket.sendall("\r\n".join([*lines, "", ""]).encode())

    def upgraded(self) -> None:
        """Read the answer.

        Raises:
            ConnectionError: it is no upgrade.
        """
        self._read_until(lambda: b"\r\n\r\n" in self.early)
        head, _, self.early = self.early.partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        if not lines[0].startswith("HTTP/1.1 101"):
            raise ConnectionError(f"a client was refused: {lines[0]}")
        named = (line.partition(":") for line in lines)
        self.extensions = "".join(v.strip() for n, _, v in named if n.lower() == "sec-websocket-extensions")

    def join_socketio(self) -> None:
        """Answer Engine.IO's greeting and connect to Socket.IO's main namespace.

        Raises:
            ConnectionError: it was not greeted.
        """
        inflater = zlib.decompressobj(wbits=-15)
        for prefix, reply in ((b"0{", frame(TEXT, b"40")), (b"40{", b"")):
            packet = self._next_frame(inflater)
            if not packet.startswith(prefix):
                raise ConnectionError(f"no Socket.IO: {packet[:100]!r}")
            self.socket.sendall(reply)

    def _next_frame(self, inflater: Any) -> bytes:
        self._read_until(lambda: len(self.early) >= 4)
        head, size = (2, self.early[1]) if self.early[1] < 126 else (4, int.from_bytes(self.early[2:4]))
        self._read_until(lambda: len(self.early) >= head + size)
        payload, is_compressed = self.early[head : head + size], self.early[0] & COMPRESSED
        self.early = self.early[head + size :]
        return bytes(inflater.decompress(payload + b"\x00\x00\xff\xff")) if is_compressed else payload

    def _read_until(self, is_enough: Callable[[], bool]) -> None:
        while not is_enough():
            data = self.socket.recv(65536)
            if not data:
                raise ConnectionError("a server closed a client's connection during the handshake")
            self.early += data


def _key() -> str:
    return base64.b64encode(secrets.token_bytes(16)).decode()


def frame(opcode: int, payload: bytes, bits: int = 0) -> bytes:
    """Return a whole client frame; its masking key is 0, which leaves the payload as it is."""
    size = len(payload)
    length = bytes([0x80 | size]) if size < 126 else bytes([0x80 | 126]) + size.to_bytes(2)
    return bytes([0x80 | bits | opcode]) + length + bytes(4) + payload


def deflated(text: str, extensions: str) -> bytes:
    """Return a compressed text frame, within the window that the server has granted."""
    granted = [word.strip() for word in extensions.split(";")]
    bits = next(
        (int(word.split("=")[1]) for word in granted if word.startswith("client_max_window_bits=")), 15
    )
    compressor = zlib.compressobj(wbits=-max(bits, 9))
    data = compressor.compress(text.encode()) + compressor.flush(zlib.Z_SYNC_FLUSH)
    return frame(TEXT, data.removesuffix(b"\x00\x00\xff\xff"), COMPRESSED)


class Generator:
    """All clients of one harness, and the commands it may give; each returns what is answered."""

    def __init__(self, library: Path, control: Connection) -> None:
        self._receiver = Receiver(library, control.fileno())
        self._sockets: list[Socket] = []
        self._control = control

    def serve(self) -> None:
        """Follow commands, reading all the while, until the harness goes away."""
        while True:
            self._receiver.run()
            try:
                name, given = self._control.recv()
            except EOFError:
                return
            try:
                self._control.send((True, getattr(self, name)(**given)))
            except (OSError, ValueError) as error:
                self._control.send((False, str(error)))

    def connect(self, crowd: Crowd) -> str:
        """Connect a crowd and return the extensions that its first client was granted."""
        for first in range(0, crowd.count, BATCH):
            for joined in self._handshakes(crowd, range(first, min(first + BATCH, crowd.count))):
                joined.socket.setblocking(False)
                self._sockets.append(joined)
                self._receiver.add(joined.socket.fileno(), joined.early)
        return self._sockets[-1].extensions

    def _handshakes(self, crowd: Crowd, numbers: range) -> Iterator[Socket]:
        ports = [crowd.ports[number % len(crowd.ports)] for number in numbers]
        opened = [Socket(port) for port in ports]
        for number, port, new in zip(numbers, ports, opened, strict=True):
            new.request(crowd.path.format(id=number), port, crowd.offers_deflate)
        for new in opened:
            new.upgraded()
            if crowd.speaks_socketio:
                new.join_socketio()
            yield new

    def reset(self) -> None:
        """Count from zero."""
        self._receiver.reset()

    def wait(self, messages: int, silence_s: float) -> bool:
        """Return whether so many messages, of all clients together, arrived; not after this long without any."""
        seen = -1
        while seen != self._receiver.counters.messages:
            seen = self._receiver.counters.messages
            if self._receiver.run(messages=messages, timeout_s=silence_s):
                return True
        return False

    def counters(self) -> dict[str, int]:
        """Return what arrived since the last reset."""
        return {name: getattr(self._receiver.counters, name) for name, *_ in self._receiver.counters._fields_}

    def incomplete(self, messages: int, sequences: int) -> int:
        """Return how many clients have not had exactly these messages."""
        return self._receiver.incomplete(messages, sequences)

    def percentiles(self, shares: list[float]) -> list[float]:
        """Return latencies in seconds, one for each share."""
        return self._receiver.percentiles(shares)

    def send(self, text: str) -> None:
        """Have each client send a message, compressed if it was granted that."""
        for each in self._sockets:
            packed = deflated(text, each.extensions) if each.extensions else frame(TEXT, text.encode())
            each.socket.send(packed)

    def close(self) -> None:
        """Close all, and wait for the servers to do so."""
        ends = len(self._sockets)
        for each in self._sockets:
            try:
                each.socket.send(frame(CLOSE, (1000).to_bytes(2)))
            except OSError:
                ends -= 1
        self._receiver.run(ends=max(ends, 1), timeout_s=CLOSE_TIMEOUT_S)
        self._receiver.clear()
        for each in self._sockets:
            each.socket.close()
        self._sockets.clear()


def main() -> None:
    """Run with the harness's address and the compiled receiver as arguments."""
    address, library = sys.argv[1:]
    with Client(address, family="AF_UNIX") as control:
        Generator(Path(library), control).serve()


if __name__ == "__main__":
    main()
