"""Newer credentials on an open connection: the function that identifies clients is asked again.

It is a dependency of a route, so only a handshake can call it. The application gets the handshake of the connection
once more, with the newer token, and a socket that is none. The route keeps the identity, and serves nothing.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from fastapi import status
from starlette.exceptions import HTTPException, WebSocketException
from starlette.types import Message as AsgiEvent
from starlette.websockets import WebSocket

from .. import close_codes
from ..exceptions import ClientInputError
from ..models import Identity
from ..sessions.exchange import REFUSED, Identify
from ..wire.client_protocol import SUBPROTOCOL, format_offer

ASKED = "fastapi_websocket_stabilizer.renewal"
"""Key of the scope of such a handshake."""
KEPT = (
    "type", "asgi", "http_version", "scheme", "server", "client", "root_path", "path", "raw_path", "query_string",
    "headers", "app", "state", "session", "user", "auth",
)  # fmt: skip
"""Keys of a scope that are given to the application again. Routing and the socket of the server add the others."""
HEADER = b"sec-websocket-protocol"
_STATUSES: dict[int, int] = {
    close_codes.RATE_LIMITED: status.HTTP_429_TOO_MANY_REQUESTS,
    close_codes.TRY_AGAIN_LATER: status.HTTP_503_SERVICE_UNAVAILABLE,
    close_codes.SERVICE_RESTART: status.HTTP_503_SERVICE_UNAVAILABLE,
    close_codes.INTERNAL_ERROR: status.HTTP_500_INTERNAL_SERVER_ERROR,
}
"""HTTP statuses of close codes that say nothing of the token. All others refuse it."""


class Asked:
    """One question, and the answer of the application.

    Attributes:
        token: The newer token.
        identity: The identity that it has returned; None if it has raised.
        error: The exception that it has raised.
    """

    def __init__(self, token: str) -> None:
        self.token: str = token
        self.identity: Identity | None = None
        self.error: Exception | None = None

    @contextmanager
    def noting(self) -> Iterator[None]:
        """Note an exception within the block."""
        try:
            yield
        except Exception as error:
            self.error = error
            raise

    async def receive(self) -> AsgiEvent:
        """Return the event that begins a handshake. There is no client that could send another one."""
        return {"type": "websocket.connect"}

    async def send(self, _: AsgiEvent) -> None:
        """Drop an event: no client waits for it."""


def asked(websocket: WebSocket) -> Asked | None:
    """Return the question behind a handshake; None if it is one of a client."""
    found: Asked | None = websocket.scope.get(ASKED)
    return found


def identify_again(websocket: WebSocket) -> Identify:
    """Return the function that gives the handshake of a socket to its application again, with a newer token."""
    scope = {key: websocket.scope[key] for key in KEPT if key in websocket.scope}

    async def identify(token: str) -> Identity:
        question = Asked(token)
        try:
            await scope["app"](_scope(scope, question), question.receive, question.send)
        except Exception as error:  # noqa: BLE001 - the caller reports it, or answers with it
            question.error = question.error or error
        if question.error is not None:
            raise _answer(question.error) from question.error
        if question.identity is None:
            raise HTTPException(503, "the handshake did not reach the function that identifies clients")
        return question.identity

    return identify


def _answer(error: Exception) -> Exception:
    """Return the exception that stands for one of the application. All refusals of a token are alike.

    Only an application that names a ``code`` of its own, or a time or a failure, has another answer.
    """
    if isinstance(error, WebSocketException):
        error = HTTPException(_STATUSES.get(error.code, status.HTTP_403_FORBIDDEN), error.reason)
    if not isinstance(error, HTTPException) or error.status_code == status.HTTP_429_TOO_MANY_REQUESTS:
        return error
    if error.status_code >= status.HTTP_500_INTERNAL_SERVER_ERROR or _has_code(error):
        return error
    return HTTPException(status.HTTP_403_FORBIDDEN, REFUSED.message)


def _has_code(error: HTTPException) -> bool:
    detail: Any = error.detail
    return isinstance(detail, Mapping) and {"code", "message"} <= detail.keys()


def _scope(scope: Mapping[str, Any], question: Asked) -> dict[str, Any]:
    offered = [SUBPROTOCOL]  # without a former token, and without one that is too long for a header
    with suppress(ClientInputError):
        offered = format_offer(token=question.token)
    headers = [(name, value) for name, value in scope["headers"] if name.lower() != HEADER]
    headers.append((HEADER, ", ".join(offered).encode()))
    return {**scope, "headers": headers, "subprotocols": offered, ASKED: question}
