"""Errors that end a client, with what to do about them."""

from .closes import REPLACED, UNAUTHORIZED
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


def error_of(code: int, cause: str) -> ClosedError:
    """Return the error of a client that a close code has ended, with what to do."""
    if code == UNAUTHORIZED:
        return UnauthorizedError(f"{cause}. Pass a function as auth= that returns new credentials", code=code)
    if code == REPLACED:
        return ReplacedError(
            f"{cause}. Give each client that runs at the same time an id of its own", code=code
        )
    return ClosedError(cause, code=code)
