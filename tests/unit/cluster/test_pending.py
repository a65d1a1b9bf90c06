"""What a node waits for: its own messages coming back, and other nodes' answers."""

import asyncio
from functools import partial
from typing import Any

import pytest

from fastapi_websocket_stabilizer.cluster.answers import are_names
from fastapi_websocket_stabilizer.cluster.pending import (
    LATE_S,
    MAX_OVERDUE,
    OVERDUE_FOR_S,
    UNHEARD_LIMIT_BYTES,
    Asks,
    Unheard,
)
from fastapi_websocket_stabilizer.local.jobs import Job, Mail, Tally, tell
from fastapi_websocket_stabilizer.names import NodeId
from tests.unit.fakes import LIMIT, Clock, text, turns

A, B = NodeId("a"), NodeId("b")


# Own messages


async def test_message_that_came_back_brings_its_tally() -> None:
    unheard, tally = Unheard(lambda _: None), Tally(total=3)
    waiting = unheard.expect(1, 100)
    assert (bool(unheard), unheard.bytes) == (True, 100)
    unheard.heard(1, tally)
    assert (await waiting is tally, bool(unheard), unheard.bytes) == (True, False, 0)


async def test_message_that_nobody_expects_changes_nothing() -> None:
    unheard = Unheard(lambda _: None)
    unheard.expect(1, 100)
    unheard.heard(2, Tally())
    assert unheard.bytes == 100


async def test_message_is_heard_once() -> None:
    unheard = Unheard(lambda _: None)
    waiting = unheard.expect(1, 100)
    unheard.heard(1, None)
    unheard.heard(1, Tally())
    assert (await waiting, unheard.bytes) == (None, 0)


async def test_message_whose_sender_gave_up_is_still_taken_off_the_sum() -> None:
    unheard = Unheard(lambda _: None)
    unheard.expect(1, 100).cancel()
    unheard.heard(1, Tally())
    assert (bool(unheard), unheard.bytes) == (False, 0)


async def test_a_lost_bus_gives_up_what_redis_took_and_keeps_what_it_may_still_bring() -> None:
    unheard = Unheard(lambda _: None)
    taken, queued = unheard.expect(1, 100), unheard.expect(2, 20)
    unheard.expire(1, 3.0)  # its publish was answered
    unheard.give_up_published()
    assert (await taken, queued.done(), unheard.bytes) == (None, False, 20)


@pytest.mark.parametrize(("room", "left"), [(None, 0), ("x", 5), ("y", 3)])
async def test_giving_up_ends_all_or_those_of_one_room(room: str | None, left: int) -> None:
    unheard = Unheard(lambda _: None)
    futures = [unheard.expect(1, 1), unheard.expect(2, 2, "x"), unheard.expect(3, 4, "y")]
    unheard.give_up(room)
    assert unheard.bytes == left
    assert sum(future.done() for future in futures) == (3 if room is None else 1)


async def test_sender_waits_while_too_much_is_on_its_way() -> None:
    unheard = Unheard(lambda _: None)
    for sequence in (1, 2):
        unheard.expect(sequence, UNHEARD_LIMIT_BYTES)
    waiting = asyncio.create_task(unheard.room_for_more())
    await turns()
    assert not waiting.done()
    unheard.heard(1, None)
    await asyncio.wait_for(waiting, 5)


async def test_sender_does_not_wait_below_the_limit() -> None:
    unheard = Unheard(lambda _: None)
    unheard.expect(1, UNHEARD_LIMIT_BYTES)
    await asyncio.wait_for(unheard.room_for_more(), 5)


async def test_small_message_that_came_back_does_not_let_all_through() -> None:
    unheard = Unheard(lambda _: None)
    unheard.expect(1, UNHEARD_LIMIT_BYTES * 2)
    unheard.expect(2, 1)
    waiting = asyncio.create_task(unheard.room_for_more())
    await turns()
    unheard.heard(2, None)
    await turns()
    assert not waiting.done()
    unheard.give_up()
    await asyncio.wait_for(waiting, 5)


def test_sender_may_wait_again_on_another_event_loop() -> None:
    """One manager of a module serves several lifespans, each on a loop of its own."""
    unheard = Unheard(lambda _: None)

    async def wait_once() -> None:
        unheard.expect(1, UNHEARD_LIMIT_BYTES + 1)
        waiting = asyncio.create_task(unheard.room_for_more())
        await turns()
        unheard.give_up()
        await waiting

    for _ in range(2):
        asyncio.run(wait_once())


# Messages to own sockets, behind own publications


