"""The tree of errors: one root, one class per reaction."""

import copy
import inspect
import pickle
import re
from typing import cast

import pytest

from fastapi_websocket_stabilizer import exceptions
from fastapi_websocket_stabilizer.exceptions import (
    BackendUnavailableError,
    ConfigurationError,
    ConnectionLimitExceededError,
    RequestFailedError,
    WebSocketStabilizerError,
)

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


@pytest.mark.parametrize(
    "error",
    [
        *[error("what happened") for error in cast("list[type[WebSocketStabilizerError]]", ERRORS)],
        ConnectionLimitExceededError("full", scope="client", limit=3, current=4),
        ConfigurationError("wrong", settings=("lease_ttl_s",)),
        BackendUnavailableError("away", outcome_unknown=True),
        RequestFailedError("failed", code="taken", message="that name is taken", retry=True),
    ],
    ids=repr,
)
def test_error_is_copied_and_pickled_with_its_values(error: WebSocketStabilizerError) -> None:
    for twin in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert (type(twin), str(twin), twin.args, vars(twin)) == (
            type(error),
            str(error),
            error.args,
            vars(error),
        )


def test_limit_error_of_an_application_has_no_values() -> None:
    error = ConnectionLimitExceededError("as in", "release 1.1")
    assert error.args == ("as in", "release 1.1")
    assert (error.scope, error.limit, error.current) == (None, None, None)


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
