"""A writer alone, without a connection or a node: every order of pushes, pauses and ends keeps its promises."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, cast

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from fastapi_websocket_stabilizer.config import WebSocketConfig
from fastapi_websocket_stabilizer.local.lifecycle import HOPELESS, Ended
from fastapi_websocket_stabilizer.local.phase import Phase
from fastapi_websocket_stabilizer.local.sends import DROPPED, SendLimiter
from fastapi_websocket_stabilizer.local.transport import NativeSocket, Observer
from fastapi_websocket_stabilizer.local.writer import SocketWriter
from fastapi_websocket_stabilizer.names import ConnectionId
from fastapi_websocket_stabilizer.runtime.metrics import Counters
from fastapi_websocket_stabilizer.wire.messages import WITH_ADDRESS, Encoded, Series
from tests.unit.fakes import text

FIRST = ("first of all", "first but one", "last of the first")
OVER = (Phase.CLOSED, Phase.RELEASED)
LIVE = (Phase.CONNECTING, Phase.DIRECT, Phase.QUEUED)
NEXT = {
    Phase.CONNECTING: {Phase.DIRECT, Phase.QUEUED, Phase.ENDED_EARLY},
    Phase.DIRECT: {Phase.QUEUED, Phase.ENDED},
    Phase.QUEUED: {Phase.DIRECT, Phase.ENDED},
    Phase.ENDED_EARLY: {Phase.ENDED, Phase.CLOSING, Phase.CLOSED, Phase.RELEASED},
    Phase.ENDED: {Phase.CLOSING, Phase.CLOSED, Phase.RELEASED},
    Phase.CLOSING: {Phase.CLOSED, Phase.RELEASED},
    Phase.CLOSED: {Phase.RELEASED},
    Phase.RELEASED: set[Phase](),
}
"""Which phases may follow one."""


class Peer:
    """A transport, with a native socket or without. It accepts data while ``may_write`` is set."""

    awaited = False
    is_receiving = False
    window_bits = 0

    def __init__(self, *, is_native: bool, has_session: bool) -> None:
        self.native = cast("NativeSocket", self) if is_native else None
        self.bits = WITH_ADDRESS if has_session else 0
        self.opening: list[bytes] = []
        self.begun = 0
        self.written: list[bytes] = []
        self.calls: list[str] = []
        self.error: Exception | None = None
        self.may_write = asyncio.Event()
        self.may_write.set()

    @property
    def is_paused(self) -> bool:
        return not self.may_write.is_set()

    @property
    def is_open(self) -> bool:
        return not self.calls

    def write_soon(self, data: bytes) -> None:
        self.begun += b"first" not in data
        self._write(data)

    def _write(self, data: bytes) -> None:
        if self.error is not None:
            raise self.error
        if b"first" in data:
            assert not self.written
            self.opening += [data] * data.count(b"first")  # several may be joined
        else:
            assert len(self.opening) == (len(FIRST) if self.bits else 0), (
                "the first frames precede all others"
            )
            self.written.append(data)

    def flush(self) -> None: ...

    def attach(self, observer: Observer) -> None: ...

    async def _send(self, message: Encoded) -> None:
        if self.native is None:
            await self.may_write.wait()
        self._write(message.frame(self.bits))

    def send_some(self, messages: deque[Encoded]) -> Coroutine[Any, Any, None]:
        some = [messages.popleft() for _ in range(min(2, len(messages)))]
        return self._send_some(some)

    async def _send_some(self, messages: list[Encoded]) -> None:
        for message in messages:
            await self._send(message)

    def send(self, message: Encoded) -> Coroutine[Any, Any, None]:
        self.begun += 1
        return self._send(message)

    async def drained(self, patience_s: Callable[[], float]) -> None:
        if self.native is not None:
            await self.may_write.wait()

    async def complete(self, sending: Awaitable[None], deadline_s: float) -> None:
        await sending

    def is_disconnect(self, error: BaseException) -> bool:
        return isinstance(error, OSError)

    async def close(self, code: int, reason: str, within_s: float = 0.0) -> None:
        self.calls.append("close")

    def deny(self, status: int, reason: str) -> None:
        self.calls.append("deny")

    def interrupt(self, code: int, reason: str) -> None: ...

    def detach(self) -> None:
        self.calls.append("detach")


class Node:
    """The owner of the writer, and the connection that it reports to."""

    client_id = "alice"
    connection_id = ConnectionId("node.1")

    def __init__(self, loop: asyncio.AbstractEventLoop, policy: str) -> None:
        self.loop = loop
        self.config = WebSocketConfig(outbox_size=3, outbox_policy=cast("Any", policy))
        self.counters = Counters()
        self.limiter = SendLimiter(lambda: 1)
        self.writer: SocketWriter

    def limits(self) -> Any:
        return self.config

    def lost(self, why: Ended, error: str) -> None:
        self.writer.end(why, error)

    def gone(self, error: str) -> None:
        self.writer.end(Ended.GONE, error)

    def emptied(self) -> None:
        assert self.writer.phase is Phase.DIRECT
        assert not self.writer.is_writing


class Writing(RuleBasedStateMachine):
    """Any calls, in any order, with or without turns of the event loop between them."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()

    @initialize(
        is_native=st.booleans(),
        is_accepted=st.booleans(),
        has_session=st.booleans(),
        policy=st.sampled_from(["close", "close", "drop_oldest", "drop_newest"]),
        is_smooth=st.booleans(),
    )
    def begin(
        self, is_native: bool, is_accepted: bool, has_session: bool, policy: str, is_smooth: bool
    ) -> None:
        self.run(self.make(is_native=is_native, has_session=has_session, policy=policy))
        self.is_smooth = is_smooth  # without failures: then everything has to be written
        if is_accepted:
            self.accept()

    async def make(self, *, is_native: bool, has_session: bool, policy: str) -> None:
        self.peer = Peer(is_native=is_native, has_session=has_session)
        self.node = Node(asyncio.get_running_loop(), policy)
        self.writer = self.node.writer = SocketWriter(
            self.node, self.node, self.peer, has_session=has_session
        )
        self.has_session, self.has_begun = has_session, False
        self.taken: list[bytes] = []  # messages that a push took, in order
        self.taken_bytes = 0  # of their payloads
        self.pushed = 0
        self.refused = 0  # since the outbox was full and drops the newest
        self.failed = 0  # pushes of which the write raised at once
        self.is_cut_short = False
        self.final: int | None = None  # number of messages that were written before the end
        self.phase = self.writer.phase
        self.closing: asyncio.Task[bool] | None = None
        self.waiting: list[asyncio.Task[Any]] = []
        self.is_suspended = False  # whether another socket has the place in the limiter

    def run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine without a turn of the loop before it or after it."""
        self.loop.run_until_complete(coroutine)

    def teardown(self) -> None:
        try:
            self.run(self.wind_up())
        finally:
            self.loop.close()

    async def wind_up(self) -> None:
        """End everything. Whatever happened before, all promises can be checked afterwards."""
        if self.closing is None:
            self.writer.end(Ended.RELEASED)
            self.see()
            self.closing = asyncio.create_task(self.writer.finish(1000, "bye"))
        await self.turns(3)
        self.peer.may_write.set()
        if self.is_suspended:
            self.node.limiter.leave()
        self.writer.read_out()
        await self.closing
        await asyncio.gather(*self.waiting)
        await self.turns()
        assert (self.writer.is_closed, self.writer.is_writing) == (True, False)
        assert sorted(self.peer.calls) in (
            [],
            ["close"],
            ["deny"],
            ["detach"],
            ["close", "detach"],
            ["deny", "detach"],
        )
        assert self.node.limiter.is_open(), "every suspended send gave its place back"
        counters = self.node.counters
        assert len(self.taken) == counters.messages_sent
        assert self.taken_bytes == counters.bytes_sent
        self.every_message_is_accounted_for()
        if self.writer.ended is Ended.RELEASED and not self.is_cut_short:
            assert self.peer.begun == len(self.peer.written)
            assert len(self.peer.opening) == (len(FIRST) if self.has_begun else 0)
            assert self.node.config.outbox_policy != "close" or self.peer.written == self.taken

    async def turns(self, count: int = 10) -> None:
        for _ in range(count):
            await asyncio.sleep(0)
            self.see()

    def see(self) -> None:
        """Check that the phase changed only as it may, since the last look."""
        if self.writer.phase is not self.phase:
            assert reachable(self.phase, self.writer.phase), (self.phase, self.writer.phase)
            self.phase = self.writer.phase
        self.is_cut_short |= self.phase is Phase.ENDED_EARLY
        if self.phase in OVER:
            self.final = len(self.peer.written) if self.final is None else self.final
            assert len(self.peer.written) == self.final, "nothing is written after the end"

    # Calls

    @rule(count=st.integers(1, 4))
    def push(self, count: int) -> None:
        async def push() -> None:
            for _ in range(count):
                self.pushed += 1
                message = text(str(self.pushed % 10))
                phase, was_writing = self.writer.phase, self.writer.is_writing
                sent = self.writer.push(message)
                if sent.error is None:
                    assert phase in LIVE
                    self.taken.append(message.frame(self.peer.bits))
                    self.taken_bytes += message.size
                elif phase is Phase.DIRECT:
                    assert self.peer.error is not None
                    self.failed += 1
                elif phase in LIVE:
                    assert was_writing
                    assert "outbox" in sent.error
                    self.refused += sent.error == DROPPED
                if phase is self.writer.phase is Phase.DIRECT:
                    last = message.frame(self.peer.bits)
                    assert self.peer.written[-1] == last, "a direct message is written at once"
                self.see()

        self.run(push())

    @rule()
    def accept(self) -> None:
        async def accept() -> None:
            if self.has_session:
                is_connecting = self.writer.phase is Phase.CONNECTING
                has_failed = is_connecting and self.peer.error is not None and self.peer.native is not None
                first, *rest = map(text, FIRST)
                begun = self.writer.begin([first, Series(rest)])
                assert begun is is_connecting or (has_failed and not begun)
                self.has_begun |= is_connecting
            else:
                self.writer.opened()
            self.see()

        self.run(accept())

    @rule()
    def stall(self) -> None:
        async def stall() -> None:
            self.peer.may_write.clear()
            if self.peer.native is not None:
                self.writer.paused()
            self.see()

        self.run(stall())

    @rule()
    def read(self) -> None:
        self.peer.may_write.set()

    @rule()
    def turn(self) -> None:
        self.run(self.turns(1))

    @rule()
    def rest(self) -> None:
        self.run(self.turns())

    @precondition(lambda self: self.pushed > 1 and not self.is_smooth)
    @rule(error=st.sampled_from([OSError("gone"), RuntimeError("broken"), None]))
    def fail(self, error: Exception | None) -> None:
        """Every later write raises, or the native socket accepts no more frames."""
        if error is None:
            self.writer.cut()
        else:
            self.peer.error = error
            self.is_cut_short = True

    @rule()
    def occupy_or_free_the_limiter(self) -> None:
        async def change() -> None:
            if self.is_suspended:
                self.node.limiter.leave()
            else:
                self.node.limiter.enter()
            self.is_suspended = not self.is_suspended
            self.see()

        self.run(change())

    @rule(call=st.sampled_from(["drained", "flush", "wait_closed"]))
    def wait_for(self, call: str) -> None:
        async def wait() -> None:
            if call == "drained":
                self.waiting.append(asyncio.create_task(self.drain(len(self.taken))))
            elif call == "flush" or self.writer.ended is not None:
                self.waiting.append(asyncio.create_task(getattr(self.writer, call)()))

        self.run(wait())

    async def drain(self, taken: int) -> None:
        error = await self.writer.drained()
        if error is None and self.node.config.outbox_policy == "close":
            assert len(self.peer.written) >= taken

    @precondition(lambda self: self.pushed > 1)
    @rule(why=st.sampled_from([*Ended, *[Ended.RELEASED] * 7]))
    def end(self, why: Ended) -> None:
        was_ended, written = self.writer.ended, len(self.peer.written)
        assert self.writer.end(why, "why") is (was_ended is None)
        assert self.writer.ended is (was_ended or why)
        assert len(self.peer.written) == written
        self.see()

    @precondition(lambda self: self.writer.ended is not None and self.closing is None)
    @rule(patience_s=st.sampled_from([0.0, 100.0]))
    def finish(self, patience_s: float) -> None:
        async def finish() -> None:
            self.closing = asyncio.create_task(self.writer.finish(1000, "bye", patience_s))

        self.run(finish())

    @precondition(lambda self: self.writer.ended is not None and not self.is_smooth)
    @rule(call=st.sampled_from(["abort", "read_out", "let_go"]))
    def hurry(self, call: str) -> None:
        async def hurry() -> None:
            getattr(self.writer, call)()
            self.see()

        self.is_cut_short = True
        self.run(hurry())

    # Promises

    @invariant()
    def phase_says_what_is_there(self) -> None:
        writer = self.writer
        match writer.phase:
            case Phase.DIRECT:
                assert not writer.is_writing
                assert writer.queued_bytes == 0
                assert self.peer.native is None or not self.peer.is_paused
            case Phase.QUEUED:
                assert writer.is_writing
        assert (writer.ended is None) == (writer.phase in LIVE)
        assert writer.fast_path is None or writer.phase is Phase.DIRECT
        assert writer.is_closed == (writer.phase in OVER)
        assert writer.queued_bytes <= self.node.config.outbox_size

    @invariant()
    def messages_are_written_once_and_in_order(self) -> None:
        is_subsequence(self.peer.written, self.taken)

    @invariant()
    def every_message_is_accounted_for(self) -> None:
        """A message has one byte, so the bytes that are queued are messages."""
        given = len(self.taken) + self.refused + self.failed
        assert given == self.peer.begun + self.node.counters.messages_dropped + self.writer.queued_bytes

    @invariant()
    def nothing_is_written_before_the_accept(self) -> None:
        assert self.phase not in (Phase.CONNECTING, Phase.ENDED_EARLY) or not self.peer.written
        assert self.has_begun or not self.peer.opening

    @invariant()
    def hopeless_ends_are_not_followed_by_queued_messages(self) -> None:
        if self.writer.ended in HOPELESS and self.writer.is_closed:
            assert self.writer.queued_bytes == 0


def reachable(before: Phase, after: Phase) -> bool:
    """Whether one phase can follow another, perhaps with others between them."""
    seen, found = {before}, {before}
    while found:
        found = {phase for each in found for phase in NEXT[each]} - seen
        seen |= found
    return after in seen - {before} or after in NEXT[before]


def is_subsequence(part: list[bytes], whole: list[bytes]) -> None:
    """Check that ``part`` has the order of ``whole``, with nothing twice."""
    left = iter(whole)
    assert all(item in left for item in part), (part, whole)


TestWriting = Writing.TestCase
TestWriting.settings = settings(max_examples=200, stateful_step_count=40)
