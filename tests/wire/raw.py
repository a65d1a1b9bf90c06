"""A WebSocket client that can say anything: any bits, masks, lengths, and in any pieces."""

import asyncio
import base64
import os
import re
import socket
import ssl
import struct
import zlib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from enum import IntEnum

ANSWER_S = 30.0
RESET_ON_CLOSE = struct.pack("ii", 1, 0)
DEFLATE_TAIL = b"\x00\x00\xff\xff"
RSV1 = 4
MASK = b"\x37\xfa\x21\x3d"


class Op(IntEnum):
    """Opcodes of RFC 6455."""

    CONT = 0
    TEXT = 1
    BINARY = 2
    CLOSE = 8
    PING = 9
    PONG = 10


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame; as a client's unless ``mask`` is None.

    Attributes:
        rsv: The three reserved bits, RSV1 being 4.
        declared: The length that the header says, if not the payload's.
        wide: Bytes of the extended length (2 or 8), if not the fewest that do.
    """

    opcode: int
    payload: bytes = b""
    fin: bool = True
    rsv: int = 0
    mask: bytes | None = MASK
    declared: int | None = None
    wide: int = 0

    def encode(self) -> bytes:
        length = len(self.payload) if self.declared is None else self.declared
        masked = 0 if self.mask is None else 0x80
        head = bytes([self.fin << 7 | self.rsv << 4 | self.opcode])
        if self.wide == 8 or (not self.wide and length > 0xFFFF):
            head += struct.pack("!BQ", masked | 127, length)
        elif self.wide == 2 or length > 125:
            head += struct.pack("!BH", masked | 126, length)
        else:
            head += bytes([masked | length])
        return head + (self.payload if self.mask is None else self.mask + apply_mask(self.payload, self.mask))


def apply_mask(data: bytes, mask: bytes) -> bytes:
    """XOR with the mask; its own inverse."""
    repeated = (mask * (len(data) // 4 + 1))[: len(data)]
    return (int.from_bytes(data, "big") ^ int.from_bytes(repeated, "big")).to_bytes(len(data), "big")


def text(content: str, *, rsv: int = 0, mask: bytes | None = MASK) -> Frame:
    return Frame(Op.TEXT, content.encode(), rsv=rsv, mask=mask)


def close(code: int, reason: bytes = b"") -> Frame:
    return Frame(Op.CLOSE, struct.pack("!H", code) + reason)


def deflated(data: bytes, window_bits: int = 15) -> bytes:
    """Compress one message as permessage-deflate without context takeover does."""
    compress = zlib.compressobj(wbits=-window_bits)
    return (compress.compress(data) + compress.flush(zlib.Z_SYNC_FLUSH)).removesuffix(DEFLATE_TAIL)


@dataclass(frozen=True, slots=True)
class Answer:
    """The HTTP answer to a handshake; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def deflate(self) -> dict[str, str] | None:
        """The parameters of permessage-deflate, or None where it was not agreed on."""
        name, *parameters = re.split(r"\s*;\s*", self.headers.get("sec-websocket-extensions", ""))
        if not name:
            return None
        assert name == "permessage-deflate"
        return dict(parameter.partition("=")[::2] for parameter in parameters)


def request(path: str, headers: Mapping[str, str] | None = None) -> bytes:
    """Return a handshake; a header given as "" is left out."""
    standard = {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
    }
    return http_request("GET", path, {**standard, **(headers or {})})


def http_request(method: str, path: str, headers: Mapping[str, str]) -> bytes:
    """Return the head of a request; a header given as "" is left out."""
    lines = [f"{name}: {value}" for name, value in {"Host": "127.0.0.1", **headers}.items() if value]
    return "\r\n".join([f"{method} /{path} HTTP/1.1", *lines, "", ""]).encode()


