"""What a node waits for: its own messages coming back, and other nodes' answers."""

import asyncio
from typing import Any

import pytest

from fastapi_websocket_stabilizer.cluster.answers import are_names
from fastapi_websocket_stabilizer.cluster.pending import UNHEARD_LIMIT_BYTES, Asks, Unheard
from fastapi_websocket_stabilizer.local.jobs import Tally
from fastapi_websocket_stabilizer.names import NodeId
from tests.unit.fakes import Clock, turns

A, B = NodeId("a"), NodeId("b")


# Own messages


async def test_message_that_came_back_brings_its_tally() -> None:
    unheard, tally = Unheard(), Tally(total=3)
    waiting = unheard.expect(1, 100)
    assert (bool(unheard), unheard.bytes) == (True, 100)
    unheard.heard(1, tally)
    assert (await waiting is tally, bool(unheard), unheard.bytes) == (True, False, 0)


async def test_messages_that_share_an_envelope_come_back_together() -> None:
    unheard = Unheard()
    unheard.expect(1, 100)
    unheard.expect(1, 20)
    assert unheard.bytes == 120
    unheard.heard(1, None)
    assert (bool(unheard), unheard.bytes) == (False, 0)


async def test_message_that_nobody_expects_changes_nothing() -> None:
    unheard = Unheard()
    unheard.expect(1, 100)
    unheard.heard(2, Tally())
    assert unheard.bytes == 100


async def test_message_is_heard_once() -> None:
    unheard = Unheard()
    waiting = unheard.expect(1, 100)
    unheard.heard(1, None)
    unheard.heard(1, Tally())
    assert (await waiting, unheard.bytes) == (None, 0)


async def test_message_whose_sender_gave_up_is_still_taken_off_the_sum() -> None:
    unheard = Unheard()
    unheard.expect(1, 100).cancel()
    unheard.heard(1, Tally())
    assert (bool(unheard), unheard.bytes) == (False, 0)


async def test_a_lost_bus_gives_up_what_redis_took_and_keeps_what_it_may_still_bring() -> None:
    unheard = Unheard()
    taken, queued = unheard.expect(1, 100), unheard.expect(2, 20)
    unheard.expire(1, 3.0)  # its publish was answered
    unheard.give_up_published()
    assert (await taken, queued.done(), unheard.bytes) == (None, False, 20)


@pytest.mark.parametrize(("room", "left"), [(None, 0), ("x", 5), ("y", 3)])
async def test_giving_up_ends_all_or_those_of_one_room(room: str | None, left: int) -> None:
    unheard = Unheard()
    futures = [unheard.expect(1, 1), unheard.expect(2, 2, "x"), unheard.expect(3, 4, "y")]
    unheard.give_up(room)
    assert unheard.bytes == left
    assert sum(future.done() for future in futures) == (3 if room is None else 1)


async def test_sender_waits_while_too_much_is_on_its_way() -> None:
    unheard = Unheard()
    for sequence in (1, 2):
        unheard.expect(sequence, UNHEARD_LIMIT_BYTES)
    waiting = asyncio.create_task(unheard.room_for_more())
    await turns()
    assert not waiting.done()
    unheard.heard(1, None)
    await asyncio.wait_for(waiting, 5)


async def test_sender_does_not_wait_below_the_limit() -> None:
    unheard = Unheard()
    unheard.expect(1, UNHEARD_LIMIT_BYTES)
    await asyncio.wait_for(unheard.room_for_more(), 5)


async def test_small_message_that_came_back_does_not_let_all_through() -> None:
    unheard = Unheard()
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
    unheard = Unheard()

    async def wait_once() -> None:
        unheard.expect(1, UNHEARD_LIMIT_BYTES + 1)
        waiting = asyncio.create_task(unheard.room_for_more())
        await turns()
        unheard.give_up()
        await waiting

    for _ in range(2):
        asyncio.run(wait_once())


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
