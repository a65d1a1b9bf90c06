"""Answers to requests of clients that stand for an ``HTTPException`` of the application."""

from http import HTTPStatus
from typing import Any

from starlette.exceptions import HTTPException

from ..wire.client_frames import Fault
from ..wire.client_input import MAX_NAME_CHARACTERS, MAX_TEXT_CHARACTERS

_CODES: dict[int, str] = {
    HTTPStatus.BAD_REQUEST: "invalid",
    HTTPStatus.FORBIDDEN: "forbidden",
    HTTPStatus.NOT_FOUND: "not_found",
    422: "invalid",  # its name changed with Python 3.13
    HTTPStatus.TOO_MANY_REQUESTS: "limit",
}
"""Codes of these statuses. From 500 on it is ``failed``, otherwise the name of the status, such as ``conflict``."""
_TEMPORARY = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)


def fault_of(error: BaseException) -> Fault | None:
    """Return the fault that an ``HTTPException`` stands for, and None for any other exception.

    The code is that of the status, and the message is ``detail``. A detail with its own ``code`` and ``message``
    replaces both.
    """
    if not isinstance(error, HTTPException):
        return None
    status: int = error.status_code
    code, message = _code(status), error.detail
    match message:
        case {"code": str(own_code), "message": str(own_message)}:
            code, message = own_code or code, own_message
    return Fault(code[:MAX_NAME_CHARACTERS], _text(message, status), status in _TEMPORARY)


def _code(status: int) -> str:
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return "failed"
    try:
        return _CODES.get(status) or HTTPStatus(status).name.lower()
    except ValueError:
        return "failed"


def _text(detail: Any, status: int) -> str:
    text = detail if isinstance(detail, str) else str(detail)
    return text[:MAX_TEXT_CHARACTERS] or str(status)
