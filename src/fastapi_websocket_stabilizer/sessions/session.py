"""One connection of ``stabilizer.v1``: the frames about it, and the frames that its client sends."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from .. import close_codes
from ..exceptions import ClientInputError
from ..local.connection import Connection
from ..local.requests import Resolve
from ..models import CloseCause
from ..registry.hooks import FAILED
from ..registry.registration import Succession
from ..wire import client_frames as frames
from ..wire import client_input
from ..wire.client_frames import Fault, Hi
from ..wire.client_input import Message, Renewal, Request
from ..wire.cursors import Cursor
from ..wire.messages import ControlFrame
from .exchange import Exchange, ExchangeNode, Identify
from .following import Following, FollowingNode
from .incoming import Incoming

T_EVERY_S = 60.0
"""Seconds between two frames that only tell how far the node has received everything."""

Act = Callable[["Session", Any], None]
"""Function that acts on one kind of frame. It does not wait. A ``ClientInputError`` of it ends the connection."""


class Node(ExchangeNode, FollowingNode, Protocol):
    """The node of a session.

    Attributes:
        acts: The function for each kind of frame except messages and requests, whose size counts.
    """

    acts: Mapping[type, Act]

    def whole_ms(self) -> int:
        """The time in ms, by Redis' clock, up to which this node has received everything; 0 if it is not known."""
        ...

    def mark(self, connection: Connection, number: int) -> None:
        """Keep the number of the last handled message for the next connection of the client."""
        ...

    def restore(self, connection: Connection) -> None:
        """Join the rooms of the former session in the background."""
        ...

    def expire(self, connection: Connection, cause: CloseCause, code: int, reason: str) -> None:
        """End the connection now, and close its socket soon."""
        ...


