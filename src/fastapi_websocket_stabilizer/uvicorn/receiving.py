"""The reading half of the uvicorn class: backpressure, and a bounded share of each turn of the event loop."""

import asyncio
import select
from io import BytesIO
from typing import Any, Literal, cast

from uvicorn._types import ASGIReceiveEvent
from uvicorn.config import Config
from uvicorn.logging import TRACE_LOG_LEVEL
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.exceptions import PayloadTooBig, ProtocolError
from websockets.frames import Close, CloseCode, Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import State
from websockets.typing import BytesLike

from .. import close_codes
from ..local.transport import Observer
from ..wire import frames
from .intake import BYTES_PER_FRAME, MESSAGE_COST, Intake
from .parsing import DeflateFactory, FrameReader, SlicedDeflate, frame_by_frame, largest_frame

FRAMES_AT_ONCE = 8
"""Frames of one socket that are parsed in one turn of the event loop, unless ``inbound_frames_per_turn`` is set."""
LEAST_MAX_FRAGMENTS = 16_384
"""Least bound on the fragments of a message, whatever its size. Empty fragments take no memory, but time."""
BYTES_PER_FRAGMENT = 64
"""Smallest average fragment, in bytes, of a message of ``max_message_size``. Frames with less content are paced."""
HEAVY_BYTES = 131_072
"""Content of a message in bytes above which its socket is heavy."""
HUNG_UP = getattr(select, "POLLRDHUP", 0)
"""The event of a peer that sends no more; POLLHUP and POLLERR are always reported. Only Linux has it."""
DEFLATE = DeflateFactory()


