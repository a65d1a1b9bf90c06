"""A session alone: whatever a client sends is acted on, or ends the connection with a named code. Nothing is lost."""

import asyncio
import json
import logging
import tracemalloc
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastapi_websocket_stabilizer import ClientInputError
from fastapi_websocket_stabilizer.close_codes import INVALID_INPUT
from fastapi_websocket_stabilizer.config import WebSocketConfig
from fastapi_websocket_stabilizer.local.connection import Connection
from fastapi_websocket_stabilizer.local.lifecycle import Ended
from fastapi_websocket_stabilizer.local.native import JOINED_BYTES
from fastapi_websocket_stabilizer.local.requests import Unanswered
from fastapi_websocket_stabilizer.models import CloseCause
from fastapi_websocket_stabilizer.names import ConnectionId
from fastapi_websocket_stabilizer.registry.feed import Joined
from fastapi_websocket_stabilizer.registry.hooks import FAILED, Hooks
from fastapi_websocket_stabilizer.registry.registration import Succession
from fastapi_websocket_stabilizer.runtime.metrics import Counters
from fastapi_websocket_stabilizer.runtime.tasks import Tasks
from fastapi_websocket_stabilizer.sessions.following import UNREADABLE
from fastapi_websocket_stabilizer.sessions.session import Session
from fastapi_websocket_stabilizer.wire import client_input
from fastapi_websocket_stabilizer.wire.client_frames import EVERYBODY, MAILBOX, Fault
from fastapi_websocket_stabilizer.wire.client_input import ClientFrame, Message, Request
from fastapi_websocket_stabilizer.wire.cursors import Cursor
from fastapi_websocket_stabilizer.wire.frames import TEXT, frame
from fastapi_websocket_stabilizer.wire.messages import Address, Encoded, Series
from tests.support.waiting import eventually
from tests.unit.fakes import Node, text
from tests.unit.native_sockets import FakeNativeSocket, websocket_on

CODES = {"size", "json", "depth", "number", "frame", "field", "name"}


class SessionNode:
    """A ``Node`` of sessions that writes down the frames which it is to act on."""

    def __init__(self) -> None:
        self.counters = Counters()
        log = logging.getLogger("sessions")
        self.hooks, self.tasks = Hooks(self.counters, log), Tasks(log)
        self.config = WebSocketConfig(heartbeat_interval=10.0, max_message_size=1 << 16)
        self.acted: list[ClientFrame] = []
        self.ended: list[tuple[CloseCause, int, str]] = []
        self.stopped: list[tuple[Any, int]] = []
        self.goes_on = 0
        self.ms = 1_764_396_000_000
        kinds = [kind for kind in ClientFrame.__args__ if kind not in (Message, Request)]
        self.acts: Mapping[type, Callable[[Session, Any], None]] = dict.fromkeys(kinds, self._act)

    def _act(self, _: Session, client_frame: ClientFrame) -> None:
        self.acted.append(client_frame)

    def limits(self) -> Any:
        return self.config

    def fault_of(self, _: BaseException) -> Fault | None:
        return None

    async def enter(self, connection: Connection, room: str) -> None:
        connection.rooms.add(room)

    def whole_ms(self) -> int:
        return self.ms

    def replayed(self, connection: Connection, former: Any, missed: Any) -> list[Encoded]:
        assert connection.client_id == "ann"
        return [
            text(str(entry.envelope)).addressed(Address(log, entry.id))
            for log, entry in missed
            if entry.envelope != "excluded"
        ]

    def replay(self, connection: Connection, former: Any, missed: Any) -> Series:
        return Series(self.replayed(connection, former, missed))

    def stop(self, connection: Connection, log: Any, position: int) -> bool:
        self.stopped.append((log, position))
        return True

    def put_off(self, connection: Connection, log: Any, position: Any) -> bool:
        raise AssertionError("no log of these tests waits for another one")

    def is_behind(self, connection: Connection) -> bool:
        return bool(self.stopped)

    def go_on(self, connection: Connection) -> None:
        self.goes_on += bool(self.stopped)

    def mark(self, connection: Connection, number: int) -> None:
        registration: Any = connection.registration
        registration.mark = number

    def restore(self, connection: Connection) -> None:
        raise AssertionError("no session is taken over later here")

    def expire(self, connection: Connection, cause: CloseCause, code: int, reason: str) -> None:
        if connection.end(cause):
            self.ended.append((cause, code, reason))


