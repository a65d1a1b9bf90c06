"""What a node waits for: its own messages coming back, and other nodes' answers."""

import asyncio
from functools import partial

import pytest

from fastapi_websocket_stabilizer.local.batches import Broadcast, DirectMessages, Outcome, tell
from fastapi_websocket_stabilizer.names import NodeId
from fastapi_websocket_stabilizer.registry.in_flight import (
    IN_FLIGHT_LIMIT_BYTES,
    LATE_S,
    MAX_OVERDUE,
    OVERDUE_FOR_S,
    InFlight,
)
from fastapi_websocket_stabilizer.wire.channels import ALL, Channel, box_of
from tests.unit.fakes import LIMIT, Clock, text, turns

A, B = NodeId("a"), NodeId("b")


# Own messages


async def test_message_that_came_back_brings_its_tally() -> None:
    in_flight, outcome = InFlight(lambda _: None), Outcome(total=3)
    waiting = in_flight.register(1, 100)
    assert (bool(in_flight), in_flight.bytes) == (True, 100)
    in_flight.resolve(1, outcome)
    assert (await waiting is outcome, bool(in_flight), in_flight.bytes) == (True, False, 0)


async def test_message_that_nobody_expects_changes_nothing() -> None:
    in_flight = InFlight(lambda _: None)
    in_flight.register(1, 100)
    in_flight.resolve(2, Outcome())
    assert in_flight.bytes == 100


async def test_message_is_heard_once() -> None:
    in_flight = InFlight(lambda _: None)
    waiting = in_flight.register(1, 100)
    in_flight.resolve(1, None)
    in_flight.resolve(1, Outcome())
    assert (await waiting, in_flight.bytes) == (None, 0)


async def test_message_whose_sender_gave_up_is_still_taken_off_the_sum() -> None:
    in_flight = InFlight(lambda _: None)
    in_flight.register(1, 100).cancel()
    in_flight.resolve(1, Outcome())
    assert (bool(in_flight), in_flight.bytes) == (False, 0)


async def test_a_lost_bus_gives_up_what_redis_took_and_keeps_what_it_may_still_bring() -> None:
    in_flight = InFlight(lambda _: None)
    taken, queued = in_flight.register(1, 100), in_flight.register(2, 20)
    in_flight.expire(1, 3.0)  # its publish was answered
    in_flight.give_up_published()
    assert (await taken, queued.done(), in_flight.bytes) == (None, False, 20)


@pytest.mark.parametrize(("channel", "left"), [(None, 0), (Channel("room", "x"), 5), (box_of("x"), 3)])
async def test_giving_up_ends_all_or_those_of_one_channel(channel: Channel | None, left: int) -> None:
    in_flight = InFlight(lambda _: None)
    channels = ALL, Channel("room", "x"), box_of("x")
    futures = [in_flight.register(n, 2 ** (n - 1), each) for n, each in enumerate(channels, 1)]
    in_flight.give_up(channel)
    assert in_flight.bytes == left
    assert sum(future.done() for future in futures) == (3 if channel is None else 1)


async def test_sender_waits_while_too_much_is_on_its_way() -> None:
    in_flight = InFlight(lambda _: None)
    for sequence in (1, 2):
        in_flight.register(sequence, IN_FLIGHT_LIMIT_BYTES)
    waiting = asyncio.create_task(in_flight.room_for_more())
    await turns()
    assert not waiting.done()
    in_flight.resolve(1, None)
    await asyncio.wait_for(waiting, 5)


async def test_sender_does_not_wait_below_the_limit() -> None:
    in_flight = InFlight(lambda _: None)
    in_flight.register(1, IN_FLIGHT_LIMIT_BYTES)
    await asyncio.wait_for(in_flight.room_for_more(), 5)


async def test_small_message_that_came_back_does_not_let_all_through() -> None:
    in_flight = InFlight(lambda _: None)
    in_flight.register(1, IN_FLIGHT_LIMIT_BYTES * 2)
    in_flight.register(2, 1)
    waiting = asyncio.create_task(in_flight.room_for_more())
    await turns()
    in_flight.resolve(2, None)
    await turns()
    assert not waiting.done()
    in_flight.give_up()
    await asyncio.wait_for(waiting, 5)


