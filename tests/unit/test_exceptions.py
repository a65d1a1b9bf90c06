"""The tree of errors: one root, one class per reaction."""

import inspect
import re

import pytest

from fastapi_websocket_stabilizer import exceptions
from fastapi_websocket_stabilizer.exceptions import BackendUnavailableError, WebSocketStabilizerError

ERRORS = [
    error
    for _, error in inspect.getmembers(exceptions, inspect.isclass)
    if error.__module__ == exceptions.__name__
]
ALSO = {
    "InvalidNameError": ValueError,
    "InvalidCursorError": ValueError,
    "MessageError": ValueError,
    "ConfigurationError": ValueError,
    "NotStartedError": RuntimeError,
    "WrongEventLoopError": RuntimeError,
}


@pytest.mark.parametrize("error", ERRORS)
def test_error_has_the_one_root(error: type[Exception]) -> None:
    assert issubclass(error, WebSocketStabilizerError)


@pytest.mark.parametrize("error", ERRORS)
def test_error_takes_a_plain_message(error: type[Exception]) -> None:
    assert str(error("what happened")) == "what happened"


@pytest.mark.parametrize("error", ERRORS)
def test_error_is_a_builtin_one_only_where_the_tree_says_so(error: type[Exception]) -> None:
    builtin = {ValueError, RuntimeError} & set(error.__mro__)
    assert builtin == ({ALSO[error.__name__]} if error.__name__ in ALSO else set())


def test_tree_in_the_docstring_names_every_error_once() -> None:
    drawn = re.findall(r"\b\w+Error\b(?=  | *$)", str(exceptions.__doc__), re.MULTILINE)
    assert sorted(drawn) == sorted(error.__name__ for error in ERRORS)


@pytest.mark.parametrize("outcome_unknown", [False, True])
def test_unavailable_backend_says_whether_the_command_may_have_worked(outcome_unknown: bool) -> None:
    assert BackendUnavailableError("x", outcome_unknown=outcome_unknown).outcome_unknown is outcome_unknown
    assert BackendUnavailableError("x").outcome_unknown is False