class World:
    """A session on a native socket, and what its client has got."""

    def __init__(self, cursor: Cursor | None = None, *, begins: bool = True, **settings: Any) -> None:
        self.node, self.native, self.record = SessionNode(), FakeNativeSocket(), Succession("s1")
        made: list[Session] = []

        def open_session(connection: Connection) -> Session:
            made.append(Session(self.node, connection, self.record, cursor))
            return made[0]

        self.owner = Node(**settings)
        name, socket = ConnectionId("node.1"), websocket_on(self.native)
        self.connection = Connection(self.owner, "ann", name, socket, {}, None, self.record, open_session)
        (self.session,) = made
        self._seen = 0
        if begins:
            self.begin()

    def begin(self) -> None:
        assert self.session.begin()
        self.record.has_begun = True

    async def got(self) -> list[Any]:
        """Return the frames that the client has got since the last call."""
        for _ in range(5):
            await asyncio.sleep(0)
        data = b"".join(self.native.writes)
        new, self._seen = data[self._seen :], len(data)
        return list(values(new))


def values(data: bytes) -> Iterator[Any]:
    """Yield the values of unmasked text frames."""
    while data:
        assert data[0] == 0x81
        size, start = data[1], 2
        if size == 126:
            size, start = int.from_bytes(data[2:4]), 4
        yield json.loads(data[start : start + size])
        data = data[start + size :]


# The first frame


async def test_logs_without_an_answer_keep_the_positions_of_the_cursor() -> None:
    world = World(Cursor("s0", 0, {"lobby": 5}, 7, 9), begins=False)
    world.connection.rooms.update(("lobby", "new", "plain"))
    for log in ("lobby", "new", EVERYBODY, MAILBOX):
        world.session.following.cursor(log)
    world.begin()
    hi = (await world.got())[0]["hi"]
    at = {"lobby": 5, "new": None, "plain": None}
    assert (hi["re"], hi["at"], hi["all"], hi["box"]) == ("later", at, 7, 9)


async def test_loss_before_the_first_frame_is_told_behind_what_came_before_it() -> None:
    world = World(Cursor("s0", 0, {"lobby": 5}), begins=False)
    world.connection.rooms.add("lobby")
    following = world.session.following
    assert following.cursor("lobby") == (5, 0)
    following.fed("lobby", Joined(world.connection, (), 5))
    world.connection.push(text("six").addressed(Address("lobby", 6)))
    following.lost("lobby", 9, "hole")
    world.connection.push(text("ten").addressed(Address("lobby", 10)))
    world.begin()
    hi, *others = await world.got()
    assert (hi["hi"]["re"], hi["hi"]["at"], "lost" in hi["hi"]) == (True, {"lobby": 5}, False)
    lost = {"lost": [["lobby", 9, "hole"]]}
    assert others == [{"live": 0}, [6, "lobby", "six"], lost, [10, "lobby", "ten"]]


async def test_first_frame_precedes_what_was_sent_before() -> None:
    world = World(begins=False)
    world.connection.rooms.add("lobby")
    world.connection.push(text("welcome"))
    assert await world.got() == []
    world.begin()
    hi = {
        "v": 1,
        "id": "ann",
        "sid": "s1",
        "t": world.node.ms,
        "ping": 10,
        "pong": False,
        "at": {"lobby": None},
    }
    assert await world.got() == [{"hi": hi}, {"live": 0}, [0, 0, "welcome"]]


@pytest.mark.parametrize(
    ("cursor", "outcome"), [(None, None), (Cursor("s0", 1, {"r": 7}), True), (UNREADABLE, False)]
)
async def test_outcome_of_a_resume_without_history(cursor: Cursor | None, outcome: bool | None) -> None:
    (hi, _) = await World(cursor).got()
    assert hi["hi"].get("re") is outcome


async def test_session_that_was_taken_over_continues_its_numbers() -> None:
    world = World(begins=False)
    world.record.is_taken, world.record.mark = True, 16
    world.begin()
    (hi, _) = await world.got()
    assert hi["hi"]["n"] == 16
    assert not world.session.is_new(Message("x", 16))
    assert world.session.is_new(Message("x", 17))
    assert await world.got() == [{"n": 16}]


async def test_session_of_an_ended_connection_does_not_begin() -> None:
    world = World(begins=False)
    world.connection.end(CloseCause.REPLACED)
    assert not world.session.begin()
    assert await world.got() == []