def test_sender_may_wait_again_on_another_event_loop() -> None:
    """One manager of a module serves several lifespans, each on a loop of its own."""
    in_flight = InFlight(lambda _: None)

    async def wait_once() -> None:
        in_flight.register(1, IN_FLIGHT_LIMIT_BYTES + 1)
        waiting = asyncio.create_task(in_flight.room_for_more())
        await turns()
        in_flight.give_up()
        await waiting

    for _ in range(2):
        asyncio.run(wait_once())


# Messages to own sockets, behind own publications


class Order:
    """What was handed to the fan-out, in order; a test says when it was written."""

    def __init__(self) -> None:
        self.submitted: list[Broadcast | DirectMessages] = []
        self.in_flight: InFlight = InFlight(self.submitted.append)

    def register(self, *sequences: int, is_stored: bool = False) -> None:
        for sequence in sequences:
            self.in_flight.register(sequence, 1, is_stored=is_stored)

    def send(self, body: str, *client_ids: str) -> "asyncio.Future[Outcome]":
        return self.in_flight.follow(text(body), client_ids or ("alice",))

    def arrive(self, sequence: int) -> None:
        done = partial(self.in_flight.resolve, sequence)
        self.in_flight.arrived(sequence, Broadcast(text(f"#{sequence}"), done=done))

    @property
    def bodies(self) -> list[str | bytes]:
        submitted = [
            work.message if isinstance(work, Broadcast) else work.messages[0][0] for work in self.submitted
        ]
        return [message.payload for message in submitted]

    @property
    def excluded(self) -> set[str]:
        return {name for work in self.submitted if isinstance(work, Broadcast) for name in work.exclude}

    def write(self) -> None:
        for work in self.submitted:
            tell(work)
        self.submitted.clear()


async def test_message_waits_for_the_last_publication_before_it_and_goes_right_behind_it() -> None:
    order = Order()
    order.register(1, 2)
    order.send("a")
    order.send("b")
    order.register(3)
    order.send("c")
    order.arrive(1)
    assert order.bodies == ["#1"]
    order.arrive(2)
    assert order.bodies == ["#1", "#2", "a", "b"]
    order.arrive(3)
    assert order.bodies == ["#1", "#2", "a", "b", "#3", "c"]


async def test_message_behind_publications_that_have_arrived_is_fanned_out_behind_them() -> None:
    order = Order()
    order.register(1)
    order.arrive(1)
    order.send("a")
    assert order.bodies == ["#1", "a"]


async def test_what_is_sent_next_stays_behind_a_message_that_is_not_written_yet() -> None:
    order = Order()
    order.register(1)
    order.arrive(1)
    written = order.send("a")
    assert (bool(order.in_flight), order.in_flight.bytes) == (True, 2)
    order.write()
    await written
    assert (bool(order.in_flight), order.in_flight.bytes) == (False, 0)


async def test_message_behind_a_publication_that_is_given_up_waits_for_the_one_before_that() -> None:
    order = Order()
    order.register(1, 2)
    order.send("a")
    order.in_flight.resolve(2, None)
    assert order.bodies == []
    order.arrive(1)
    assert order.bodies == ["#1", "a"]


@pytest.mark.parametrize("end", ["heard", "give_up"])
async def test_message_behind_a_publication_that_never_comes_is_fanned_out(end: str) -> None:
    order = Order()
    order.register(1)
    order.send("a")
    if end == "heard":
        order.in_flight.resolve(1, None)
    else:
        order.in_flight.give_up()
    assert order.bodies == ["a"]


async def test_publication_that_comes_late_or_twice_releases_nothing_again() -> None:
    order = Order()
    order.register(1)
    order.send("a")
    order.in_flight.resolve(1, None)
    order.register(2)
    order.send("b")
    order.arrive(1)
    order.arrive(1)
    assert order.bodies == ["a", "#1", "#1"]  # which of them is a repetition, the sequences decide
    order.arrive(2)
    assert order.bodies[3:] == ["#2", "b"]


