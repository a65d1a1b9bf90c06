"""The parser of ``websockets``, one frame at a time, and the negotiation of compression."""

from collections.abc import Generator, Sequence

from websockets.exceptions import NegotiationError
from websockets.extensions import Extension
from websockets.extensions.permessage_deflate import PerMessageDeflate, ServerPerMessageDeflateFactory
from websockets.protocol import Protocol
from websockets.streams import StreamReader
from websockets.typing import ExtensionParameter

from ..wire import frames


class FrameReader(StreamReader):
    """Input of a parser that stops before each frame.

    The reason is that a few bytes can be thousands of frames, and a few deflated frames can be megabytes.

    Attributes:
        may_begin: Whether the parser may begin one more frame. Cleared when it begins.
        is_between_frames: Whether the parser waits before a frame, for input or for ``may_begin``.
    """

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
    ) -> tuple[list[ExtensionParameter], PerMessageDeflate]:
        """Return the response to an offer, and the extension.

        Raises:
            NegotiationError: The offer cannot be accepted. The handshake continues without this extension.
        """
        if ("server_max_window_bits", "8") in params:
            # zlib has no raw deflate with this window, but releases of websockets before 17.2 accept it.
            raise NegotiationError("server_max_window_bits=8 is not possible")
        answer, extension = super().process_request_params(params, accepted_extensions)
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
