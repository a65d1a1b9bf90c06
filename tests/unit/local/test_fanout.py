"""The fan-out worker: in order, each socket once, and nobody waits for a socket."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from fastapi_websocket_stabilizer.local import fanout
from fastapi_websocket_stabilizer.local.batches import Broadcast, DirectMessages, Outcome
from fastapi_websocket_stabilizer.local.connection import Connection
from fastapi_websocket_stabilizer.local.fanout import FanOut
from fastapi_websocket_stabilizer.local.lifecycle import Ended
from fastapi_websocket_stabilizer.local.shards import Shards
from fastapi_websocket_stabilizer.names import ConnectionId
from fastapi_websocket_stabilizer.runtime.metrics import Counters, Histogram
from fastapi_websocket_stabilizer.wire.frames import COMPRESS_FROM_BYTES
from fastapi_websocket_stabilizer.wire.messages import Address, Encoded
from tests.unit.fakes import Node, Socket, connect, text, turns
from tests.unit.native_sockets import FakeNativeSocket, websocket_on


@dataclass
class World:
    """Some sockets in rooms, and a fan-out over them."""

    shards: Shards = field(default_factory=lambda: Shards(4))
    counters: Counters = field(default_factory=Counters)
    durations: Histogram = field(default_factory=lambda: Histogram((1,)))
    sockets: dict[str, Socket] = field(default_factory=dict)
    connections: dict[str, Connection] = field(default_factory=dict)
    node: Node = field(default_factory=Node)
    outcomes: list[Outcome] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.fan_out = FanOut(self.shards, self.counters, self.durations)

    def add(self, client_id: str, *rooms: str, socket: Any = None) -> None:
        self.sockets[client_id] = socket or Socket()
        connection = self.connections[client_id] = connect(client_id, self.sockets[client_id], self.node)
        self.shards.add(connection)
        for room in rooms:
            self.shards.join(connection, room)

    def submit(self, message: str, **options: Any) -> None:
        self.fan_out.submit(Broadcast(text(message), done=self.outcomes.append, **options))

    def post(self, message: str, *client_ids: str) -> None:
        self.fan_out.submit(DirectMessages([(text(message), client_ids)], done=self.outcomes.append))

    def received(self) -> dict[str, list[str]]:
        return {client_id: socket.sent for client_id, socket in self.sockets.items() if socket.sent}


@pytest.fixture
async def world() -> World:
    return World()


def ungated() -> None:
    return None


@pytest.fixture
async def worker(world: World) -> AsyncIterator["asyncio.Task[None]"]:
    task = asyncio.create_task(world.fan_out.run(ungated))
    await turns()
    yield task
    task.cancel()
    await asyncio.wait([task])


# Whom a job is for


async def test_job_without_rooms_is_for_everybody(world: World) -> None:
    for client_id in "abcdefgh":
        world.add(client_id)
    world.submit("hi")
    assert world.received() == {client_id: ["hi"] for client_id in "abcdefgh"}


async def test_job_for_a_room_is_for_its_members(world: World) -> None:
    world.add("a", "x")
    world.add("b", "y")
    world.submit("hi", rooms=("x",))
    assert world.received() == {"a": ["hi"]}


async def test_member_of_two_rooms_gets_one_copy(world: World) -> None:
    world.add("a", "x", "y")
    world.add("b", "y")
    world.add("c", "x")
    world.add("d", "z")
    world.submit("hi", rooms=("x", "y"))
    assert world.received() == {"a": ["hi"], "b": ["hi"], "c": ["hi"]}


async def test_mail_for_clients_is_for_all_their_sockets(world: World) -> None:
    world.add("a")
    first = world.sockets["a"]
    world.add("a")
    world.add("b")
    world.post("hi", "a", "nobody")
    assert (first.sent, world.received()) == (["hi"], {"a": ["hi"]})


@pytest.mark.parametrize("change", ["none", "renamed", "ended"])
async def test_mail_for_a_connection_is_for_no_other_and_follows_it_under_another_id(
    world: World, worker: "asyncio.Task[None]", change: str
) -> None:
    world.add("a")
    first, connection = world.sockets["a"], world.connections["a"]
    world.add("a")
    direct = DirectMessages([(text("hi"), ["a"])], connection, world.outcomes.append)
    world.fan_out.submit(direct)
    if change == "renamed":
        world.shards.rename(connection, ConnectionId("another.1"))
    elif change == "ended":
        world.shards.remove(connection)
    await turns()
    assert (first.sent, world.sockets["a"].sent) == ([] if change == "ended" else ["hi"], [])
    assert [outcome.total for outcome in world.outcomes] == [int(change != "ended")]


async def test_excluded_client_is_counted_and_not_written_to(world: World) -> None:
    world.add("a")
    world.add("b")
    world.submit("hi", exclude=frozenset({"a"}))
    [outcome] = world.outcomes
    assert (outcome.total, outcome.excluded, len(outcome.pending) + outcome.succeeded) == (2, 1, 1)
    assert world.received() == {"b": ["hi"]}


@pytest.mark.parametrize("options", [{}, {"rooms": ("x",)}, {"rooms": ("x", "y")}])
async def test_job_for_nobody_is_done_all_the_same(world: World, options: dict[str, Any]) -> None:
    world.submit("hi", **options)
    world.post("hi", "a")
    assert [outcome.total for outcome in world.outcomes] == [0, 0]


# What becomes of it


async def test_failed_socket_is_an_error_and_stops_nobody(world: World) -> None:
    world.add("a")
    world.add("bad", socket=Socket(error=RuntimeError("gone")))
    world.add("z")
    world.submit("hi")
    [outcome] = world.outcomes
    assert (outcome.errors, outcome.succeeded) == ([("bad", "gone")], 2)
    assert world.received() == {"a": ["hi"], "z": ["hi"]}


class SyncSocket(Socket):
    """A mock whose send is no coroutine function and raises at the call."""

    def send_text(self, data: str) -> Any:
        raise RuntimeError("gone")


async def test_socket_that_raises_at_the_call_is_an_error_and_stops_nobody(world: World) -> None:
    world.add("bad", socket=SyncSocket())
    for client_id in "abcdefgh":
        world.add(client_id)
    world.submit("hi")
    [outcome] = world.outcomes
    assert (outcome.errors, outcome.succeeded) == ([("bad", "gone")], 8)


async def test_stalled_mock_is_pending_and_delays_nobody(world: World) -> None:
    world.add("slow")
    world.sockets["slow"].stall()
    world.add("quick")
    world.submit("hi")
    [outcome] = world.outcomes
    assert ([client_id for client_id, _ in outcome.pending], outcome.succeeded) == (["slow"], 1)
    world.sockets["slow"].may_send.set()
    assert await asyncio.wrap_future(outcome.pending[0][1]) is None
    assert world.received() == {"slow": ["hi"], "quick": ["hi"]}


async def test_socket_that_is_written_to_was_used_and_an_excluded_one_was_not(world: World) -> None:
    world.add("a")
    world.add("b")
    for connection in world.connections.values():
        connection.used_at_s = 0.0
    world.submit("hi", exclude=frozenset({"a"}))
    assert [world.connections[client_id].used_at_s > 0 for client_id in "ab"] == [False, True]


async def test_connection_that_fails_may_leave_the_tables_meanwhile(world: World) -> None:
    for client_id in "abcdefgh":
        world.add(client_id, "x", socket=Socket(error=RuntimeError("gone")))
    forget = world.node.lost

    def lost(connection: Connection, why: Ended, error: str) -> None:
        forget(connection, why, error)
        world.shards.remove(connection)

    world.node.lost = lost  # type: ignore[method-assign]  # as a node does
    world.submit("hi", rooms=("x",))
    assert (len(world.outcomes[0].errors), len(world.shards)) == (8, 0)


# With a worker


@pytest.mark.usefixtures("worker")
async def test_worker_does_jobs_in_the_order_of_submission(world: World) -> None:
    world.add("a")
    for number in range(5):
        world.submit(str(number))
    assert world.outcomes == []
    await turns()
    assert (world.received(), len(world.outcomes)) == ({"a": ["0", "1", "2", "3", "4"]}, 5)


@pytest.mark.usefixtures("worker")
async def test_membership_is_read_when_the_job_is_done(world: World) -> None:
    world.add("a", "x")
    world.submit("hi", rooms=("x",))
    world.shards.leave(world.connections["a"], "x")
    await turns()
    assert world.received() == {}


@pytest.mark.usefixtures("worker")
async def test_bytes_in_the_queue_are_counted_until_they_are_written(world: World) -> None:
    world.submit("12345")
    world.submit("é")
    assert world.fan_out.queued_bytes == 7
    await turns()
    assert world.fan_out.queued_bytes == 0


@pytest.mark.usefixtures("worker")
async def test_full_queue_makes_the_bus_wait_until_there_is_room(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fanout, "QUEUE_LIMIT_BYTES", 5)
    world.submit("12345")
    assert world.fan_out.pause() is None
    world.submit("6")
    pause = world.fan_out.pause()
    assert (pause is not None, world.counters.bus_paused) == (True, 1)
    await asyncio.wait_for(asyncio.ensure_future(pause), 5)  # type: ignore[arg-type]  # it is not None
    assert (world.fan_out.pause(), world.fan_out.queued_bytes <= 5) == (None, True)


async def test_queue_without_a_worker_never_pauses_the_bus(world: World) -> None:
    world.submit("hi")
    assert world.fan_out.pause() is None


async def test_gate_before_a_job_holds_it_and_those_behind_it(world: World) -> None:
    limiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(world.fan_out.run(lambda: None if limiter.done() else limiter))
    await turns()
    world.add("a")
    world.submit("1")
    world.submit("2")
    await turns()
    assert world.received() == {}
    limiter.set_result(None)
    await turns()
    assert world.received() == {"a": ["1", "2"]}
    task.cancel()


async def test_stopped_worker_answers_every_job_that_it_did_not_do(
    world: World, worker: "asyncio.Task[None]"
) -> None:
    world.add("a")
    worker.cancel()
    for number in range(3):
        world.submit(str(number))
    await asyncio.wait([worker])
    assert (world.outcomes, world.received(), world.fan_out.queued_bytes) == ([Outcome()] * 3, {}, 0)


async def test_stopped_worker_lets_the_bus_go_on(
    world: World, worker: "asyncio.Task[None]", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fanout, "QUEUE_LIMIT_BYTES", 0)
    world.submit("12345")
    pause = asyncio.ensure_future(world.fan_out.pause())  # type: ignore[arg-type]  # it is not None
    await turns(1)
    worker.cancel()
    await asyncio.wait_for(pause, 5)
    assert world.fan_out.pause() is None


async def test_worker_may_run_again(world: World, worker: "asyncio.Task[None]") -> None:
    worker.cancel()
    await asyncio.wait([worker])
    again = asyncio.create_task(world.fan_out.run(ungated))
    await turns()
    world.add("a")
    world.submit("hi")
    assert world.received() == {}
    await turns()
    assert world.received() == {"a": ["hi"]}
    again.cancel()


@pytest.mark.usefixtures("worker")
async def test_long_fan_out_gives_the_loop_back_between_shards(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fanout, "SLICE_WRITES", 1)  # every shard takes too long
    for number in range(32):
        world.add(str(number))
    world.submit("hi")
    seen: list[int] = []
    while len(world.received()) < 32:
        await turns(1)
        seen.append(len(world.received()))
    assert len(set(seen) - {0}) > 1


@pytest.mark.usefixtures("worker")
async def test_short_fan_out_keeps_the_loop(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fanout, "SLICE_WRITES", 60)
    for number in range(32):
        world.add(str(number))
    world.submit("hi")
    await turns(1)
    assert len(world.received()) == 32


@pytest.mark.usefixtures("worker")
async def test_duration_of_each_fan_out_is_measured(world: World) -> None:
    world.submit("1")
    await turns()
    world.submit("2")
    await turns()
    assert world.durations.snapshot().count == 2


async def test_durations_are_not_measured_unless_asked(world: World) -> None:
    fan_out = FanOut(world.shards, world.counters, None)
    fan_out.submit(Broadcast(text("hi")))
    task = asyncio.create_task(fan_out.run(ungated))
    await turns()
    fan_out.submit(Broadcast(text("hi")))
    await turns()
    assert (fan_out.queued_bytes, world.durations.snapshot().count) == (0, 0)
    task.cancel()


async def test_each_slow_socket_gets_all_jobs_in_order(world: World) -> None:
    world.add("slow")
    world.sockets["slow"].stall()
    for number in range(5):
        world.submit(str(number))
    world.sockets["slow"].may_send.set()
    await turns()
    assert world.received() == {"slow": ["0", "1", "2", "3", "4"]}


# On native sockets: joined frames


def frame(*messages: str) -> bytes:
    return b"".join(text(message).frame(0) for message in messages)


@dataclass
class Natives:
    """A world whose sockets are native."""

    world: World
    natives: dict[str, FakeNativeSocket] = field(default_factory=dict)

    def add(self, client_id: str, *rooms: str, window_bits: int = 0) -> FakeNativeSocket:
        native = self.natives[client_id] = FakeNativeSocket(window_bits)
        self.world.add(client_id, *rooms, socket=websocket_on(native))
        return native

    def written(self) -> dict[str, list[bytes]]:
        return {client_id: native.writes for client_id, native in self.natives.items() if native.writes}


@pytest.fixture
async def natives(world: World, worker: "asyncio.Task[None]") -> Natives:
    assert not worker.done()
    return Natives(world)


async def test_messages_of_one_batch_are_one_write(natives: Natives) -> None:
    natives.add("a")
    natives.add("b")
    for message in ("1", "2", "3"):
        natives.world.submit(message)
    await turns()
    assert natives.written() == {"a": [frame("1", "2", "3")], "b": [frame("1", "2", "3")]}
    assert natives.world.outcomes == [Outcome(total=2, succeeded=2)] * 3
    assert (natives.world.counters.messages_sent, natives.world.counters.bytes_sent) == (6, 6)


async def test_sender_of_each_message_is_left_out_of_it_alone(natives: Natives) -> None:
    """A chat: every message excludes another client."""
    for client_id in "abc":
        natives.add(client_id)
    for client_id in "ab":
        natives.world.submit(f"by {client_id}", exclude=frozenset({client_id}))
    await turns()
    assert natives.written() == {
        "a": [frame("by b")], "b": [frame("by a")], "c": [frame("by a", "by b")],
    }  # fmt: skip
    assert natives.world.outcomes == [Outcome(total=3, excluded=1, succeeded=2)] * 2
    assert (natives.world.counters.messages_sent, natives.world.counters.bytes_sent) == (4, 4 * len("by a"))


async def test_who_is_left_out_of_all_gets_no_write(natives: Natives) -> None:
    natives.add("a")
    natives.world.submit("hi", exclude=frozenset({"a"}))
    await turns()
    assert (natives.written(), natives.world.outcomes) == ({}, [Outcome(total=1, excluded=1)])


async def test_spared_connection_is_left_out_of_one_message_and_its_clients_others_are_not(
    natives: Natives,
) -> None:
    for client_id in "ab":
        natives.add(client_id)
    spared = natives.world.connections["a"]
    natives.world.submit("not to a", spared=frozenset({spared}))
    natives.world.submit("to all")
    await turns()
    assert natives.written() == {"a": [frame("to all")], "b": [frame("not to a", "to all")]}
    assert natives.world.outcomes == [
        Outcome(total=2, excluded=1, succeeded=1),
        Outcome(total=2, succeeded=2),
    ]


async def test_different_rooms_and_clients_of_one_batch_are_joined_in_order(natives: Natives) -> None:
    natives.add("a", "x", "y")
    natives.add("b", "y")
    natives.world.submit("1", rooms=("x",))
    natives.world.submit("2", rooms=("y",))
    natives.world.post("3", "a")
    natives.world.submit("4")
    await turns()
    assert natives.written() == {"a": [frame("1", "2"), frame("3", "4")], "b": [frame("2"), frame("4")]}
    assert [outcome.succeeded for outcome in natives.world.outcomes] == [1, 2, 1, 2]


async def test_each_socket_gets_the_compression_it_agreed_to(natives: Natives) -> None:
    message = "x" * 2000
    natives.add("plain")
    natives.add("small", window_bits=9)
    natives.add("large", window_bits=12)
    natives.world.submit(message)
    await turns()
    encoded = text(message)
    assert natives.written() == {
        "plain": [encoded.frame(0)], "small": [encoded.frame(9)], "large": [encoded.frame(12)],
    }  # fmt: skip


async def test_stalled_line_is_pushed_to_message_by_message_and_delays_nobody(natives: Natives) -> None:
    stalled = natives.add("slow")
    natives.add("fast")
    await turns()
    stalled.stall()
    natives.world.submit("1")
    natives.world.submit("2")
    await turns()
    assert natives.written() == {"fast": [frame("1", "2")]}
    stalled.read_all()
    await turns()
    assert stalled.writes == [frame("1"), frame("2")]


async def test_batch_ends_at_its_size(natives: Natives, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fanout, "BATCH_BYTES", 5)
    natives.add("a")
    for message in ("123", "45", "6", "1234567", "8"):
        natives.world.submit(message)
    await turns()
    assert natives.written() == {"a": [frame("123", "45"), frame("6"), frame("1234567"), frame("8")]}


async def test_who_left_while_the_loop_was_given_back_gets_nothing(
    natives: Natives, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fanout, "SLICE_WRITES", 1)
    world = natives.world
    world.shards = Shards(1)
    world.fan_out._shards = world.shards
    for client_id in "abc":
        natives.add(client_id, "x")
    world.submit("hi", rooms=("x",))
    while not natives.written():
        await turns(1)
    later = next(client_id for client_id in "cb" if client_id not in natives.written())
    world.shards.leave(world.connections[later], "x")
    await turns()
    assert (later in natives.written(), len(natives.written())) == (False, 2)


async def test_worker_that_is_stopped_between_shards_tells_whoever_waits(
    natives: Natives, worker: "asyncio.Task[None]", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fanout, "SLICE_WRITES", 1)
    for number in range(8):
        natives.add(str(number))
    natives.world.submit("hi")
    while not natives.written():
        await turns(1)
    worker.cancel()
    await asyncio.wait([worker])
    assert (len(natives.world.outcomes), natives.world.fan_out.queued_bytes) == (1, 0)


class Broken(FakeNativeSocket):
    """A native socket that raises."""

    error: Exception = ValueError("broken")

    def write_now(self, data: bytes) -> None:
        raise self.error


async def test_line_that_fails_is_the_failure_of_its_socket_alone(natives: Natives) -> None:
    natives.add("good")
    natives.world.add("bad", socket=websocket_on(Broken()))
    natives.world.submit("1")
    natives.world.submit("2")
    await turns()
    assert natives.written() == {"good": [frame("1", "2")]}
    assert natives.world.outcomes == [Outcome(total=2, succeeded=1, errors=[("bad", "broken")])] * 2
    assert natives.world.node.lost_connections == [("bad", Ended.FAILED, "broken")]
    natives.world.submit("3")
    await turns()
    assert natives.written()["good"][-1] == frame("3"), "the worker goes on"


async def test_line_whose_peer_has_left_is_no_target_of_a_message(natives: Natives) -> None:
    natives.add("good")
    left = Broken()
    left.error = BrokenPipeError("left")
    natives.world.add("left", socket=websocket_on(left))
    natives.world.submit("1")
    await turns()
    assert natives.written() == {"good": [frame("1")]}
    assert natives.world.outcomes == [Outcome(total=1, succeeded=1)]
    assert natives.world.node.lost_connections == [("left", Ended.GONE, "left")]


@pytest.mark.parametrize("excluded", [(), ("bad",)], ids=["for all", "excluded from one of two"])
async def test_frame_that_cannot_be_made_is_the_failure_of_its_socket_alone(
    natives: Natives, excluded: tuple[str, ...]
) -> None:
    """zlib refuses the window that the socket has agreed to."""
    big = "x" * COMPRESS_FROM_BYTES
    natives.add("good")
    bad = FakeNativeSocket(window_bits=8)
    natives.world.add("bad", socket=websocket_on(bad))
    natives.world.submit("small", exclude=frozenset(excluded))
    natives.world.submit(big)
    await turns()
    assert [outcome.errors for outcome in natives.world.outcomes][-1] == [
        ("bad", "Invalid initialization option")
    ]
    assert natives.written()["good"][-1].endswith(frame(big))
    assert natives.world.node.lost_connections == [("bad", Ended.FAILED, "Invalid initialization option")]


async def test_frame_that_cannot_be_made_does_not_stop_direct_messages_to_others(natives: Natives) -> None:
    big = "x" * COMPRESS_FROM_BYTES
    natives.world.add("bad", socket=websocket_on(FakeNativeSocket(window_bits=8)))
    natives.add("good")
    natives.world.fan_out.submit(DirectMessages([(text(big), ("bad", "good")), (text("next"), ("good",))]))
    await turns()
    assert natives.written()["good"][-1].endswith(frame(big, "next"))
    assert natives.world.node.lost_connections == [("bad", Ended.FAILED, "Invalid initialization option")]


async def test_one_who_cannot_be_told_does_not_keep_it_from_the_others(
    natives: Natives, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(outcome: Outcome) -> None:
        raise ValueError("no ears")

    natives.add("a")
    natives.world.fan_out.submit(Broadcast(text("1"), done=fail))
    natives.world.submit("2")
    await turns()
    assert (len(natives.world.outcomes), natives.world.fan_out.queued_bytes) == (1, 0)
    assert "a result could not be delivered to its caller" in caplog.text


async def test_every_message_on_a_line_is_counted_once(natives: Natives) -> None:
    for client_id in "abc":
        natives.add(client_id)
    for client_id in "ab":
        natives.world.submit(f"by {client_id}", exclude=frozenset({client_id}))
    await turns()
    assert natives.world.counters.messages_sent == 4


@pytest.mark.parametrize("rooms", [1, 2])
async def test_loop_is_given_back_inside_a_large_shard(
    natives: Natives, monkeypatch: pytest.MonkeyPatch, rooms: int
) -> None:
    monkeypatch.setattr(fanout, "SLICE_WRITES", 2)
    world = natives.world
    world.shards = Shards(1)
    world.fan_out._shards = world.shards
    for number in range(8):
        natives.add(str(number), "x", "y")
    for room in "xy"[:rooms]:
        world.submit("hi", rooms=(room,))
    steps = []
    while len(natives.written()) < 8:
        await turns(1)
        steps.append(len(natives.written()))
    assert max(b - a for a, b in zip([0, *steps], steps, strict=False)) <= 2


# Parts of one message


async def test_member_of_several_rooms_gets_the_part_of_the_first(world: World) -> None:
    world.add("a", "x")
    world.add("ab", "x", "y")
    world.add("b", "y")
    outcome = Outcome()
    for message, room, outside in (("for x", "x", ()), ("for y", "y", ("x",))):
        done = world.outcomes.append if outside else None
        part = Broadcast(text(message), (room,), done=done, outside=outside, outcome=outcome)
        world.fan_out.submit(part)
    assert world.received() == {"a": ["for x"], "ab": ["for x"], "b": ["for y"]}
    assert [(each.total, each.succeeded) for each in world.outcomes] == [(3, 3)]


async def test_parts_of_a_message_are_in_one_batch_whatever_their_size(
    world: World, worker: "asyncio.Task[None]", monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a socket that changes rooms in between gets the message once."""
    monkeypatch.setattr(fanout, "BATCH_BYTES", 10)
    monkeypatch.setattr(fanout, "SLICE_WRITES", 1)
    natives = [FakeNativeSocket() for _ in range(40)]
    for number, native in enumerate(natives):
        world.add(f"mover-{number}", "x" if number % 2 else "y", socket=websocket_on(native))
    for room, outside in (("x", ()), ("y", ("x",))):
        world.fan_out.submit(Broadcast(text("x" * 20), (room,), outside=outside))
    for _ in range(10):
        await asyncio.sleep(0)
    assert 0 < sum(len(native.writes) for native in natives) < 40, "the change is amid the writes"
    for connection in world.connections.values():
        here, there = ("x", "y") if "x" in connection.rooms else ("y", "x")
        world.shards.leave(connection, here)
        world.shards.join(connection, there)
    await turns(200)
    assert [len(native.writes) for native in natives] == [1] * 40