@pytest.mark.parametrize("is_stored", [False, True])
async def test_publication_that_overtakes_others_lets_go_of_what_waits_behind_them(
    *, is_stored: bool
) -> None:
    order = Order()
    order.register(1, is_stored=is_stored)
    order.send("a")
    order.register(2)
    order.send("b")
    order.arrive(2)
    assert order.bodies == ["a", "#2", "b"]
    order.arrive(1)  # in a cluster, on another channel; or its log waited for a read
    assert order.bodies == ["a", "#2", "b", "#1"]


async def test_cancelled_caller_takes_no_message_back() -> None:
    order = Order()
    order.register(1)
    order.send("a").cancel()
    order.arrive(1)
    order.write()
    assert not order.in_flight


async def test_message_that_waits_counts_for_the_bound() -> None:
    order = Order()
    order.register(1)
    for _ in range(IN_FLIGHT_LIMIT_BYTES // LIMIT + 1):
        order.send("x" * LIMIT)
    assert order.in_flight.must_wait


async def test_senders_go_on_in_the_order_in_which_they_came_and_no_newer_one_passes() -> None:
    order, went = Order(), list[str]()

    async def send(name: str) -> None:
        if order.in_flight.must_wait:
            await order.in_flight.room_for_more()
        went.append(name)

    order.in_flight.register(1, IN_FLIGHT_LIMIT_BYTES + 1)
    waiting = [asyncio.create_task(send(name)) for name in ("a", "b")]
    await turns()
    order.in_flight.resolve(1, None)
    assert order.in_flight, "nothing may overtake them although nothing is on its way"
    await send("c")
    await asyncio.gather(*waiting)
    assert (went, bool(order.in_flight), order.in_flight.must_wait) == (["a", "b", "c"], False, False)


async def test_deadline_gives_a_publication_up() -> None:
    clock, order = Clock(), Order()
    order.register(1)
    order.send("a")
    order.in_flight.expire(1, 3.0)
    clock.advance(3.0)
    await turns()
    assert order.bodies == ["a"]


async def test_publication_that_misses_its_deadline_comes_behind_no_later_message() -> None:
    clock, order = Clock(), Order()
    order.register(1)
    order.send("held")
    order.in_flight.expire(1, 3.0)
    clock.advance(3.0)
    await turns()
    assert order.in_flight, "what is sent next is noted"
    order.send("later", "bob", "carol")
    order.arrive(1)
    assert order.bodies == ["held", "later", "#1"]
    assert order.excluded == {"alice", "bob", "carol"}
    order.write()
    assert not order.in_flight


async def test_publication_that_is_long_overdue_is_waited_for_no_longer() -> None:
    clock, order = Clock(), Order()
    order.register(1)
    order.in_flight.expire(1, 3.0)
    clock.advance(3.0)
    await turns()
    clock.advance(OVERDUE_FOR_S)
    await turns()
    assert not order.in_flight


async def test_overdue_publications_that_are_remembered_are_bounded() -> None:
    clock, order = Clock(), Order()
    order.register(*range(MAX_OVERDUE + 5))
    for sequence in range(MAX_OVERDUE + 5):
        order.in_flight.expire(sequence, 3.0)
    clock.advance(3.0)
    await turns()
    assert len(order.in_flight._overdue) == MAX_OVERDUE


async def test_deadline_that_passed_while_the_process_stood_still_is_put_off_once() -> None:
    clock, order = Clock(), Order()
    order.register(1)
    order.send("a")
    order.in_flight.expire(1, 3.0)
    clock.advance(3.0 + 2 * LATE_S)
    await turns()
    assert order.bodies == []
    clock.advance(3 * LATE_S)
    await turns()
    assert order.bodies == ["a"]


async def test_publication_that_arrived_while_the_process_stood_still_keeps_its_place() -> None:
    clock, order = Clock(), Order()
    order.register(1)
    order.send("a")
    order.in_flight.expire(1, 3.0)
    clock.advance(60.0)
    await turns()
    order.arrive(1)
    assert order.bodies == ["#1", "a"]
