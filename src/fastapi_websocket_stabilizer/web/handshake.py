"""The handshake of ``stabilizer.v1``: the choice of the subprotocol, and refusals that the page of a client can read.

A browser shows no HTTP status of a refused handshake. So a client that offers the subprotocol is refused by a close
code, on an accepted socket and before the first frame.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from http import HTTPStatus
from typing import cast

from fastapi.exceptions import WebSocketRequestValidationError
from starlette.exceptions import HTTPException, WebSocketException
from starlette.types import Message as AsgiEvent
from starlette.websockets import WebSocket, WebSocketDisconnect

from .. import close_codes
from ..exceptions import ClientInputError, DrainingError
from ..local.transport import is_accepted, size_of
from ..registry.arrivals import Arrival, Arrivals
from ..registry.refusals import soon_ms
from ..sessions.exchange import Identify
from ..sessions.following import UNREADABLE
from ..sessions.sessions import Newcomer, Sessions
from ..wire.client_frames import input_reason, wait_reason
from ..wire.client_input import Resume, parse
from ..wire.client_protocol import SUBPROTOCOL, Offer, parse_offer
from ..wire.cursors import Cursor, parse_cursor
from .renewals import asked

RESUME_WITHIN_S = 5.0
"""Seconds within which a client that has announced its cursor must send it."""
INTERNAL_ERROR = (close_codes.INTERNAL_ERROR, "internal error")

_CODES: dict[int, int] = {
    HTTPStatus.UNAUTHORIZED: close_codes.UNAUTHENTICATED,
    HTTPStatus.NOT_FOUND: close_codes.NOT_FOUND,
    HTTPStatus.CONFLICT: close_codes.CONFLICT,
    HTTPStatus.TOO_MANY_REQUESTS: close_codes.RATE_LIMITED,
    HTTPStatus.SERVICE_UNAVAILABLE: close_codes.TRY_AGAIN_LATER,
}
"""Close codes of refusals with these HTTP statuses. Others below 500 are ``FORBIDDEN``."""


_ARRIVALS: dict[int, Arrival] = {
    HTTPStatus.UNAUTHORIZED: Arrival.UNAUTHENTICATED,
    HTTPStatus.FORBIDDEN: Arrival.FORBIDDEN,
    HTTPStatus.TOO_MANY_REQUESTS: Arrival.RATE_LIMITED,
}
"""Outcomes of handshakes that the application has refused. Others below 500 are ``REFUSED``."""


_BY_CLIENT = (close_codes.INVALID_INPUT, close_codes.HEARTBEAT_TIMEOUT)
"""Close codes of clients that broke the subprotocol, or did not send their cursor."""


@contextmanager
def counted(arrivals: Arrivals, websocket: WebSocket) -> Iterator[None]:
    """Count a handshake that the application refuses within the block. What the manager refuses is counted there."""
    try:
        yield
    except Exception as error:
        if not (arrivals.has_counted(error) or arrivals.has_counted(error.__cause__)):
            arrival = _arrival_of(error, is_open=is_accepted(websocket))
            if arrival is not None:
                arrivals.note(arrival)
        raise


def _arrival_of(error: Exception, *, is_open: bool) -> Arrival | None:
    """Return the outcome of a handshake; None for an error of a handler on an open socket."""
    match error:
        case HTTPException():
            other = Arrival.REFUSED if error.status_code < HTTPStatus.INTERNAL_SERVER_ERROR else Arrival.ERROR
            return _ARRIVALS.get(error.status_code, other)
        case WebSocketRequestValidationError():
            return Arrival.INVALID
        case WebSocketException():
            return Arrival.INVALID if error.code in _BY_CLIENT else Arrival.REFUSED
        case WebSocketDisconnect():
            return None
    return None if is_open else Arrival.ERROR


def offered_token(websocket: WebSocket) -> str | None:
    """Return the token that a client of ``stabilizer.v1`` offers in its handshake, or None.

    It is the ``<token>`` of ``stabilizer.v1.auth.<token>``, decoded and not verified, or the newer one that a client
    sends later. Call it, or use it as a FastAPI dependency: ``token: Annotated[str | None, Depends(offered_token)]``.
    """
    if (question := asked(websocket)) is not None:
        return question.token
    try:
        offer = parse_offer(_offered(websocket))
    except ClientInputError:  # the manager refuses the socket
        return None
    return None if offer is None else offer.token


def _offered(websocket: WebSocket) -> list[str]:
    subprotocols: list[str] = websocket.scope.get("subprotocols") or []
    return subprotocols


def speaks(sessions: Sessions, websocket: object) -> bool:
    """Whether a socket that is not accepted yet gets the subprotocol: its client offers it, and it is enabled."""
    return (
        issubclass(type(websocket), WebSocket)  # type(): AsyncMock(spec=WebSocket) claims to be one
        and not is_accepted(websocket)
        and SUBPROTOCOL in _offered(cast("WebSocket", websocket))
        and sessions.limits().client_protocol
    )


async def accept(sessions: Sessions, websocket: WebSocket, identify: Identify | None) -> Newcomer:
    """Accept a socket with the subprotocol, and read its cursor. ``identify``: see ``Session``.

    Raises:
        WebSocketException: The client broke the subprotocol, or did not send its cursor in time.
        WebSocketDisconnect: It is gone.
    """
    sessions.expect()  # before a message can be fanned out to the socket
    await websocket.accept(SUBPROTOCOL)
    try:
        offer = parse_offer(_offered(websocket))
        assert offer is not None  # speaks() is true
        cursor = await _cursor(sessions, websocket, offer)
    except ClientInputError as error:
        sessions.counters.client_frames_invalid += 1
        raise WebSocketException(close_codes.INVALID_INPUT, input_reason(error.code)) from error
    return sessions.newcomer(cursor, identify)


async def _cursor(sessions: Sessions, websocket: WebSocket, offer: Offer) -> Cursor | None:
    """Return the cursor that a client offers, or sends in its first frame."""
    try:
        if offer.is_cursor_later:
            event = await _first_event(websocket)
            sessions.counters.received(size_of(event), is_text=event.get("text") is not None)
            return _announced_cursor(event, sessions.limits().max_message_size)
        return None if offer.cursor is None else parse_cursor(offer.cursor)
    except ClientInputError as error:
        if error.code != "cursor":
            raise
        sessions.counters.cursors_unreadable += 1
        return UNREADABLE


async def _first_event(websocket: WebSocket) -> AsgiEvent:
    try:
        async with asyncio.timeout(RESUME_WITHIN_S):
            event = await websocket.receive()
    except TimeoutError:
        reason = f"no cursor within {RESUME_WITHIN_S:g} s"
        raise WebSocketException(close_codes.HEARTBEAT_TIMEOUT, reason) from None
    if event["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(event.get("code") or close_codes.NO_STATUS, event.get("reason") or "")
    return event


def _announced_cursor(event: AsgiEvent, limit: int) -> Cursor:
    text = event.get("text")
    data = event.get("bytes") or b"" if text is None else text
    if len(data) > limit:
        # A refused client stays away, and its cursor would be as long at each attempt.
        raise ClientInputError(f"cursor of {len(data)}, max_message_size is {limit}", code="cursor")
    frame = parse(data, limit)
    if not isinstance(frame, Resume):
        raise ClientInputError(
            "the first frame must be the cursor that the handshake announced", code="frame"
        )
    return frame.cursor


# Refusals


@asynccontextmanager
async def refusals(sessions: Sessions, websocket: WebSocket) -> AsyncIterator[None]:
    """Replace an HTTP refusal within the block by a close code, if the client can read it."""
    try:
        yield
    except Exception as error:
        if not speaks(sessions, websocket):
            raise
        await websocket.accept(SUBPROTOCOL)
        if isinstance(error, WebSocketException):
            raise  # its own code is sent
        if isinstance(error, HTTPException):
            raise refusal(error) from error
        if isinstance(error, WebSocketRequestValidationError):
            raise WebSocketException(
                close_codes.FORBIDDEN, "a parameter of the request is invalid"
            ) from error
        await websocket.close(*INTERNAL_ERROR)
        raise


def refusal(error: HTTPException) -> WebSocketException:
    """Return the close code and its reason, which stand for an HTTP refusal."""
    if isinstance(error.__cause__, DrainingError):
        return WebSocketException(close_codes.SERVICE_RESTART, wait_reason(soon_ms()))
    status = error.status_code
    code = _CODES.get(status, close_codes.FORBIDDEN if status < 500 else INTERNAL_ERROR[0])
    reason = error.detail if status < 500 else INTERNAL_ERROR[1]
    if code in (close_codes.RATE_LIMITED, close_codes.TRY_AGAIN_LATER):
        reason = _hint(error) or error.detail
    return WebSocketException(code, close_codes.fitting(str(reason)))


def _hint(error: HTTPException) -> str:
    """Return the reason with the time of ``Retry-After``, or "" if it has no seconds."""
    seconds = {name.lower(): value for name, value in (error.headers or {}).items()}.get("retry-after", "")
    return wait_reason(1000 * int(seconds)) if seconds.isascii() and seconds.isdigit() else ""