class Order:
    """What was handed to the fan-out, in order; a test says when it was written."""

    def __init__(self) -> None:
        self.jobs: list[Job | Mail] = []
        self.unheard: Unheard = Unheard(self.jobs.append)

    def expect(self, *sequences: int) -> None:
        for sequence in sequences:
            self.unheard.expect(sequence, 1)

    def send(self, body: str) -> "asyncio.Future[None]":
        return self.unheard.follow(Mail([(text(body), ("alice",))]))

    def arrive(self, sequence: int) -> None:
        done = partial(self.unheard.heard, sequence)
        self.unheard.arrived(sequence, Job(text(f"#{sequence}"), done=done))

    @property
    def bodies(self) -> list[str | bytes]:
        jobs = [job.message if isinstance(job, Job) else job.letters[0][0] for job in self.jobs]
        return [message.payload for message in jobs]

    @property
    def excluded(self) -> set[str]:
        return {name for job in self.jobs if isinstance(job, Job) for name in job.exclude}

    def write(self) -> None:
        for job in self.jobs:
            tell(job)
        self.jobs.clear()


async def test_message_waits_for_the_last_publication_before_it_and_goes_right_behind_it() -> None:
    order = Order()
    order.expect(1, 2)
    order.send("a")
    order.send("b")
    order.expect(3)
    order.send("c")
    order.arrive(1)
    assert order.bodies == ["#1"]
    order.arrive(2)
    assert order.bodies == ["#1", "#2", "a", "b"]
    order.arrive(3)
    assert order.bodies == ["#1", "#2", "a", "b", "#3", "c"]


async def test_message_behind_publications_that_have_arrived_is_fanned_out_behind_them() -> None:
    order = Order()
    order.expect(1)
    order.arrive(1)
    order.send("a")
    assert order.bodies == ["#1", "a"]


async def test_what_is_sent_next_stays_behind_a_message_that_is_not_written_yet() -> None:
    order = Order()
    order.expect(1)
    order.arrive(1)
    written = order.send("a")
    assert (bool(order.unheard), order.unheard.bytes) == (True, 2)
    order.write()
    await written
    assert (bool(order.unheard), order.unheard.bytes) == (False, 0)


async def test_message_behind_a_publication_that_is_given_up_waits_for_the_one_before_that() -> None:
    order = Order()
    order.expect(1, 2)
    order.send("a")
    order.unheard.heard(2, None)
    assert order.bodies == []
    order.arrive(1)
    assert order.bodies == ["#1", "a"]


@pytest.mark.parametrize("end", ["heard", "give_up"])
async def test_message_behind_a_publication_that_never_comes_is_fanned_out(end: str) -> None:
    order = Order()
    order.expect(1)
    order.send("a")
    if end == "heard":
        order.unheard.heard(1, None)
    else:
        order.unheard.give_up()
    assert order.bodies == ["a"]


async def test_publication_that_comes_late_or_twice_releases_nothing_again() -> None:
    order = Order()
    order.expect(1)
    order.send("a")
    order.unheard.heard(1, None)
    order.expect(2)
    order.send("b")
    order.arrive(1)
    order.arrive(1)
    assert order.bodies == ["a", "#1", "#1"]  # which of them is a repetition, the sequences decide
    order.arrive(2)
    assert order.bodies[3:] == ["#2", "b"]


async def test_publication_that_overtakes_others_lets_go_of_what_waits_behind_them() -> None:
    order = Order()
    order.expect(1)
    order.send("a")
    order.expect(2)
    order.send("b")
    order.arrive(2)
    assert order.bodies == ["a", "#2", "b"]
    order.arrive(1)  # in a cluster, on another channel
    assert order.bodies == ["a", "#2", "b", "#1"]


async def test_cancelled_caller_takes_no_message_back() -> None:
    order = Order()
    order.expect(1)
    order.send("a").cancel()
    order.arrive(1)
    order.write()
    assert not order.unheard