class ReceivingProtocol(WebSocketsSansIOProtocol, asyncio.BufferedProtocol):
    """uvicorn's WebSocket class with backpressure: it reads no faster than the application receives.

    Nothing is read before the application accepts the socket. Then the parser stops after each message until the
    application has taken it, and after ``frames_at_once`` frames until a later turn of the event loop.

    Attributes:
        window_bits: Window of the negotiated deflate for sent messages; 0 for none.
        frames_at_once: Frames that are parsed in one turn of the event loop.
    """

    # Attributes of uvicorn's class that are used here.
    conn: Any
    curr_msg_data_type: Literal["text", "bytes"]
    queue: asyncio.Queue[ASGIReceiveEvent]
    read_paused: bool
    handshake_complete: bool
    close_timer: asyncio.TimerHandle | None

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        if self.conn.available_extensions:
            self.conn.available_extensions = [DEFLATE]
        self.window_bits: int = 0
        self.frames_at_once: int = FRAMES_AT_ONCE
        self._observers: tuple[Observer, ...] = ()  # one per id that the socket is registered under
        self._intake = Intake.of(self.loop)
        self._reader: FrameReader | None = None  # set when the handshake has been read
        self._deflate: SlicedDeflate | None = None  # set if compression was agreed on
        self._is_full = True  # the application must first accept the socket or take a message
        self._is_waiting = False  # for a later turn of the event loop
        self._is_heavy = False  # the last part overdrew a turn, or had almost no content (control frames)
        self._is_inflating = False  # a part of the last frame is still to be inflated
        self._is_accepted = self._has_peer_gone = self._is_refused = False
        self._has_pinged = False  # pongs are to be written
        self._fragments = 0
        self._carried = 0  # bytes received so far of an incomplete message
        self._parts: BytesIO | None = None  # the message, if it came in several parts
        self._max_message_size: int = self.conn.max_message_size or 0  # 0: no bound
        self._last: ASGIReceiveEvent | None = None  # the disconnect, held back until all messages are parsed

    @property
    def is_reading(self) -> bool:
        """False while the socket is not read because the application does not keep up."""
        return not self._is_full or self.disconnected

    def limit_messages(self, max_message_size: int) -> None:
        """Refuse messages of more than ``max_message_size`` inflated bytes. The limit never grows."""
        limit = min(self._max_message_size or max_message_size, max_message_size)
        self._max_message_size = limit
        self.conn.max_message_size = largest_frame(limit) if self.conn.extensions else limit

    # Handshake

    def handle_connect(self, event: Request) -> None:
        if any(agent.startswith("Tornado/") for agent in event.headers.get_all("User-Agent")):
            # Tornado's client (6.6) ignores client_no_context_takeover. Its messages could not be inflated.
            self.conn.available_extensions = []
        super().handle_connect(event)
        if self.close_sent:
            return
        for extension in self.conn.extensions:
            self._deflate = cast("SlicedDeflate", extension)
            self.window_bits = self._deflate.local_max_window_bits
        if self._max_message_size:
            self.limit_messages(self._max_message_size)
        del self.request  # an open socket needs no request; the new parser does not keep it either
        self._reader = frame_by_frame(self.conn)
        self._pause()

    def accepted(self) -> None:
        """Begin to read, because the application has accepted the socket."""
        self._is_accepted = True
        self.resume_reading()

    def _answer_bad_request(self) -> None:
        """Answer a malformed request. Without an answer the peer would wait indefinitely."""
        if self.conn.handshake_exc is None or self.handshake_initiated:
            return
        answer = b"".join(self.conn.data_to_send())
        if not answer:  # newer releases of websockets answer requests that are too long themselves
            cause = self.conn.handshake_exc.__cause__ or self.conn.handshake_exc
            answer = self.conn.reject(400, f"Failed to open a WebSocket connection: {cause}.\n").serialize()
        self.handshake_complete = self.close_sent = True
        self.transport.write(answer)
        self.transport.close()

    # Called by the transport

    def get_buffer(self, sizehint: int) -> memoryview:
        # With TLS, asyncio reads only once more after the peer has gone, so all of sizehint must fit. Without TLS
        # sizehint is -1.
        return self._intake.buffer_of(sizehint)

    def buffer_updated(self, nbytes: int) -> None:
        self.data_received(bytes(self._intake.buffer[:nbytes]))

    def data_received(self, data: bytes) -> None:
        for observer in self._observers:
            observer.heard()
        reader = self._reader
        if reader is None:
            super().data_received(data)
            self._answer_bad_request()
        elif self._is_full or self._is_waiting or self._is_heavy:
            reader.feed_data(data)
            self._read_later()
        else:
            self._intake.arrive()
            self._parse(reader, data)

    def parse_on(self) -> None:
        """Parse the next part of the received data, and charge this turn of the event loop."""
        was_heavy = self._is_heavy
        self._is_waiting = self._is_heavy = False
        if self._reader is not None and not self._is_full:
            if self._is_inflating:
                frames = self._inflate_on(self._reader, first=was_heavy)
            else:
                frames = self._parse(self._reader, b"")
            self._intake.spend(frames + MESSAGE_COST * self._is_full)

    def resume_reading(self, *, soon: bool = False) -> None:
        """Continue reading, because the application has taken the last message.

        With ``soon``, continue in the next turn. The application can then answer before a later frame closes the
        socket.
        """
        if not self._is_accepted or not self._is_full:
            return
        self._is_full = False
        if not self._has_more:
            self._read_on()
        elif not self._intake.has_room or self._is_heavy:
            self._read_later()
        elif not soon:
            self.parse_on()
        elif not self._is_waiting:
            self._is_waiting = True
            self._intake.wait(self)

    async def receive(self) -> ASGIReceiveEvent:
        event = await self.queue.get()
        if self.queue.empty():
            self.resume_reading(soon=True)
        return event

    def eof_received(self) -> None:
        self._has_peer_gone = True

    def connection_lost(self, exc: Exception | None) -> None:
        # Replaces uvicorn's method, whose disconnect would overtake messages that were received before it.
        self.stop_keepalive()
        self.connections.discard(self)
        if self._last is None:
            self._last = {"type": "websocket.disconnect", "code": close_codes.ABNORMAL}
        self._has_peer_gone = self.handshake_complete = self.disconnected = True
        self.writable.set()
        if self.close_timer is not None:
            self.close_timer.cancel()
            self.close_timer = None
        self.transport.close()  # otherwise a send that waited for the write buffer would find the socket open
        self.logger.log(TRACE_LOG_LEVEL, "%s:%d - WebSocket connection lost", *(self.client or ("", 0)))
        if not self._is_accepted or self._reader is None:
            self.queue.put_nowait(self._last)
        elif not self._is_full and not self._is_waiting:
            self._parse(self._reader, b"")

    # Parsing

    @property
    def _has_more(self) -> bool:
        """Whether there is unparsed data, or a disconnect to report."""
        has_unparsed = self._reader is not None and bool(self._reader.buffer)
        return self._last is not None or has_unparsed or self._is_inflating

    def _parse(self, reader: FrameReader, data: bytes) -> int:
        """Parse up to the next message, within this socket's share of the turn. Return the number of frames."""
        parsed = self._parse_some(reader, data)
        if self._has_pinged:
            self._has_pinged = False
            pongs = b"".join(self.conn.data_to_send())
            if pongs and not self.transport.is_closing():  # else a close frame has taken them along
                self.transport.write(pongs)
        return parsed

    def _parse_some(self, reader: FrameReader, data: bytes) -> int:
        parsed, carried = 0, self._carried
        while self._may_parse and not self._is_full:
            if parsed == self.frames_at_once or self._is_inflating:
                is_empty = self._carried - carried < parsed * BYTES_PER_FRAGMENT
                self._is_heavy |= is_empty and not self._has_hung_up
                self._read_later()
                return parsed
            reader.may_begin = reader.is_between_frames
            super().data_received(data)
            data = b""
            if not reader.is_between_frames:
                break  # the rest of the frame has not arrived
            parsed += 1
            if not reader.buffer and not self._is_inflating:
                break
        else:
            if data:
                reader.feed_data(data)
        if self._is_full and reader.buffer:
            self._read_later()
        elif not self._is_full:
            self._read_on()
        return parsed

    def _inflate_on(self, reader: FrameReader, *, first: bool) -> int:
        """Inflate the next slice of the last frame. Return the number of frames, of which a slice is one.

        With ``first``, the slice after it comes before other heavy sockets. So one long message after the other is
        inflated, and only one is in memory. A message that has just become long waits behind the others.
        """
        deflate = cast("SlicedDeflate", self._deflate)
        try:
            content = deflate.inflate()
        except ProtocolError as error:
            self._is_inflating = False
            self._refuse(CloseCode.PROTOCOL_ERROR, str(error))
            return 1
        self._is_inflating = deflate.has_more
        self._append(content, is_end=deflate.is_last and not deflate.has_more)
        if not self._is_inflating:
            return 1 + self._parse(reader, b"")
        self._read_later(first=first)
        return 1

    @property
    def _has_hung_up(self) -> bool:
        """Whether the peer has closed its side. No event says so while the socket is not read."""
        peer = self.transport.get_extra_info("socket")
        if self._has_peer_gone or peer is None:
            return self._has_peer_gone
        poll = select.poll()
        poll.register(peer.fileno(), HUNG_UP)
        return bool(poll.poll(0))

    @property
    def _may_parse(self) -> bool:
        if self.conn.parser_exc is not None or self.conn.close_rcvd is not None:
            return False
        return not self.close_sent if self._has_peer_gone else not self.transport.is_closing()

    def _read_later(self, *, first: bool = False) -> None:
        """Stop reading. Parsing continues in a later turn, or when the application has taken its message."""
        self._pause()
        if not self._is_full and not self._is_waiting:
            self._is_waiting = True
            self._intake.wait(self, heavy=self._is_heavy, first=first)
            for observer in self._observers:
                observer.deferred()

    def _read_on(self) -> None:
        """Read from the socket again, or report its end: all received data is parsed and taken."""
        if self._last is not None:
            self.queue.put_nowait(self._last)
            self._last, self._is_full = None, True
        elif self.read_paused and not self.transport.is_closing():
            self.read_paused = False
            self.transport.resume_reading()

    def _pause(self) -> None:
        if not self.read_paused and not self.transport.is_closing():
            self.read_paused = True
            self.transport.pause_reading()

    # Called by the parser. It keeps its last frame until the next one, so the content of each frame is dropped here.
    # Otherwise an idle socket would keep its last message in memory.

    def handle_text(self, event: Frame) -> None:
        self.curr_msg_data_type = "text"
        self._take(event)

    def handle_bytes(self, event: Frame) -> None:
        self.curr_msg_data_type = "bytes"
        self._take(event)

    def handle_cont(self, event: Frame) -> None:
        self._fragments += 1
        most = max(LEAST_MAX_FRAGMENTS, self._max_message_size // BYTES_PER_FRAGMENT)
        if self._fragments < most or self.close_sent:  # the first frame is not counted here
            self._take(event)
        else:
            self._refuse(close_codes.POLICY_VIOLATION, f"more than {most} fragments")

    def _take(self, event: Frame) -> None:
        if self._deflate is not None:
            self._is_inflating = self._deflate.has_more
        content, event.data = event.data, b""
        self._append(content, is_end=event.fin and not self._is_inflating)

    def _append(self, content: BytesLike, *, is_end: bool) -> None:
        """Add content to the message, charge this turn with it, and give the whole message to the application."""
        size = self._carried + len(content)
        if cost := len(content) // BYTES_PER_FRAME:
            self._intake.spend(cost)
        if size > HEAVY_BYTES:  # also if its last slice is empty
            self._is_heavy = True
        if self.close_sent:
            return  # too late for the application; reading continues up to the peer's close frame
        if self._max_message_size and size > self._max_message_size:
            limit = self._max_message_size
            reason = f"{size} bytes, the limit is {limit}" if is_end else f"more than {limit} bytes"
            self._refuse(close_codes.TOO_LARGE, reason)
        elif is_end and self._parts is None:
            self._give(content)
        else:
            # A list would take 60 bytes for each empty fragment. The content of a BytesIO becomes bytes without a
            # copy, which would take 0.7 ms for 1 MiB.
            self._parts = self._parts or BytesIO()
            self._parts.write(content)
            self._carried = size
            if is_end:
                message = self._parts.getvalue()
                self._parts, self._carried, self._fragments = None, 0, 0
                self._give(message)

    def _give(self, message: BytesLike) -> None:
        if self.curr_msg_data_type == "bytes":
            self._receive({"type": "websocket.receive", "bytes": bytes(message)})
            return
        try:
            self._receive({"type": "websocket.receive", "text": str(message, "utf-8")})
        except UnicodeDecodeError:  # uvicorn would log a traceback for each such message
            self._refuse(close_codes.INVALID_DATA, "text is not UTF-8")

    def _receive(self, event: ASGIReceiveEvent) -> None:
        self._is_full = True
        self.queue.put_nowait(event)

    def _refuse(self, code: int, reason: str) -> None:
        if self.conn.state is State.OPEN:  # otherwise a close frame in the same read is already answered
            self.conn.fail(code, reason)
        self.handle_parser_exception()

    def handle_ping(self) -> None:
        if self.close_sent or self.transport.is_closing() or not self.writable.is_set():
            self.conn.data_to_send()  # drop the pong: for a peer that reads none, pongs would fill the memory
        else:
            self._has_pinged = True  # the pongs of one turn are written together

    def handle_close(self, event: Frame) -> None:
        left = self.conn.close_rcvd
        if not self._has_peer_gone or self.close_sent or left is None:
            super().handle_close(event)
        else:  # the peer did not wait for an answer
            self._last = {"type": "websocket.disconnect", "code": left.code, "reason": left.reason}

    def handle_parser_exception(self) -> None:
        if self.disconnected:
            return
        self._is_refused = True
        if self.close_sent:  # no frame may follow a close frame
            self.transport.close()
            return
        if self.conn.extensions and isinstance(self.conn.parser_exc, PayloadTooBig):
            # The parser's reason names the limit of a compressed message, which users do not know.
            close = Close(close_codes.TOO_LARGE, f"more than {self._max_message_size} bytes")
            self.conn.close_sent = close
            self.conn.data_to_send()
            self.transport.write(frames.frame(Opcode.CLOSE, close.serialize()))
        super().handle_parser_exception()
        if self.conn.close_sent is not None:
            for observer in self._observers:
                observer.refused(self.conn.close_sent.code)