# Confirmations


async def test_message_is_confirmed_once_it_is_handled() -> None:
    world = World()
    await world.got()
    for data, fault, confirmation in (
        ('{"m":1,"n":1}', None, [{"n": 1}]),
        ('{"m":1}', None, []),
        (
            '{"m":1,"n":2}',
            Fault("invalid", "why"),
            [{"n": 2, "x": {"code": "invalid", "message": "why", "retry": False}}],
        ),
        ('{"m":1}', FAILED, []),
    ):
        message = world.session.read(data)
        assert message is not None
        assert await world.got() == []
        world.session.handled(message, fault)
        assert await world.got() == confirmation


async def test_message_in_progress_fails_with_its_handler() -> None:
    world = World()
    await world.got()
    world.session.failed()
    assert await world.got() == []
    assert world.session.is_new(Message(1, 1))
    world.session.failed()
    world.session.failed()
    assert [each["x"]["code"] for each in await world.got()] == ["failed"]


# Signs of life


async def test_sign_of_life_comes_before_the_silence_is_too_long() -> None:
    world = World()
    await world.got()
    now_s, round_s = world.connection.loop.time(), 2.0
    signs = 0
    for seconds in range(0, 60, 2):
        world.session.look(now_s + seconds, round_s)
        world.connection.used_at_s = world.connection.heartbeat.active_at_s  # looks use the clock of the test
        signs += len(await world.got())
    assert signs >= 6


async def test_nothing_is_sent_before_the_first_frame() -> None:
    world = World(begins=False)
    world.session.look(world.connection.loop.time() + 1000, 2.0)
    world.session.joined("lobby")
    world.session.left("lobby")
    assert await world.got() == []


async def test_time_up_to_which_the_node_is_whole_is_told_also_if_there_is_traffic() -> None:
    world = World()
    await world.got()
    now_s = world.connection.loop.time()
    world.connection.used_at_s = now_s + 100
    world.node.ms += 100_000
    world.session.look(now_s + 100, 2.0)
    assert await world.got() == [{"t": world.node.ms}]


# Any input


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
keys = st.sampled_from(
    ["m", "n", "q", "a", "c", "d", "x", "join", "leave", "k", "p", "v", "auth", "resume", "ping"]
)
nearly_frames = st.dictionaries(keys | st.text(max_size=3), json_values, max_size=4).map(json.dumps)
inputs = (
    st.text(max_size=20)
    | st.binary(max_size=20)
    | nearly_frames
    | st.sampled_from(['{"m":"x"}', '{"m":1,"n":1}', '{"m":1,"n":2}', "{}", '{"ping":1}', '{"q":1,"m":"x"}'])
)


@given(st.lists(inputs, max_size=12))
def test_any_input_is_acted_on_or_ends_the_connection(data: list[str | bytes]) -> None:
    asyncio.run(converse(data))


async def converse(data: list[str | bytes]) -> None:
    world = World()
    await world.got()
    messages, broken, others = 0, 0, 0
    for each in data:
        if world.connection.ended is not None:
            break
        mark = world.record.mark
        expected = parsed(each)
        acted = len(world.node.acted)
        message = world.session.read(each)
        if expected is None:
            assert message is None
            broken += 1
            continue
        if isinstance(expected, Message):
            is_repeated = expected.number is not None and expected.number <= mark
            assert message == expected
            messages += not is_repeated
            assert world.session.is_new(expected) is not is_repeated
            if not is_repeated:
                world.session.handled(expected)
            got = await world.got()
            number = expected.number
            assert got == ([] if number is None else [{"n": max(number, mark)}])
        elif isinstance(expected, Request):
            ((answer),) = await world.got()
            assert (answer["a"], answer["x"]["code"]) == (expected.number, "not_found")
            others += 1
        else:
            assert message is None
            assert world.node.acted[acted:] == [expected]
            others += 1
    assert len(world.node.ended) == broken <= 1
    assert world.node.counters.client_frames_invalid == broken
    if broken:
        ((_, code, reason),) = world.node.ended
        assert code == INVALID_INPUT
        assert json.loads(reason)["code"] in CODES | {"cursor"}


def parsed(data: str | bytes) -> ClientFrame | None:
    try:
        return client_input.parse(data, 1 << 16)
    except ClientInputError:
        return None