class RawClient:
    """One TCP connection to a server, and the frames that it is spoken to in."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self.writer = reader, writer
        self.answer: Answer = Answer(0, {}, b"")
        self._inflate: zlib._Decompress | None = None
        self.compressed = 0
        """How many compressed messages came."""

    # Out

    def send(self, *frames: Frame) -> None:
        """Write frames as one piece."""
        self.write(b"".join(frame.encode() for frame in frames))

    def send_text(self, content: str) -> None:
        self.send(text(content))

    def ping(self, payload: bytes) -> None:
        self.send(Frame(Op.PING, payload))

    def write(self, data: bytes) -> None:
        self.writer.write(data)

    async def write_pieces(self, pieces: Sequence[bytes]) -> None:
        """Write each in a segment of its own, as far as the kernel lets us."""
        for piece in pieces:
            self.writer.write(piece)
            await self.drain()
            await asyncio.sleep(0)

    async def drain(self) -> None:
        async with asyncio.timeout(ANSWER_S):
            await self.writer.drain()

    def stop_reading(self) -> None:
        """Let the kernel's buffers fill."""
        self.writer.transport.pause_reading()  # type: ignore[attr-defined]  # asyncio's transports have it

    def read_on(self) -> None:
        self.writer.transport.resume_reading()  # type: ignore[attr-defined]  # asyncio's transports have it

    def reset(self) -> None:
        """End the TCP connection with RST."""
        connection: socket.socket = self.writer.get_extra_info("socket")
        with suppress(OSError):  # the server was quicker: it had given us up as a slow consumer
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self.writer.transport.abort()

    @property
    def unsent(self) -> int:
        """Bytes that the kernel has not taken yet, since the server does not read."""
        return self.writer.transport.get_write_buffer_size()

    # In

    async def shake_hands(self, within_s: float = ANSWER_S) -> Answer:
        """Read the answer to a handshake or another request; the body too when the status is not 101."""
        async with asyncio.timeout(within_s):
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            status, *lines = head.rstrip().split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
            is_over = status.split()[1] != "101"
            body = await self._reader.readexactly(int(headers.get("content-length", 0))) if is_over else b""
        self.answer = Answer(int(status.split()[1]), headers, body)
        return self.answer

    async def frame(self) -> Frame | None:
        """Return the next frame; None when the server has ended the connection."""
        async with asyncio.timeout(ANSWER_S):
            try:
                return await self._read_frame()
            except (asyncio.IncompleteReadError, ConnectionError):
                return None

    async def _read_frame(self) -> Frame:
        first, second = await self._reader.readexactly(2)
        assert second < 0x80, "a server never masks"
        length = second
        if second == 126:
            (length,) = struct.unpack("!H", await self._reader.readexactly(2))
        elif second == 127:
            (length,) = struct.unpack("!Q", await self._reader.readexactly(8))
        payload = await self._reader.readexactly(length)
        return Frame(first & 15, payload, bool(first >> 7), (first >> 4) & 7, None)

    async def message(self) -> str | bytes:
        """Return the next message, decompressed; pings and pongs are passed over."""
        while True:
            frame = await self.frame()
            assert frame is not None, "the connection has ended"
            assert frame.opcode != Op.CLOSE, f"closed with {closing(frame)}"
            if frame.opcode in (Op.TEXT, Op.BINARY):
                return self.decode(frame)

    def decode(self, frame: Frame) -> str | bytes:
        assert frame.fin
        data = frame.payload
        if frame.rsv:
            assert frame.rsv == RSV1
            data = self._decompressed(data)
        return data.decode() if frame.opcode == Op.TEXT else data

    def _decompressed(self, data: bytes) -> bytes:
        self.compressed += 1
        parameters = self.answer.deflate
        assert parameters is not None, "compression was not agreed on"
        if self._inflate is None or "server_no_context_takeover" in parameters:
            # Exactly what was agreed on: a larger window of the server's would corrupt its messages here.
            self._inflate = zlib.decompressobj(-int(parameters.get("server_max_window_bits", "15")))
        return self._inflate.decompress(data + DEFLATE_TAIL)

    async def rest(self) -> list[Frame]:
        """Return everything that comes until the server ends the TCP connection; answer its close frame."""
        frames = []
        while (frame := await self.frame()) is not None:
            frames.append(frame)
            if frame.opcode == Op.CLOSE:
                self.send(Frame(Op.CLOSE, frame.payload))
        return frames

    async def ending(self) -> tuple[int, str]:
        """Return how the server closed, once it has ended the connection; what comes before is passed over.

        Its close frame must be its last word, but for answers to pings. (1006, "") when there was none.
        """
        frames = [frame for frame in await self.rest() if frame.opcode != Op.PONG]
        codes = [closing(frame) for frame in frames if frame.opcode == Op.CLOSE]
        assert not codes or frames[-1].opcode == Op.CLOSE, "something was written after the close frame"
        assert len(codes) <= 1, "more than one close frame"
        return codes[0] if codes else (1006, "")

    async def say(self, content: str) -> str | bytes:
        """Send a text and return the next message."""
        self.send(text(content))
        return await self.message()


def closing(frame: Frame) -> tuple[int, str]:
    """Return code and reason of a close frame."""
    if not frame.payload:
        return 1005, ""
    return struct.unpack("!H", frame.payload[:2])[0], frame.payload[2:].decode()


@asynccontextmanager
async def dialled(port: int, trust: ssl.SSLContext | None = None) -> AsyncIterator[RawClient]:
    """Connect, and say nothing yet."""
    async with asyncio.timeout(ANSWER_S):
        # The reader's limit lets the kernel's buffers fill when nobody reads.
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trust, limit=2**16)
    try:
        yield RawClient(reader, writer)
    finally:
        writer.transport.abort()
        with suppress(OSError):
            await writer.wait_closed()