async def test_message_that_waits_counts_for_the_bound() -> None:
    order = Order()
    order.expect(1)
    for _ in range(UNHEARD_LIMIT_BYTES // LIMIT + 1):
        order.send("x" * LIMIT)
    assert order.unheard.must_wait


async def test_senders_go_on_in_the_order_in_which_they_came_and_no_newer_one_passes() -> None:
    order, went = Order(), list[str]()

    async def send(name: str) -> None:
        if order.unheard.must_wait:
            await order.unheard.room_for_more()
        went.append(name)

    order.unheard.expect(1, UNHEARD_LIMIT_BYTES + 1)
    waiting = [asyncio.create_task(send(name)) for name in ("a", "b")]
    await turns()
    order.unheard.heard(1, None)
    assert order.unheard, "nothing may overtake them although nothing is on its way"
    await send("c")
    await asyncio.gather(*waiting)
    assert (went, bool(order.unheard), order.unheard.must_wait) == (["a", "b", "c"], False, False)


async def test_deadline_gives_a_publication_up() -> None:
    clock, order = Clock(), Order()
    order.expect(1)
    order.send("a")
    order.unheard.expire(1, 3.0)
    clock.advance(3.0)
    await turns()
    assert order.bodies == ["a"]


async def test_publication_that_misses_its_deadline_comes_behind_no_later_message() -> None:
    clock, order = Clock(), Order()
    order.expect(1)
    order.unheard.follow(Mail([(text("held"), ("alice",))]))
    order.unheard.expire(1, 3.0)
    clock.advance(3.0)
    await turns()
    assert order.unheard, "what is sent next is noted"
    order.unheard.follow(Mail([(text("later"), ("bob", "carol"))]))
    order.arrive(1)
    assert order.bodies == ["held", "later", "#1"]
    assert order.excluded == {"alice", "bob", "carol"}
    order.write()
    assert not order.unheard


async def test_publication_that_is_long_overdue_is_waited_for_no_longer() -> None:
    clock, order = Clock(), Order()
    order.expect(1)
    order.unheard.expire(1, 3.0)
    clock.advance(3.0)
    await turns()
    clock.advance(OVERDUE_FOR_S)
    await turns()
    assert not order.unheard


async def test_overdue_publications_that_are_remembered_are_bounded() -> None:
    clock, order = Clock(), Order()
    order.expect(*range(MAX_OVERDUE + 5))
    for sequence in range(MAX_OVERDUE + 5):
        order.unheard.expire(sequence, 3.0)
    clock.advance(3.0)
    await turns()
    assert len(order.unheard._overdue) == MAX_OVERDUE


async def test_deadline_that_passed_while_the_process_stood_still_is_put_off_once() -> None:
    clock, order = Clock(), Order()
    order.expect(1)
    order.send("a")
    order.unheard.expire(1, 3.0)
    clock.advance(3.0 + 2 * LATE_S)
    await turns()
    assert order.bodies == []
    clock.advance(3 * LATE_S)
    await turns()
    assert order.bodies == ["a"]


async def test_publication_that_arrived_while_the_process_stood_still_keeps_its_place() -> None:
    clock, order = Clock(), Order()
    order.expect(1)
    order.send("a")
    order.unheard.expire(1, 3.0)
    clock.advance(60.0)
    await turns()
    order.arrive(1)
    assert order.bodies == ["#1", "a"]


# Answers


def is_any(answer: Any) -> bool:
    return True


async def gather(asks: Asks, ask: int, expected: int, timeout_s: float = 60.0) -> dict[NodeId, Any]:
    async with asyncio.timeout(10.0):
        return await asks.gather(ask, expected, timeout_s)


async def test_all_answers_end_the_wait() -> None:
    asks = Asks()
    ask = asks.open(is_any)
    waiting = asyncio.create_task(gather(asks, ask, 2))
    await turns()
    for node in (A, B):
        asks.answered(ask, node, node * 2)
    assert await waiting == {A: "aa", B: "bb"}


async def test_answers_that_came_before_the_wait_count() -> None:
    asks = Asks()
    ask = asks.open(is_any)
    asks.answered(ask, A, 1)
    assert await gather(asks, ask, 1) == {A: 1}


async def test_question_to_nobody_is_answered_at_once() -> None:
    asks = Asks()
    assert await gather(asks, asks.open(is_any), 0) == {}


async def test_deadline_ends_the_wait_with_what_came() -> None:
    clock, asks = Clock(), Asks()
    ask = asks.open(is_any)
    waiting = asyncio.create_task(gather(asks, ask, 2, 3.0))
    await turns()
    asks.answered(ask, A, 1)
    await turns()
    assert not waiting.done()
    clock.advance(3.1)
    assert await waiting == {A: 1}


async def test_repeated_answer_of_a_node_is_one_answer() -> None:
    clock, asks = Clock(), Asks()
    ask = asks.open(is_any)
    waiting = asyncio.create_task(gather(asks, ask, 2, 3.0))
    await turns()
    for answer in (1, 2):
        asks.answered(ask, A, answer)
    await turns()
    assert not waiting.done()
    clock.advance(3.1)
    assert await waiting == {A: 2}


async def test_questions_have_names_of_their_own_and_none_is_zero() -> None:
    asks = Asks()
    first, second = asks.open(is_any), asks.open(is_any)
    asks.answered(first, A, 1)
    asks.answered(second, A, 2)
    assert [await gather(asks, ask, 1) for ask in (second, first)] == [{A: 2}, {A: 1}]
    assert 0 not in (first, second)


async def test_answer_after_the_wait_is_dropped() -> None:
    asks = Asks()
    ask = asks.open(is_any)
    answers = await gather(asks, ask, 0)
    asks.answered(ask, A, 1)
    assert answers == {}


async def test_nothing_is_kept_of_a_question_that_was_given_up() -> None:
    asks = Asks()
    cancelled, closed = asks.open(is_any), asks.open(is_any)
    waiting = asyncio.create_task(gather(asks, cancelled, 1))
    await turns()
    waiting.cancel()
    await asyncio.wait([waiting])
    asks.close(closed)
    asks.close(closed)
    assert asks._open == {}


async def test_answer_of_a_wrong_form_is_refused_and_does_not_end_the_wait() -> None:
    asks = Asks()
    ask = asks.open(are_names)
    with pytest.raises(ValueError, match="wrong form"):
        asks.answered(ask, A, "alice")
    asks.answered(ask, B, ["alice"])
    assert await gather(asks, ask, 1) == {B: ["alice"]}
