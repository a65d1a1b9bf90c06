"""Errors that end a client, with what to do about them."""

from .closes import REPLACED, UNAUTHORIZED, End
from .errors import ClosedError, ReplacedError, UnauthorizedError
from .handshake import SUBPROTOCOL


def other_subprotocol(selected: str | None) -> str:
    """Return why a client cannot go on with the subprotocol that the server selected."""
    if selected is None:
        return (
            f"the server selected no subprotocol, this client needs {SUBPROTOCOL}: upgrade all replicas first, "
            "and use an endpoint of the library"
        )
    return f"the server selected the subprotocol {selected!r}, this client needs {SUBPROTOCOL}"


def error_of(end: End) -> ClosedError:
    """Return the error of a client that a close code has ended, with what to do."""
    code, reason = end.code, end.reason
    if code == UNAUTHORIZED:
        advice = "Pass a function as auth= that returns new credentials"
        return UnauthorizedError(f"{end.cause}. {advice}", code=code, reason=reason)
    if code == REPLACED:
        advice = "Give each client that runs at the same time an id of its own"
        return ReplacedError(f"{end.cause}. {advice}", code=code, reason=reason)
    return ClosedError(end.cause, code=code, reason=reason)


def error_of_call(ended_by: ClosedError | None) -> ClosedError:
    """Return the error of a call to a client that has ended: of the same class, with the same code and reason."""
    if ended_by is None:
        return ClosedError("the client has ended: closed by the application")
    text = f"the client has ended: {ended_by}"
    return type(ended_by)(text, code=ended_by.code, reason=ended_by.reason)
