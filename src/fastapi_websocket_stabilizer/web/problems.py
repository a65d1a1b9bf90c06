"""The routes of operators: callers are checked before a body is read, and errors are problems (RFC 9457)."""

from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.types import Message

from ..exceptions import (
    LOSSES,
    ConnectionNotFoundError,
    DrainingError,
    InvalidNameError,
    MessageError,
    NotStartedError,
    RequestFailedError,
    ShutdownError,
    WebSocketStabilizerError,
    WrongEventLoopError,
)
from .access import Access

MAX_BODY_BYTES = 64 * 1024
"""Longest body of an action. A longer one is answered with 413, and not read further."""
STATUSES: tuple[tuple[tuple[type[WebSocketStabilizerError], ...], int], ...] = (
    ((InvalidNameError, MessageError), 422),
    ((*LOSSES, ShutdownError, DrainingError, NotStartedError, WrongEventLoopError), 503),
    ((ConnectionNotFoundError,), 404),
    ((RequestFailedError,), 429),
)
"""The status of each error. Any other is 500."""
HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


def guarded_by(access: Access) -> type[APIRoute]:
    """Return the class of routes whose callers ``access`` checks first. FastAPI reads a body before dependencies."""

    class GuardedRoute(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()

            async def answer(request: Request) -> Response:
                try:
                    access.check(request)
                    if request.method == "POST":
                        access.check_action(request)
                    response = await handle(Request(request.scope, _bounded(request)))
                except RequestValidationError as error:
                    response = problem(422, "; ".join(map(_described, error.errors())))
                except HTTPException as error:
                    response = problem(error.status_code, str(error.detail), error.headers)
                except WebSocketStabilizerError as error:
                    response = problem(_status_of(error), str(error))
                for name, value in HEADERS.items():
                    response.headers.setdefault(name, value)
                return response

            return answer

    return GuardedRoute


def _bounded(request: Request) -> Callable[[], Coroutine[Any, Any, Message]]:
    """Return the ``receive`` of a request, which raises when more than ``MAX_BODY_BYTES`` have arrived."""
    left = MAX_BODY_BYTES

    async def receive() -> Message:
        nonlocal left
        event = await request.receive()
        left -= len(event.get("body", b""))
        if left < 0:
            raise HTTPException(413, f"the body has more than {MAX_BODY_BYTES} bytes")
        return event

    return receive


def problem(status: int, detail: str, headers: Any = None) -> JSONResponse:
    """Return a problem: its status, and what was wrong."""
    title = HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else f"Status {status}"
    body = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    return JSONResponse(body, status, headers, media_type="application/problem+json")


def _status_of(error: WebSocketStabilizerError) -> int:
    return next((status for kinds, status in STATUSES if isinstance(error, kinds)), 500)


def _described(error: Any) -> str:
    place = ".".join(map(str, error["loc"][1:])) or "body"
    return f"{place}: {error['msg']}, got {error.get('input')!r:.80}"
