"""Errors of the admin routes as ``application/problem+json`` (RFC 9457)."""

from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Any

from fastapi import HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute

from ..exceptions import (
    LOSSES,
    ConnectionNotFoundError,
    InvalidNameError,
    MessageError,
    RequestFailedError,
    WebSocketStabilizerError,
)

STATUSES: tuple[tuple[tuple[type[WebSocketStabilizerError], ...], int], ...] = (
    ((InvalidNameError, MessageError), 422),
    (LOSSES, 503),
    ((ConnectionNotFoundError,), 404),
    ((RequestFailedError,), 429),
)
"""The status of each error. Any other is 500."""


class ProblemRoute(APIRoute):
    """A route whose errors are problems. FastAPI's own are so, too."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler with its errors caught."""
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                return await handle(request)
            except RequestValidationError as error:
                return problem(422, "; ".join(map(_described, error.errors())))
            except HTTPException as error:
                return problem(error.status_code, str(error.detail), error.headers)
            except WebSocketStabilizerError as error:
                return problem(_status_of(error), str(error))

        return answer


def problem(status: int, detail: str, headers: Any = None) -> JSONResponse:
    """Return a problem: its status, and what was wrong."""
    body = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    return JSONResponse(body, status, headers, media_type="application/problem+json")


def _status_of(error: WebSocketStabilizerError) -> int:
    return next((status for kind, status in STATUSES if isinstance(error, kind)), 500)


def _described(error: Any) -> str:
    place = ".".join(map(str, error["loc"][1:])) or "body"
    return f"{place}: {error['msg']}, got {error.get('input')!r:.80}"
