"""The parser of ``websockets``, one frame at a time, and the negotiation of compression."""

import zlib
from collections.abc import Generator, Sequence
from typing import Any

from websockets.exceptions import NegotiationError, ProtocolError
from websockets.extensions import Extension
from websockets.extensions.permessage_deflate import PerMessageDeflate, ServerPerMessageDeflateFactory
from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol
from websockets.streams import StreamReader
from websockets.typing import BytesLike, ExtensionParameter

from ..wire import frames

SLICE_BYTES = 32_768
"""Largest content that is inflated at once: 0.1 ms."""
END_OF_BLOCK = b"\0\0\xff\xff"
"""Bytes that a sender omits at the end of a compressed message (RFC 7692, section 7.2.1)."""


class FrameReader(StreamReader):
    """Input of a parser that stops before each frame.

    The reason is that a few bytes can be thousands of frames, and a few deflated frames can be megabytes.

    Attributes:
        may_begin: Whether the parser may begin one more frame. Cleared when it begins.
        is_between_frames: Whether the parser waits before a frame, for input or for ``may_begin``.
    """

    __slots__ = ("buffer", "eof", "is_between_frames", "may_begin")  # without a dictionary, 200 bytes less

    # Attributes of the class of websockets.
    buffer: bytearray
    eof: bool

    def __init__(self, unread: bytes | bytearray) -> None:
        super().__init__()
        self.buffer += unread
        self.may_begin: bool = False
        self.is_between_frames: bool = True

    def at_eof(self) -> Generator[None, None, bool]:
        """Return whether the input has ended. The parser calls this before each frame."""
        self.is_between_frames = True
        while not (self.may_begin and (self.buffer or self.eof)):
            yield
        self.may_begin = self.is_between_frames = False
        return not self.buffer


def frame_by_frame(connection: Protocol) -> FrameReader:
    """Return the reader of a new parser that stops before each frame. Call this after the handshake.

    The former parser keeps the request in memory, the new one does not.
    """
    reader = connection.reader = FrameReader(connection.reader.buffer)
    connection.parser = Protocol.parse(connection)
    next(connection.parser)
    return reader


class SlicedDeflate(PerMessageDeflate):
    """permessage-deflate without context takeover that inflates a frame in slices.

    The parser gets the first slice as the content of the frame. Inflating 1 MiB at once would stop the event loop for
    several milliseconds.

    Attributes:
        has_more: Whether ``inflate`` has more content of the last frame.
        is_last: Whether that frame ends its message.
    """

    # Attributes of the class of websockets that are used here.
    decode_cont_data: bool
    decoder: Any

    has_more: bool = False
    is_last: bool = False
    _rest: memoryview = memoryview(b"")

    def decode(self, frame: Frame, *, max_size: int | None = None) -> Frame:
        """Return a frame with the first slice of its content. Its limit is left to the caller of ``inflate``."""
        if frame.opcode is Opcode.CONT:
            if not self.decode_cont_data:
                return frame
            if frame.rsv1:
                raise ProtocolError("RSV1 bit set in continuation frame")
        elif not frame.rsv1 or frame.opcode not in (Opcode.TEXT, Opcode.BINARY):
            return frame
        else:
            self.decoder = zlib.decompressobj(wbits=-self.remote_max_window_bits)
        self.decode_cont_data, self.is_last = not frame.fin, frame.fin
        data = frame.data
        frame.data, frame.rsv1 = self._inflate(bytes(data) + END_OF_BLOCK if frame.fin else data), False
        return frame

    def inflate(self) -> bytes:
        """Return the next slice of the content of the last frame.

        Raises:
            ProtocolError: The frame is no deflated data.
        """
        return self._inflate(self._rest)

    def _inflate(self, data: BytesLike) -> bytes:
        decoder = self.decoder
        given = data if len(data) <= SLICE_BYTES else memoryview(data)[:SLICE_BYTES]
        try:
            content: bytes = decoder.decompress(given, SLICE_BYTES)
        except zlib.error as error:
            raise ProtocolError("decompression failed") from error
        used = len(given) - len(decoder.unconsumed_tail)
        self.has_more = used < len(data) or len(content) == SLICE_BYTES
        if self.has_more:
            self._rest = memoryview(data)[used:]
        elif self.is_last:
            del self.decoder  # 7 KiB
        return content


class DeflateFactory(ServerPerMessageDeflateFactory):
    """permessage-deflate without context takeover, in a window of at most 4 KiB.

    So one compressed frame serves every socket, and an idle socket keeps no decoder of 7 KiB.
    """

    def __init__(self) -> None:
        super().__init__(
            server_no_context_takeover=True,
            client_no_context_takeover=True,
            server_max_window_bits=frames.WINDOW_BITS,
            client_max_window_bits=frames.WINDOW_BITS,
            compress_settings={"memLevel": frames.MEMORY_LEVEL},
        )

    def process_request_params(
        self, params: Sequence[ExtensionParameter], accepted_extensions: Sequence[Extension]
    ) -> tuple[list[ExtensionParameter], SlicedDeflate]:
        """Return the response to an offer, and the extension.

        Raises:
            NegotiationError: The offer cannot be accepted. The handshake continues without this extension.
        """
        if ("server_max_window_bits", "8") in params:
            # zlib has no raw deflate with this window, but releases of websockets before 17.2 accept it.
            raise NegotiationError("server_max_window_bits=8 is not possible")
        answer, agreed = super().process_request_params(params, accepted_extensions)
        extension = SlicedDeflate(
            agreed.remote_no_context_takeover,
            agreed.local_no_context_takeover,
            agreed.remote_max_window_bits,
            agreed.local_max_window_bits,
            agreed.compress_settings,
        )
        if all(name != "server_max_window_bits" for name, _ in params):
            # A smaller window than offered needs no mention. Some clients refuse a response with a parameter that
            # they did not offer.
            answer = [(name, value) for name, value in answer if name != "server_max_window_bits"]
        return answer, extension


def largest_frame(max_message_size: int) -> int:
    """Return the largest compressed size in bytes of a message of ``max_message_size`` bytes.

    Incompressible input grows by up to an eighth with the smallest memory level of zlib (``deflateBound``).
    """
    return max_message_size + max_message_size // 8 + 64
