"""Reading for the uvicorn class: no more than the application takes, and a bounded share of each turn of the loop."""

import asyncio
from typing import Any, cast

from uvicorn._types import ASGIReceiveEvent
from uvicorn.config import Config
from uvicorn.logging import TRACE_LOG_LEVEL
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.exceptions import PayloadTooBig
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Close, Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import State

from .. import close_codes
from ..local.line import LineObserver
from ..wire import frames
from .intake import BYTES_PER_FRAME, FRAMES_PER_TURN, MESSAGE_COST, Intake
from .parsing import DeflateFactory, FrameReader, frame_by_frame, largest_frame

FRAMES_AT_ONCE = 8
"""Frames of one socket that are parsed in one turn of the event loop, unless ``inbound_frames_per_turn`` is set."""
LEAST_MAX_FRAGMENTS = 16_384
"""Fragments that a message may have, whatever its size; empty ones cost no memory but time."""
BYTES_PER_FRAGMENT = 64
"""A message of ``max_message_size`` may come in fragments of this size. Frames that carry less are paced."""
DEFLATE = DeflateFactory()


class ReceivingProtocol(WebSocketsSansIOProtocol, asyncio.BufferedProtocol):
    """uvicorn's WebSocket class, which reads only what the application takes.

    Nothing is read before the application accepts the socket. Then the parser stops behind each message until the
    application has taken it, and after ``frames_at_once`` frames until the next turn of the event loop.

    Attributes:
        window_bits: Of the deflate that was agreed on for what we send; 0 for none.
        frames_at_once: Frames that are parsed in one turn of the event loop.
    """

    # Uvicorn's attributes that are used here.
    conn: Any
    frames: list[bytes]
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
        self._observers: tuple[LineObserver, ...] = ()  # one, unless it is registered under several ids
        self._intake = Intake.of(self.loop)
        self._reader: FrameReader | None = None  # since the handshake was read
        self._is_full = True  # the application has to accept the socket, or to take a message, first
        self._is_waiting = False  # for a later turn of the event loop
        self._is_heavy = False  # its last part overdrew a turn, or carried next to nothing: control frames
        self._is_accepted = self._has_peer_gone = self._is_refused = False
        self._fragments = 0
        self._max_message_size: int = self.conn.max_message_size or 0  # 0: no bound
        self._last: ASGIReceiveEvent | None = None  # the disconnect, behind what was received before it

    @property
    def is_reading(self) -> bool:
        """False while the application does not keep up with what comes in."""
        return not self._is_full or self.disconnected

    def limit_messages(self, max_message_size: int) -> None:
        """Refuse longer messages; compressed ones are measured when they are inflated."""
        limit = min(self._max_message_size or max_message_size, max_message_size)
        self._max_message_size = limit
        self.conn.max_message_size = largest_frame(limit) if self.conn.extensions else limit

    # The handshake

    def handle_connect(self, event: Request) -> None:
        if any(agent.startswith("Tornado/") for agent in event.headers.get_all("User-Agent")):
            # Its client overlooks client_no_context_takeover, and sends what cannot be inflated (Tornado 6.6).
            self.conn.available_extensions = []
        super().handle_connect(event)
        if self.close_sent:
            return
        for extension in self.conn.extensions:
            self.window_bits = cast("PerMessageDeflate", extension).local_max_window_bits
        if self._max_message_size:
            self.limit_messages(self._max_message_size)
        del self.request  # the parser forgets it too
        self._reader = frame_by_frame(self.conn)
        self._pause()

    def accepted(self) -> None:
        """Begin to read: the application has accepted the socket."""
        self._is_accepted = True
        self.resume_reading()

    def _answer_bad_request(self) -> None:
        """Answer a request that the parser gave up on; without an answer the peer would wait for ever."""
        if self.conn.handshake_exc is None or self.handshake_initiated:
            return
        answer = b"".join(self.conn.data_to_send())
        if not answer:  # newer releases of websockets have one for what is too long
            cause = self.conn.handshake_exc.__cause__ or self.conn.handshake_exc
            answer = self.conn.reject(400, f"Failed to open a WebSocket connection: {cause}.\n").serialize()
        self.handshake_complete = self.close_sent = True
        self.transport.write(answer)
        self.transport.close()

    # What the transport calls

    def get_buffer(self, sizehint: int) -> memoryview:
        # asyncio's TLS reads only once more when its peer has gone, and says how much there is; -1 without TLS.
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
        elif self._intake.is_spent:
            reader.feed_data(data)
            self._pause()
            self._is_waiting = True
            self._intake.arrive(self)
        else:
            self._parse(reader, data)

    def parse_on(self) -> None:
        """Parse the next part of what was received already, at the expense of this turn."""
        self._is_waiting = self._is_heavy = False
        if self._reader is not None and not self._is_full:
            frames = self._parse(self._reader, b"")
            self._intake.spend(frames + MESSAGE_COST * self._is_full)

    def resume_reading(self, *, soon: bool = False) -> None:
        """Read on: the application has taken what was received.

        With ``soon`` in the next turn of the loop: the application may answer before a later frame ends the socket.
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
        # Not uvicorn's: its disconnect would overtake messages that were received before it.
        self.stop_keepalive()
        self.connections.discard(self)
        if self._last is None:
            code = close_codes.NO_STATUS if self.handshake_complete else close_codes.ABNORMAL
            self._last = {"type": "websocket.disconnect", "code": code}
        self._has_peer_gone = self.handshake_complete = self.disconnected = True
        self.writable.set()
        if self.close_timer is not None:
            self.close_timer.cancel()
            self.close_timer = None
        self.transport.close()  # a send that waited for room must find the socket closed
        self.logger.log(TRACE_LOG_LEVEL, "%s:%d - WebSocket connection lost", *(self.client or ("", 0)))
        if not self._is_accepted or self._reader is None:
            self.queue.put_nowait(self._last)
        elif not self._is_full and not self._is_waiting:
            self._parse(self._reader, b"")

    # Parsing

    @property
    def _has_more(self) -> bool:
        """Whether something is left to parse, or to say."""
        return self._last is not None or (self._reader is not None and bool(self._reader.buffer))

    def _parse(self, reader: FrameReader, data: bytes) -> int:
        """Parse up to the next message, within this socket's share of the turn; return the number of frames."""
        parsed, carried = 0, self._carried
        while self._may_parse and not self._is_full:
            if parsed == self.frames_at_once:
                self._is_heavy |= self._carried - carried < parsed * BYTES_PER_FRAGMENT
                self._read_later()
                return parsed
            reader.may_begin = reader.is_between_frames
            super().data_received(data)
            data = b""
            if not reader.is_between_frames:
                break  # the rest of the frame is still to come
            parsed += 1
            if not reader.buffer:
                break
        else:
            if data:
                reader.feed_data(data)
        if self._is_full and reader.buffer:
            self._read_later()
        elif not self._is_full:
            self._read_on()
        return parsed

    @property
    def _carried(self) -> int:
        """Bytes of the message that is not complete yet."""
        return len(self.frames[0]) if self.frames else 0

    @property
    def _may_parse(self) -> bool:
        if self.conn.parser_exc is not None or self.conn.close_rcvd is not None:
            return False
        return not self.close_sent if self._has_peer_gone else not self.transport.is_closing()

    def _read_later(self) -> None:
        """Read no more, and parse on in a later turn, or when the application has taken what it was given."""
        self._pause()
        if not self._is_full and not self._is_waiting:
            self._is_waiting = True
            self._intake.wait(self, heavy=self._is_heavy)
            for observer in self._observers:
                observer.deferred()

    def _read_on(self) -> None:
        """All that was received is parsed and taken."""
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

    # What the parser found. It holds its last frame until the next one: an idle socket must not keep its content.

    def handle_text(self, event: Frame) -> None:
        super().handle_text(event)
        self._spend_for(event)

    def handle_bytes(self, event: Frame) -> None:
        super().handle_bytes(event)
        self._spend_for(event)

    def handle_cont(self, event: Frame) -> None:
        if self.close_sent:
            return
        self._fragments += 1
        most = max(LEAST_MAX_FRAGMENTS, self._max_message_size // BYTES_PER_FRAGMENT)
        if self._fragments >= most:  # the first frame is not counted here
            self._refuse(close_codes.POLICY_VIOLATION, f"more than {most} fragments")
            return
        # One growing buffer: a list of fragments would cost 60 bytes for each empty one.
        message = cast("list[Any]", self.frames)
        if not isinstance(message[0], bytearray):
            message[0] = bytearray(message[0])
        message[0] += event.data
        self._spend_for(event)
        if event.fin:
            self._fragments = 0
            self.send_receive_event_to_app()

    def _spend_for(self, event: Frame) -> None:
        cost = len(event.data) // BYTES_PER_FRAME
        if cost:
            self._intake.spend(cost)
            self._is_heavy = cost > FRAMES_PER_TURN
        event.data = b""

    def send_receive_event_to_app(self) -> None:
        data, self.frames = self.frames[0], []
        if self.close_sent:
            return  # too late; reading goes on, up to the peer's close frame
        if self._max_message_size and len(data) > self._max_message_size:
            reason = f"{len(data)} bytes, the limit is {self._max_message_size}"
            self._refuse(close_codes.TOO_LARGE, reason)
        elif self.curr_msg_data_type == "bytes":
            self._receive({"type": "websocket.receive", "bytes": bytes(data)})
        else:
            try:
                self._receive({"type": "websocket.receive", "text": data.decode()})
            except UnicodeDecodeError:  # uvicorn would log a traceback for each
                self._refuse(close_codes.INVALID_DATA, "text is not UTF-8")

    def _receive(self, event: ASGIReceiveEvent) -> None:
        self._is_full = True
        self.queue.put_nowait(event)

    def _refuse(self, code: int, reason: str) -> None:
        if self.conn.state is State.OPEN:  # else a close that came with it was answered already
            self.conn.fail(code, reason)
        self.handle_parser_exception()

    def handle_ping(self) -> None:
        if self.close_sent or self.transport.is_closing() or not self.writable.is_set():
            self.conn.data_to_send()  # a peer that reads no pongs gets none, and does not fill our memory
        else:
            super().handle_ping()

    def handle_close(self, event: Frame) -> None:
        left = self.conn.close_rcvd
        if not self._has_peer_gone or self.close_sent or left is None:
            super().handle_close(event)
        else:  # it did not wait for our answer
            self._last = {"type": "websocket.disconnect", "code": left.code, "reason": left.reason}

    def handle_parser_exception(self) -> None:
        if self.disconnected:
            return  # there is no peer to refuse
        self._is_refused = True
        if self.close_sent:  # by us, before: that was the last frame
            self.transport.close()
            return
        if self.conn.extensions and isinstance(self.conn.parser_exc, PayloadTooBig):
            # The parser names its own limit, which is that of a compressed message.
            close = Close(close_codes.TOO_LARGE, f"more than {self._max_message_size} bytes")
            self.conn.close_sent = close
            self.conn.data_to_send()
            self.transport.write(frames.frame(Opcode.CLOSE, close.serialize()))
        super().handle_parser_exception()
        if self.conn.close_sent is not None:
            for observer in self._observers:
                observer.refused(self.conn.close_sent.code)
