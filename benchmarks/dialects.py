"""What clients say and are told beside messages: after the handshake, and when they come back."""

import base64
import json
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

TEXT = 0x1
COMPRESSED = 0x40
READ_SIZE = 65_536


def frame(opcode: int, payload: bytes, bits: int = 0) -> bytes:
    """Return a whole client frame; its masking key is 0, which leaves the payload as it is."""
    size = len(payload)
    length = bytes([0x80 | size]) if size < 126 else bytes([0x80 | 126]) + size.to_bytes(2)
    return bytes([0x80 | bits | opcode]) + length + bytes(4) + payload


class Reader:
    """The bytes that a server has sent to one client, until the receiver takes over."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read
        self.early = b""
        """What was read and is not handled yet."""
        self._inflater = zlib.decompressobj(wbits=-15)

    def head(self) -> str:
        """Return the answer to the handshake."""
        self._fill(lambda: b"\r\n\r\n" in self.early)
        head, _, self.early = self.early.partition(b"\r\n\r\n")
        return head.decode()

    def frame(self) -> bytes:
        """Return the payload of the next frame."""
        self._fill(lambda: len(self.early) >= 4)
        head, size = (2, self.early[1]) if self.early[1] < 126 else (4, int.from_bytes(self.early[2:4]))
        self._fill(lambda: len(self.early) >= head + size)
        payload, is_compressed = self.early[head : head + size], self.early[0] & COMPRESSED
        self.early = self.early[head + size :]
        return self._inflater.decompress(payload + b"\x00\x00\xff\xff") if is_compressed else payload

    def _fill(self, is_enough: Callable[[], bool]) -> None:
        while not is_enough():
            data = self._read(READ_SIZE)
            if not data:
                raise ConnectionError("a server closed a client's connection during the handshake")
            self.early += data


@dataclass(frozen=True, slots=True)
class Return:
    """How a client comes back: lines of its request, and what it sends when that was answered."""

    lines: tuple[str, ...] = ()
    then: bytes = b""


class Dialect(ABC):
    """One protocol of clients above WebSocket frames."""

    is_lined: ClassVar[bool] = False
    """Whether a frame has a reply on each line."""
    lines: ClassVar[tuple[str, ...]] = ()
    """Lines of the request of a client that comes for the first time."""

    @abstractmethod
    def join(self, send: Callable[[bytes], None], reader: Reader, channel: str) -> Return:
        """Do what follows the handshake, and return how this client comes back.

        Raises:
            ConnectionError: the server did not answer as it should.
        """


class Plain(Dialect):
    """Messages and nothing else."""

    def join(self, send: Callable[[bytes], None], reader: Reader, channel: str) -> Return:
        """Do nothing."""
        return Return()


class SocketIO(Dialect):
    """Engine.IO's greeting, and Socket.IO's main namespace."""

    def join(self, send: Callable[[bytes], None], reader: Reader, channel: str) -> Return:
        """Answer the greeting and connect."""
        for prefix, reply in ((b"0{", frame(TEXT, b"40")), (b"40{", b"")):
            packet = reader.frame()
            if not packet.startswith(prefix):
                raise ConnectionError(f"no Socket.IO: {packet[:100]!r}")
            send(reply)
        return Return()


class Centrifugo(Dialect):
    """Centrifugo's JSON: connect and subscribe leave in one frame, as its own client sends them."""

    is_lined = True

    def join(self, send: Callable[[bytes], None], reader: Reader, channel: str) -> Return:
        """Connect and subscribe; remember the position in channels that can be recovered."""
        channels = channel.split(",")
        send(self._commands([{"channel": name} for name in channels]))
        replies: dict[int, dict[str, Any]] = {}
        while len(replies) <= len(channels):
            for line in reader.frame().splitlines():
                reply = json.loads(line)
                if "error" in reply:
                    raise ConnectionError(f"Centrifugo refused a command: {reply}")
                if "id" in reply:
                    replies[reply["id"]] = reply
        return Return(
            then=self._commands([self._again(name, replies[2 + i]) for i, name in enumerate(channels)])
        )

    @staticmethod
    def _again(channel: str, reply: dict[str, Any]) -> dict[str, Any]:
        position = reply["subscribe"]
        if not position.get("recoverable"):
            return {"channel": channel}
        since = {"epoch": position["epoch"], "offset": position.get("offset", 0)}
        return {"channel": channel, "recover": True, **since}

    @staticmethod
    def _commands(subscriptions: list[dict[str, Any]]) -> bytes:
        commands: list[dict[str, Any]] = [{"id": 1, "connect": {}}]
        commands += [{"id": 2 + i, "subscribe": each} for i, each in enumerate(subscriptions)]
        return frame(TEXT, "\n".join(json.dumps(each, separators=(",", ":")) for each in commands).encode())


class StabilizerV1(Dialect):
    """``stabilizer.v1`` of this library: the positions are in the first frame."""

    lines = ("Sec-WebSocket-Protocol: stabilizer.v1",)

    def join(self, send: Callable[[bytes], None], reader: Reader, channel: str) -> Return:
        """Read up to ``live``, and remember the cursor."""
        hi = json.loads(reader.frame()).get("hi")
        if hi is None:
            raise ConnectionError("the first frame was no hi")
        while not (packet := reader.frame()).startswith(b'{"live"'):
            if not packet.startswith((b"[", b"{}")):
                raise ConnectionError(f"no live after hi: {packet[:100]!r}")
        at = {room: position for room, position in hi["at"].items() if position is not None}
        cursor = json.dumps({"s": hi["sid"], "t": hi["t"], "at": at}, separators=(",", ":"))
        packed = base64.urlsafe_b64encode(cursor.encode()).decode().rstrip("=")
        return Return((f"{self.lines[0]}, stabilizer.v1.resume.{packed}",))


DIALECTS: dict[str, Dialect] = {
    "plain": Plain(),
    "socket.io": SocketIO(),
    "centrifugo": Centrifugo(),
    "stabilizer.v1": StabilizerV1(),
}
