"""The load generator: a process that holds raw WebSockets and tells the harness what they received."""

import base64
import secrets
import socket
import sys
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Client, Connection
from pathlib import Path

from .dialects import COMPRESSED, DIALECTS, TEXT, Reader, frame
from .receiver import Receiver

HANDSHAKE_TIMEOUT_S = 30.0
CLOSE_TIMEOUT_S = 10.0
BATCH = 64
"""Handshakes under way at the same time."""
OFFER = "permessage-deflate; client_max_window_bits"
"""What Chromium offers."""
CLOSE, GOING_AWAY = 0x8, 1001
WINDOW = 256
"""Handshakes under way at the same time of clients that come back; fewer than a server's backlog."""
POLL_EACH = 16
"""Clients that come back between two looks at what arrived."""
POLL_S = 0.001


@dataclass(frozen=True, slots=True)
class Crowd:
    """Clients to connect. Number ``i`` goes to port ``i % len(ports)``; ``{id}`` in its path and channel is ``i``."""

    ports: list[int]
    count: int
    path: str
    dialect: str = "plain"
    channel: str = ""
    """Where a client subscribes that chooses that itself."""
    offers_deflate: bool = False


class Socket:
    """One client until it is handed to the receiver."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=HANDSHAKE_TIMEOUT_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.reader = Reader(self.socket.recv)
        self.extensions = ""

    def request(self, path: str, port: int, lines: tuple[str, ...], offers_deflate: bool) -> None:
        """Ask for the upgrade."""
        more = [*lines, *[f"Sec-WebSocket-Extensions: {OFFER}"] * offers_deflate]
        self.socket.sendall(request(path, port, *more))

    def upgraded(self) -> None:
        """Read the answer.

        Raises:
            ConnectionError: it is no upgrade.
        """
        lines = self.reader.head().split("\r\n")
        if not lines[0].startswith("HTTP/1.1 101"):
            raise ConnectionError(f"a client was refused: {lines[0]}")
        named = (line.partition(":") for line in lines)
        self.extensions = "".join(v.strip() for n, _, v in named if n.lower() == "sec-websocket-extensions")


def request(path: str, port: int, *more: str) -> bytes:
    """Return a request for the upgrade with these further lines."""
    lines = [f"GET {path} HTTP/1.1", f"Host: 127.0.0.1:{port}", "Upgrade: websocket", "Connection: Upgrade"]
    lines += ["Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {_key()}", *more]
    return "\r\n".join([*lines, "", ""]).encode()


def _key() -> str:
    return base64.b64encode(secrets.token_bytes(16)).decode()


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
        self._returns: list[tuple[int, bytes, bytes]] = []
        self._is_lined = False
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
        self._is_lined = DIALECTS[crowd.dialect].is_lined
        for first in range(0, crowd.count, BATCH):
            for joined in self._handshakes(crowd, range(first, min(first + BATCH, crowd.count))):
                joined.socket.setblocking(False)
                self._sockets.append(joined)
                self._receiver.add(joined.socket.fileno(), joined.reader.early, is_lined=self._is_lined)
        return self._sockets[-1].extensions

    def _handshakes(self, crowd: Crowd, numbers: range) -> Iterator[Socket]:
        dialect = DIALECTS[crowd.dialect]
        ports = [crowd.ports[number % len(crowd.ports)] for number in numbers]
        opened = [Socket(port) for port in ports]
        for number, port, new in zip(numbers, ports, opened, strict=True):
            new.request(crowd.path.format(id=number), port, dialect.lines, crowd.offers_deflate)
        for number, port, new in zip(numbers, ports, opened, strict=True):
            new.upgraded()
            back = dialect.join(new.socket.sendall, new.reader, crowd.channel.format(id=number))
            self._returns.append((port, request(crowd.path.format(id=number), port, *back.lines), back.then))
            yield new

    def expect(self, crowd: Crowd) -> None:
        """Take note of clients that have never been here, and will come together."""
        dialect = DIALECTS[crowd.dialect]
        self._is_lined = dialect.is_lined
        for number in range(crowd.count):
            port = crowd.ports[number % len(crowd.ports)]
            self._returns.append((port, request(crowd.path.format(id=number), port, *dialect.lines), b""))

    def come_back(self, messages: int, silence_s: float) -> float:
        """Connect all clients again that have left; return the seconds until they had so many messages together."""
        began_ns = time.monotonic_ns()
        for number, (port, wanted, then) in enumerate(self._returns):
            new = Socket(port)
            new.socket.sendall(wanted)
            new.socket.setblocking(False)
            self._sockets.append(new)
            self._receiver.dial(new.socket.fileno(), then, is_lined=self._is_lined)
            if number % POLL_EACH == 0:
                self._poll_down_to(WINDOW)
        self._poll_down_to(0)
        if not messages:
            return (time.monotonic_ns() - began_ns) / 1e9
        self.wait(messages, silence_s)
        return (self._receiver.counters.latest_ns - began_ns) / 1e9

    def _poll_down_to(self, handshakes: int) -> None:
        deadline_s = time.monotonic() + HANDSHAKE_TIMEOUT_S
        timeout_s = 0.0
        while self._receiver.poll(timeout_s) > handshakes:
            if time.monotonic() > deadline_s:
                raise TimeoutError("a client that came back got no answer")
            timeout_s = POLL_S

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
        """Close all for good, and wait for the servers to do so."""
        self.leave()
        self._returns.clear()

    def leave(self) -> None:
        """Close all as a page does that is reloaded, and wait for the servers to do so."""
        ends = len(self._sockets)
        for each in self._sockets:
            try:
                each.socket.send(frame(CLOSE, GOING_AWAY.to_bytes(2)))
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
