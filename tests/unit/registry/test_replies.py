"""Answers of other nodes: of any JSON, only what a caller can use is one."""

import asyncio
import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastapi_websocket_stabilizer.backends.redis.connection import WrongTypeError
from fastapi_websocket_stabilizer.exceptions import (
    BackendUnavailableError,
    ConnectionLimitExceededError,
    ConnectionNotFoundError,
    WebSocketStabilizerError,
)
from fastapi_websocket_stabilizer.names import NodeId
from fastapi_websocket_stabilizer.registry.replies import PendingReplies, are_names, is_outcome, is_report
from fastapi_websocket_stabilizer.registry.requests import _packed, _touched
from tests.unit.fakes import Clock, turns

A, B = NodeId("a"), NodeId("b")

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=12,
)


def test_what_nodes_answer_is_an_answer() -> None:
    assert is_outcome(0)
    assert is_outcome(["ConnectionNotFoundError", "gone", {}])
    assert is_outcome(["BackendUnavailableError", "away", {"outcome_unknown": True, "scope": None}])
    assert are_names([])
    assert are_names(["alice", "bob"])
    assert is_report([3, 1, 1, 1, [["alice", "slow"]]])
    assert is_report([3, 1, 1, 1, [("alice", None)]])


@given(anything)
def test_anything_is_no_answer_or_one_that_can_be_used(answer: Any) -> None:
    if is_outcome(answer):
        with suppress(WebSocketStabilizerError):
            assert isinstance(_touched(answer), int)
    if are_names(answer):
        assert len(set(answer)) <= len(answer)
    if is_report(answer):
        assert isinstance(sum(answer[:4]), int)
        assert len({client_id for client_id, _ in answer[4]}) <= len(answer[4])


@pytest.mark.parametrize(
    "answer",
    [True, 1.5, "1", None, {}, [], ["a"], ["a", "b"], ["a", "b", "c"], ["a", 1, {}], ["a", "b", {"c": []}]],
)
def test_wrong_outcome_is_none(answer: Any) -> None:
    assert not is_outcome(answer)


ERRORS = [
    ConnectionLimitExceededError("full", scope="rooms", limit=1, current=1),
    BackendUnavailableError("away", outcome_unknown=True),
    ConnectionNotFoundError("gone"),
]


@pytest.mark.parametrize("error", ERRORS, ids=repr)
def test_error_comes_back_with_its_values(error: WebSocketStabilizerError) -> None:
    error.add_note("a note is not sent")
    answer = json.loads(json.dumps(_packed(error)))
    assert is_outcome(answer)
    with pytest.raises(type(error), match=str(error)) as caught:
        _touched(answer)
    del error.__notes__
    assert vars(caught.value) == vars(error)


def test_internal_error_comes_back_as_the_public_one() -> None:
    with pytest.raises(BackendUnavailableError, match="a list"):
        _touched(_packed(WrongTypeError("a list")))


def test_unknown_values_of_an_error_are_ignored() -> None:
    with pytest.raises(ConnectionNotFoundError) as caught:
        _touched(["ConnectionNotFoundError", "gone", {"args": "", "with_traceback": 1}])
    assert (str(caught.value), vars(caught.value)) == ("gone", {})


# Waiting for them


def is_any(answer: Any) -> bool:
    return True


async def gather(
    replies: PendingReplies, ask: int, expected: int, timeout_s: float = 60.0
) -> dict[NodeId, Any]:
    async with asyncio.timeout(10.0):
        return await replies.gather(ask, expected, timeout_s)


async def test_all_answers_end_the_wait() -> None:
    replies = PendingReplies()
    ask = replies.open(is_any)
    waiting = asyncio.create_task(gather(replies, ask, 2))
    await turns()
    for node in (A, B):
        replies.resolve(ask, node, node * 2)
    assert await waiting == {A: "aa", B: "bb"}


async def test_answers_that_came_before_the_wait_count() -> None:
    replies = PendingReplies()
    ask = replies.open(is_any)
    replies.resolve(ask, A, 1)
    assert await gather(replies, ask, 1) == {A: 1}


async def test_question_to_nobody_is_answered_at_once() -> None:
    replies = PendingReplies()
    assert await gather(replies, replies.open(is_any), 0) == {}


async def test_deadline_ends_the_wait_with_what_came() -> None:
    clock, replies = Clock(), PendingReplies()
    ask = replies.open(is_any)
    waiting = asyncio.create_task(gather(replies, ask, 2, 3.0))
    await turns()
    replies.resolve(ask, A, 1)
    await turns()
    assert not waiting.done()
    clock.advance(3.1)
    assert await waiting == {A: 1}


async def test_repeated_answer_of_a_node_is_one_answer() -> None:
    clock, replies = Clock(), PendingReplies()
    ask = replies.open(is_any)
    waiting = asyncio.create_task(gather(replies, ask, 2, 3.0))
    await turns()
    for answer in (1, 2):
        replies.resolve(ask, A, answer)
    await turns()
    assert not waiting.done()
    clock.advance(3.1)
    assert await waiting == {A: 2}


async def test_questions_have_names_of_their_own_and_none_is_zero() -> None:
    replies = PendingReplies()
    first, second = replies.open(is_any), replies.open(is_any)
    replies.resolve(first, A, 1)
    replies.resolve(second, A, 2)
    assert [await gather(replies, ask, 1) for ask in (second, first)] == [{A: 2}, {A: 1}]
    assert 0 not in (first, second)


async def test_answer_after_the_wait_is_dropped() -> None:
    replies = PendingReplies()
    ask = replies.open(is_any)
    answers = await gather(replies, ask, 0)
    replies.resolve(ask, A, 1)
    assert answers == {}


async def test_nothing_is_kept_of_a_question_that_was_given_up() -> None:
    replies = PendingReplies()
    cancelled, closed = replies.open(is_any), replies.open(is_any)
    waiting = asyncio.create_task(gather(replies, cancelled, 1))
    await turns()
    waiting.cancel()
    await asyncio.wait([waiting])
    replies.close(closed)
    replies.close(closed)
    assert replies._open == {}


async def test_answer_of_a_wrong_form_is_refused_and_does_not_end_the_wait() -> None:
    replies = PendingReplies()
    ask = replies.open(are_names)
    with pytest.raises(ValueError, match="wrong form"):
        replies.resolve(ask, A, "alice")
    replies.resolve(ask, B, ["alice"])
    assert await gather(replies, ask, 1) == {B: ["alice"]}