def test_frames_of_these_tests_are_read_back() -> None:
    assert list(values(frame(TEXT, b'{"a":1}') + frame(TEXT, b'"' + b"x" * 200 + b'"'))) == [
        {"a": 1},
        "x" * 200,
    ]


# Replays


async def test_replay_is_written_in_parts_as_fast_as_the_peer_reads() -> None:
    world = World(begins=False)
    world.native.stall()
    world.connection.push(text("kept"))
    replay = [text(f"{number:04d}" + "x" * 1000) for number in range(300)]
    assert world.connection.writer.begin(replay)
    assert world.connection.writer.queued_bytes == 4, (
        "a replay does not count as queued: its entries are shared"
    )
    assert await world.got() == []
    world.native.read_all()
    got = await world.got()
    sizes = [len(write) for write in world.native.wire.writes]
    assert JOINED_BYTES / 2 < max(sizes) < JOINED_BYTES + 2000
    assert [message[2][:4] for message in got] == [f"{number:04d}" for number in range(300)] + ["kept"]


async def test_replay_waits_whenever_the_peer_does_not_read() -> None:
    world = World(begins=False)
    stalls = world.native.write_now

    def write_and_stall(data: bytes) -> None:
        stalls(data)
        world.native.stall()

    world.native.write_now = write_and_stall  # type: ignore[method-assign]  # each write fills the buffer
    assert world.connection.writer.begin([text("x" * 30_000) for _ in range(10)])
    counts = []
    for _ in range(6):
        await world.got()
        counts.append(len(world.native.wire.writes))
        world.native.read_all()
    assert counts == [1, 2, 3, 4, 4, 4]
    assert sum(map(len, world.native.wire.writes)) > 300_000


@pytest.mark.parametrize("policy", ["close", "drop_oldest", "drop_newest"])
async def test_slow_client_stops_at_a_stored_message_and_goes_on_when_it_has_read(policy: Any) -> None:
    world = World(outbox_size=100, outbox_policy=policy)
    await world.got()
    world.native.stall()
    messages = [text("x" * 30).addressed(Address("lobby", number)) for number in range(1, 4)]
    pushed = [(world.connection.push(each).error, world.connection.falls_behind(each)) for each in messages]
    assert pushed[:2] == [(None, False), (None, True)]
    assert world.node.stopped == [("lobby", 2), ("lobby", 3)], "the node sends no more in between"
    await world.got()
    assert world.node.goes_on == 0
    world.native.read_all()
    assert [message[0] for message in await world.got()] == [1, 2, 3]
    assert world.node.goes_on == 1
    assert (world.connection.ended, world.owner.counters.messages_dropped) == (None, 0)


async def test_slow_client_may_be_silent_for_as_long_as_the_heartbeat_allows() -> None:
    world = World(write_timeout_s=0.01, heartbeat_interval=0.02, heartbeat_timeout=0.03)
    assert world.connection.writer._patience_s() == 0.05
    world.native.stall()
    await eventually(lambda: world.connection.ended is not None)
    assert world.owner.lost_connections == [("ann", Ended.SLOW, "accepted no data for 0.05 s")]
    assert world.connection.writer._patience_s() == 0.01, "at its end as a plain socket"


@pytest.mark.parametrize("policy", ["close", "drop_oldest", "drop_newest"])
async def test_slow_client_is_closed_and_misses_nothing_without_a_word(policy: Any) -> None:
    world = World(outbox_size=100, outbox_policy=policy)
    await world.got()
    world.native.stall()
    for _ in range(10):
        world.connection.push(text("x" * 30))
    assert world.connection.ended is Ended.SLOW
    assert world.owner.counters.messages_dropped == 0


async def test_idle_session_takes_less_than_a_kilobyte() -> None:
    world, rooms, count = World(), [f"room-{number}" for number in range(3)], 200
    sessions: list[Session] = []

    def idle() -> Session:
        session = Session(world.node, world.connection, Succession("s1"), None)
        for room in rooms:
            session.following.cursor(room)
            session.following.fed(room, Joined(world.connection, (), 7))
        session.following.begin()
        return session

    idle()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        sessions.extend(idle() for _ in range(count))
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert (after - before) / count < 1000


async def test_first_request_to_a_client_that_has_ended_ends_at_once() -> None:
    world, outcomes = World(), list[Any]()
    world.connection.end(CloseCause.SHUTDOWN)

    world.session.request("confirm", "1", outcomes.append, 60.0)

    assert outcomes == [Unanswered.ENDED]
