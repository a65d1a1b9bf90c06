"""The parser of ``websockets``, one frame at a time, and the compression that it agrees to."""

from collections.abc import Generator, Sequence

from websockets.exceptions import NegotiationError
from websockets.extensions import Extension
from websockets.extensions.permessage_deflate import PerMessageDeflate, ServerPerMessageDeflateFactory
from websockets.protocol import Protocol
from websockets.streams import StreamReader
from websockets.typing import ExtensionParameter

from ..wire import frames


class FrameReader(StreamReader):
    """Input of a parser that stops in front of each frame.

    A few bytes can be thousands of frames, and a few frames of deflate megabytes of messages.

    Attributes:
        may_begin: Whether the parser may begin one more frame; it clears this when it does.
        is_between_frames: Whether the parser waits in front of a frame, for input or for ``may_begin``.
    """

    def __init__(self, unread: bytes | bytearray) -> None:
        super().__init__()
        self.buffer += unread
        self.may_begin: bool = False
        self.is_between_frames: bool = True

    def at_eof(self) -> Generator[None, None, bool]:
        """Return whether the input has ended; the parser asks in front of each frame."""
        self.is_between_frames = True
        while not (self.may_begin and (self.buffer or self.eof)):
            yield
        self.may_begin = self.is_between_frames = False
        return not self.buffer


def frame_by_frame(connection: Protocol) -> FrameReader:
    """Make a connection whose handshake was parsed stop in front of each frame.

    The parser that read the handshake keeps the request; the new one does not.
    """
    reader = connection.reader = FrameReader(connection.reader.buffer)
    connection.parser = Protocol.parse(connection)
    next(connection.parser)
    return reader


class DeflateFactory(ServerPerMessageDeflateFactory):
    """permessage-deflate without context takeover, in a window of at most 4 KiB.

    One compressed frame then serves every socket, and an idle socket keeps no decoder of 7 KiB.
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
        """Answer an offer.

        Raises:
            NegotiationError: The offer cannot be accepted; the handshake goes on without this extension.
        """
        if ("server_max_window_bits", "8") in params:
            # zlib has no raw deflate with that window. Releases of websockets before 17.2 agree to it.
            raise NegotiationError("server_max_window_bits=8 is not possible")
        answer, extension = super().process_request_params(params, accepted_extensions)
        if all(name != "server_max_window_bits" for name, _ in params):
            # A smaller window than asked for is always allowed. Some clients refuse an answer that names it unasked.
            answer = [(name, value) for name, value in answer if name != "server_max_window_bits"]
        return answer, extension


def largest_frame(max_message_size: int) -> int:
    """Return the most bytes that a compressed message of ``max_message_size`` bytes may have on the wire.

    Input that does not compress grows: by an eighth with the smallest memory level of zlib (``deflateBound``).
    """
    return max_message_size + max_message_size // 8 + 64
