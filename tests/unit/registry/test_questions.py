"""Questions to clients between nodes: what is read of another node, and which error an outcome is."""

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastapi_websocket_stabilizer import (
    ConnectionNotFoundError,
    RequestFailedError,
    RequestTimeoutError,
    RequestUnsupportedError,
    WrongEventLoopError,
)
from fastapi_websocket_stabilizer.local.requests import FirstAnswer, Unanswered
from fastapi_websocket_stabilizer.registry.questions import (
    Question,
    Race,
    _outcome,
    _packed,
    _value,
    is_answer,
)
from fastapi_websocket_stabilizer.registry.requests import parse
from fastapi_websocket_stabilizer.wire.client_input import Answer, ErrorAnswer

anything = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from("dxn") | st.just("none"), inner)
    ),
    max_leaves=8,
)


async def test_question_is_read_as_it_was_asked() -> None:
    data = {"text": 'grüße "🎉"', "numbers": [0.1, 2**53, None]}
    asked = Question("confirm", json.dumps(data), 5.0)
    request = parse(Race(asked).body())
    question = request["question"]
    assert (request["do"], question.name, json.loads(question.json)) == ("ask", "confirm", data)
    assert 4.0 < question.timeout_s <= 5.0


@pytest.mark.parametrize(
    "request_body",
    [
        {"do": "ask", "name": "", "within_s": 1.0, "data": 1},
        {"do": "ask", "name": "x" * 129, "within_s": 1.0, "data": 1},
        {"do": "ask", "name": "x", "within_s": 0.0, "data": 1},
        {"do": "ask", "name": "x", "within_s": 1e999, "data": 1},
        {"do": "ask", "name": "x", "within_s": "1", "data": 1},
        {"do": "ask", "name": "x", "within_s": 1.0},
        {"do": "withdraw"},
        {"do": "withdraw", "ask": "1"},
    ],
)
def test_question_of_another_form_is_refused(request_body: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"question|unknown request"):
        parse(json.dumps(request_body))


@given(anything)
def test_anything_is_no_answer_or_one_that_can_be_used(reply: Any) -> None:
    if is_answer(reply):
        assert isinstance(_outcome(reply), Answer | ErrorAnswer | Unanswered)


@pytest.mark.parametrize(
    "reply",
    [
        None,
        [],
        {},
        {"d": 1, "x": 2},
        {"x": ["a", "b"]},
        {"x": ["a", "b", 1]},
        {"none": "other"},
        {"none": None},
    ],
)
def test_reply_of_another_form_is_no_answer(reply: Any) -> None:
    assert not is_answer(reply)


def raced(*outcomes: Answer | ErrorAnswer | Unanswered) -> FirstAnswer:
    answers = FirstAnswer(lambda: None)
    for outcome in outcomes:
        answers.expect()(outcome)
    answers.all_asked()
    return answers


QUESTION = Question("confirm", "1", 5.0)
U = Unanswered


@pytest.mark.parametrize(
    ("outcomes", "error", "code"),
    [
        ([ErrorAnswer(1, "taken", "no", True)], RequestFailedError, "taken"),
        ([U.LIMIT, U.PLAIN], RequestFailedError, "limit"),
        ([U.PLAIN, U.ABSENT], RequestUnsupportedError, "unsupported"),
        ([U.ENDED, U.LIMIT, U.PLAIN], ConnectionNotFoundError, None),
        ([U.TIMEOUT, U.ENDED], RequestTimeoutError, None),
        ([U.CANCELLED], ConnectionNotFoundError, None),
        ([], ConnectionNotFoundError, None),
    ],
)
@pytest.mark.parametrize("is_remote", [False, True])
def test_outcome_without_a_value_is_a_named_error(
    outcomes: list[Any], error: type[Exception], code: str | None, is_remote: bool
) -> None:
    """The same from another node, which passes the reason on that matters most."""
    answers = raced(*outcomes)
    if is_remote:
        reply = json.loads(json.dumps(_packed(answers)))
        assert is_answer(reply)
        answers = raced(_outcome(reply))
    with pytest.raises(error) as caught:
        _value(answers, "ann", QUESTION)
    assert type(caught.value) is error
    assert "'confirm'" in str(caught.value)
    assert "'ann'" in str(caught.value)
    assert getattr(caught.value, "code", None) == code


async def test_socket_of_another_event_loop_is_named() -> None:
    other = asyncio.new_event_loop()
    connection: Any = SimpleNamespace(session=object(), loop=other, connection_id="n1.7")
    with pytest.raises(WrongEventLoopError, match=r"n1\.7"):
        Race(QUESTION).ask([connection])
    other.close()


def test_value_is_that_of_the_first_answer() -> None:
    assert _value(raced(U.PLAIN, Answer(1, [None]), ErrorAnswer(1, "no", "no")), "ann", QUESTION) == [None]