class Session:
    """One connection of ``stabilizer.v1``, from its registration to its end.

    Args:
        record: What the registry knows of the session.
        cursor: Positions that the client wants to continue from: None for a new client, ``UNREADABLE`` if unknown.
        identify: Identifies the client again by a newer token. None if its credentials do not expire.
    """

    __slots__ = (
        "_connection", "_exchange", "_identify", "_in_progress", "_incoming", "_node", "_record", "_sent_at_s",
        "_told_at_s", "following",
    )  # fmt: skip

    def __init__(
        self,
        node: Node,
        connection: Connection,
        record: Succession,
        cursor: Cursor | None,
        identify: Identify | None = None,
    ) -> None:
        self._node, self._connection, self._record = node, connection, record
        self._identify = identify
        self._in_progress: Message | None = None
        self._incoming: Incoming | None = None  # of a socket that is not parked
        self.following: Following = Following(node, connection, record, cursor)
        self._exchange: Exchange | None = None
        self._sent_at_s = self._told_at_s = connection.opened_at_s

    @property
    def connection(self) -> Connection:
        """The connection of this session."""
        return self._connection

    @property
    def exchange(self) -> Exchange:
        """Requests in both directions. Made for the first one: a connection without any has 500 bytes less."""
        if self._exchange is None:
            self._exchange = Exchange(self._node, self._connection, self.send)
            if self._connection.ended is not None:
                self._exchange.end()
        return self._exchange

    def send(self, text: str) -> None:
        """Send a frame that is no message, in order with everything else."""
        self._connection.push(ControlFrame(text))

    # Beginning and end

    def begin(self) -> bool:
        """Send the first frame, and then what was sent to the connection before. Return False if it has ended.

        The caller then has the registry close the connections of the former session.
        """
        connection, node, beginning = self._connection, self._node, self.following.begin()
        hi = Hi(
            connection.client_id,
            self._record.sid,
            node.whole_ms(),
            node.limits().heartbeat_interval,
            must_answer=self._must_answer,
            expires_s=connection.expires_in_s,
            outcome=beginning.outcome,
            handled=self._record.mark if self._record.is_taken else None,
            lost=beginning.lost,
            positions=beginning.positions,
        )
        self._sent_at_s = self._told_at_s = connection.loop.time()
        return connection.writer.begin([ControlFrame(frames.hi(hi)), *beginning.replay])

    @property
    def _must_answer(self) -> bool:
        """Whether only answers of the client show that it lives, because this server shows no pongs."""
        return self._connection.native is None

    def go(self, in_ms: int) -> None:
        """Have the client open its next socket within so many ms, because the node drains."""
        self.send(frames.go(in_ms))

    def closing(self, code: int, reason: str) -> tuple[int, str]:
        """Return the close code and reason of the subprotocol for those of a plain socket."""
        return (close_codes.ENDED, reason) if code == close_codes.NORMAL else (code, reason)

    def ended(self) -> None:
        """End all requests, because the connection has ended."""
        if self._exchange is not None:
            self._exchange.end()
        if self._incoming is not None:
            self._incoming.end()

    def renew(self, frame: Renewal) -> None:
        """Take newer credentials of the client, and answer."""
        self.exchange.renew(frame, self._identify)

    # Requests of the server

    def request(self, name: str, text: str, resolve: Resolve, deadline_s: float) -> int | None:
        """Send a request whose data is the JSON ``text``. See ``Asked.ask``."""
        return self.exchange.ask(name, text, resolve, deadline_s)

    def withdraw(self, number: int) -> None:
        """Tell the client that an open request needs no answer any more."""
        self.exchange.withdraw(number)

    # Rooms

    def joined(self, room: str) -> None:
        """Tell the client that it is in a room. The first frame has the rooms from before it."""
        if self._record.has_begun:
            self.send(frames.joined(room, None))

    def left(self, room: str) -> None:
        """Tell the client that it is no longer in a room."""
        self.following.left(room)
        if self._record.has_begun:
            self.send(frames.left(room))

    def restore(self) -> None:
        """Join the rooms of the former session, which was taken over later than the connect."""
        self._node.restore(self._connection)

    # Liveness

    def ask(self) -> None:
        """Send a sign of life that the client answers."""
        self.send(frames.PROBE)

    def look(self, now_s: float, round_s: float) -> None:
        """Send a sign of life if none would be in time after ``round_s``, when the next look is.

        Only the last use of a connection is known, in either direction. So a sign of life may come earlier than it
        has to.
        """
        if not self._record.has_begun:
            return
        used_at_s = self._connection.used_at_s
        if used_at_s > self._connection.heartbeat.active_at_s:
            self._sent_at_s = used_at_s
        interval_s = self._node.limits().heartbeat_interval
        is_due = now_s - self._told_at_s > max(T_EVERY_S, interval_s) - round_s
        if is_due and (whole_ms := self._node.whole_ms()):
            self._told_at_s = now_s
            self.send(frames.whole_until(whole_ms))
        elif now_s - self._sent_at_s > interval_s - round_s:
            self.send(frames.PROBE if self._must_answer else frames.ALIVE)

    # Frames of the client

    def read(self, data: str | bytes) -> Message | None:
        """Act on a frame. Return it if it is a message, which the application then handles.

        A frame that breaks the subprotocol ends the connection.
        """
        try:
            frame = client_input.parse(data, self._node.limits().max_message_size)
            self._node.counters.client_keys_ignored += frame.ignored
            if isinstance(frame, Message):
                return frame
            if isinstance(frame, Request):
                self.exchange.request(frame, len(data))
                return None
            self._node.acts[type(frame)](self, frame)
        except ClientInputError as error:
            self._node.counters.client_frames_invalid += 1
            reason = frames.input_reason(error.code)
            self._node.expire(self._connection, CloseCause.PROTOCOL_ERROR, close_codes.INVALID_INPUT, reason)
        return None

    @property
    def reads_ahead(self) -> bool:
        """Whether messages of the client may wait for the application, although the end of the input was read."""
        return self._incoming is not None

    async def next_message(self) -> Message | None:
        """Return the next message of a socket that is not parked; None if no more go to the application."""
        if self._incoming is None:
            self._incoming = Incoming(self._connection.next_frame, self.read)
            self._node.tasks.spawn(self._incoming.run(), f"read-{self._connection.connection_id}")
        while (message := await self._incoming.next()) is not None and self._connection.is_heard:
            if self.is_new(message):
                return message
        self._connection.read_out()
        return None

    def is_new(self, message: Message) -> bool:
        """Whether a message is to be handled now. One that was handled before is confirmed again."""
        if message.number is None or message.number > self._record.mark:
            self._in_progress = message
            return True
        self.send(frames.handled(self._record.mark))
        return False

    def handled(self, message: Message, fault: Fault | None = None) -> None:
        """Confirm a message after its handler has returned, or tell the client that it failed."""
        self._in_progress = None
        if message.number is not None:
            self._node.mark(self._connection, message.number)
            self.send(frames.handled(message.number, fault))

    def failed(self) -> None:
        """Tell the client that the message in progress failed, because the handler that iterates has raised."""
        if self._in_progress is not None:
            self.handled(self._in_progress, FAILED)