# Members of logs that read too slowly


@pytest.mark.usefixtures("worker")
async def test_volatile_messages_behind_the_entry_that_stops_a_slow_member_are_counted(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def falls_behind(connection: Connection, message: Encoded) -> bool:
        is_behind = connection.client_id == "slow" and message.address.id > 0
        if is_behind:
            world.shards.hold(connection, "lobby", is_behind=True)
        return is_behind

    monkeypatch.setattr(Connection, "falls_behind", falls_behind)
    for client_id in ("slow", "quick"):
        world.add(client_id, "lobby", "other")

    def submit(name: str, room: str, id_: int = 0, **options: Any) -> None:
        message = text(name).addressed(Address(room, id_))
        world.fan_out.submit(Broadcast(message, (room,), done=world.outcomes.append, **options))

    submit("before", "lobby")
    submit("entry", "lobby", 1)
    submit("behind", "lobby")
    submit("not for it", "lobby", exclude=frozenset({"slow"}))
    submit("entry behind", "lobby", 2)
    submit("in another room", "other")
    submit("behind as well", "lobby")
    await turns()
    assert world.sockets["slow"].sent == ["before", "entry", "in another room"]
    assert len(world.sockets["quick"].sent) == 7
    assert world.counters.messages_dropped == 2
    submit("in the next batch", "lobby")
    await turns()
    assert world.counters.messages_dropped == 3
