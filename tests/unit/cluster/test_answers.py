"""Answers of other nodes: of any JSON, only what a caller can use is one."""

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastapi_websocket_stabilizer.cluster.answers import are_names, is_outcome, is_report
from fastapi_websocket_stabilizer.cluster.requests import _touched
from fastapi_websocket_stabilizer.exceptions import WebSocketStabilizerError

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=12,
)


def test_what_nodes_answer_is_an_answer() -> None:
    assert is_outcome(0)
    assert is_outcome(["ConnectionNotFoundError", "gone"])
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


@pytest.mark.parametrize("answer", [True, 1.5, "1", None, {}, [], ["a"], ["a", "b", "c"], ["a", 1]])
def test_wrong_outcome_is_none(answer: Any) -> None:
    assert not is_outcome(answer)
