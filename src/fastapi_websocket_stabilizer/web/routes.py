"""Routes that serve sockets, and refusals as HTTP responses."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, HTTPException, WebSocket, WebSocketDisconnect

from .. import close_codes
from ..exceptions import (
    LOSSES,
    ConfigurationError,
    ConnectionLimitExceededError,
    ConnectionNotFoundError,
    ConnectionTimeoutError,
    DrainingError,
    InvalidNameError,
    MessageError,
    NotStartedError,
    SlowConsumerError,
    WebSocketStabilizerError,
)
from ..local.connection import Connection
from ..local.transport import is_accepted
from ..models import CloseCause, Identity, as_metadata
from ..names import check_client_id, check_each, check_room
from ..registry.hooks import OnMessage, Receiver, check_hook, name_of
from ..registry.refusals import UNREACHABLE, turn_away
from ..registry.registry import Registry
from ..runtime.logs import Occasionally, get_logger
from ..sessions.exchange import Identify
from ..sessions.sessions import Newcomer, Sessions
from . import handshake, renewals, serving
from .handshake import INTERNAL_ERROR

_unstarted = Occasionally(get_logger("routes"))

SHUTDOWN = CloseCause.SHUTDOWN, close_codes.GOING_AWAY, "server shutdown"
FAILED = CloseCause.HANDLER_ERROR, *INTERNAL_ERROR
"""How the connection of a handler is closed that was cancelled, or that raised."""
RETRY_AFTER_S = 5
"""Seconds in the ``Retry-After`` header of a refusal."""


@asynccontextmanager
async def connected(
    sessions: Sessions, websocket: WebSocket, identity: Identity, identify: Identify | None = None
) -> AsyncIterator[Connection]:
    """Claim and accept a socket, join its rooms, and release this socket only.

    See ``WebSocketConnectionManager.connection``. ``identify`` identifies the client again by a newer token.
    """
    _check_types(identity)
    has_session = identity.subprotocol is None and handshake.speaks(sessions, websocket)
    newcomer = await handshake.accept(sessions, websocket, identify) if has_session else None
    connection, rooms = await _register(sessions.registry, websocket, identity, newcomer)
    code: int = close_codes.NORMAL
    cause, reason = CloseCause.RELEASED, "normal closure"
    has_begun = False
    try:
        if newcomer is not None:
            await sessions.begin(connection, rooms)
        else:
            await _enter(connection, websocket, identity, rooms)
        has_begun = True
        yield connection
    except BaseException as error:
        if not has_begun and _is_the_end_of(connection, error):
            raise WebSocketDisconnect(*(connection.closed_with or (code, reason))) from error
        if newcomer is not None and not has_begun and isinstance(error, LOSSES):
            code, reason = close_codes.TRY_AGAIN_LATER, UNREACHABLE
            raise WebSocketDisconnect(code, reason) from error
        if not _is_the_end_of(connection, error):
            is_cancelled = isinstance(error, asyncio.CancelledError)
            cause, code, reason = SHUTDOWN if is_cancelled else FAILED
            if connection.session is not None and not is_cancelled:
                connection.session.failed()
            raise
    finally:
        if not connection.is_parked:
            await connection.release(cause, code, reason)


async def _register(
    registry: Registry, websocket: WebSocket, identity: Identity, newcomer: Newcomer | None
) -> tuple[Connection, list[str]]:
    try:
        rooms = check_each(identity.rooms, check_room)
        return await serving.register(registry, websocket, identity, newcomer), rooms
    except WebSocketStabilizerError as error:
        registry.state.arrivals.refused(error)
        if newcomer is not None:
            raise handshake.refusal(_refusal(error)) from error
        if is_accepted(websocket):
            if isinstance(error, (DrainingError, *LOSSES)):
                raise  # the socket is already closed, with a hint when to reconnect
            reason = close_codes.fitting(str(error))
            within_s = registry.state.config.close_timeout_s
            await turn_away(websocket, close_codes.TRY_AGAIN_LATER, reason, within_s)
            raise
        raise _refusal(error) from error


async def _enter(
    connection: Connection, websocket: WebSocket, identity: Identity, rooms: Iterable[str]
) -> None:
    """Accept a registered socket, and join its rooms."""
    if not is_accepted(websocket):
        await websocket.accept(identity.subprotocol)
    for room in rooms:
        await connection.join(room)


def _check_types(identity: Identity) -> None:
    """Check for errors that only the application can cause. They go to the log and not into an HTTP response.

    Raises:
        InvalidNameError: The client id is not a string.
        MessageError: The metadata is not a mapping.
        ConfigurationError: The time of expiry is no datetime, or has no time zone.
    """
    if not isinstance(identity.client_id, str):
        check_client_id(identity.client_id)
    as_metadata(identity.metadata)
    at = identity.expires_at
    if at is not None and (not isinstance(at, datetime) or at.tzinfo is None):
        raise ConfigurationError(
            f"expires_at of an Identity must be a datetime with a time zone, got {at!r}: "
            "datetime.fromtimestamp(seconds, UTC)"
        )


def _is_the_end_of(connection: Connection, error: BaseException) -> bool:
    """Whether an error in the block only reports that this connection ended, and not one of another client."""
    if isinstance(error, WebSocketDisconnect):
        return True
    is_about_an_end = isinstance(error, ConnectionNotFoundError | ConnectionTimeoutError | SlowConsumerError)
    return is_about_an_end and connection.ended is not None


def status_of(error: WebSocketStabilizerError) -> tuple[int, int | None]:
    """Return the HTTP status of a refused handshake, and the seconds of its ``Retry-After`` or None."""
    match error:
        case InvalidNameError() | MessageError():
            return 400, None
        case ConnectionLimitExceededError(scope="client"):
            return 409, None
        case DrainingError():
            return 503, 1  # another node accepts the client
        case _:
            return 503, RETRY_AFTER_S


def http_error(error: WebSocketStabilizerError) -> HTTPException:
    """Return the HTTP response for an error. It does not show the address of Redis."""
    status, retry_after_s = status_of(error)
    text = UNREACHABLE if isinstance(error, LOSSES) else str(error)
    headers = None if retry_after_s is None else {"Retry-After": str(retry_after_s)}
    return HTTPException(status, text, headers=headers)


def _refusal(error: WebSocketStabilizerError) -> HTTPException:
    if isinstance(error, NotStartedError):  # browsers do not show the response to a handshake
        _unstarted.log(f"a WebSocket was refused: {error}")
    refused = http_error(error)
    refused.__cause__ = error
    return refused


def check_open(registry: Registry) -> None:
    """Check whether the node accepts clients, before the client is known.

    Raises:
        HTTPException: 503 with ``Retry-After``, if ``connect`` would refuse every client.
    """
    try:
        registry.check_usable()
        registry.connections.door.check_open()
    except WebSocketStabilizerError as error:
        registry.state.arrivals.refused(error)
        raise _refusal(error) from error


async def serve(
    sessions: Sessions,
    websocket: WebSocket,
    identity: Identity,
    receiver: Receiver | None,
    *,
    park: bool,
    identify: Identify | None = None,
) -> None:
    """See ``WebSocketConnectionManager.serve``. Without ``receiver`` the messages go to the ``on_message`` hook."""
    registry = sessions.registry
    receiver = receiver or registry.state.hooks.on_message
    with suppress(WebSocketDisconnect):  # the client left before it was served
        async with connected(sessions, websocket, identity, identify) as connection:
            await serving.serve(registry, connection, receiver, park=park)


def receiver_of(registry: Registry, on_message: OnMessage | None) -> Receiver | None:
    """Return the receiver of a handler that was given for some sockets.

    Raises:
        ConfigurationError: Its annotation cannot be used.
    """
    return None if on_message is None else Receiver(registry.state.hooks, on_message)


def add_websocket_route(
    sessions: Sessions,
    app: FastAPI | APIRouter,
    path: str,
    on_message: OnMessage | None,
    door: Callable[[], Awaitable[None]],
) -> Callable[[Any], Any]:
    """Return the decorator behind ``manager.websocket``; ``door`` is ``manager.check_open``."""
    if on_message is not None:
        check_hook("on_message", on_message, "connection", "message")
    receiver = receiver_of(sessions.registry, on_message)

    async def refuse_or_open(websocket: WebSocket) -> AsyncIterator[None]:
        if (asked := renewals.asked(websocket)) is not None:
            with asked.noting():
                yield
            return
        arrivals = sessions.registry.state.arrivals
        async with handshake.refusals(sessions, websocket):
            with handshake.counted(arrivals, websocket):
                await door()
                yield

    def decorate(identify: Any) -> Any:
        # identify is a dependency, so that FastAPI resolves its parameters.
        async def endpoint(websocket: WebSocket, identity: Annotated[Identity, Depends(identify)]) -> None:
            if not isinstance(identity, Identity):
                raise ConfigurationError(
                    f"{name_of(identify)}, which identifies clients of {path}, must return an Identity, "
                    f"got {type(identity).__name__}: return Identity(client_id)"
                )
            if (asked := renewals.asked(websocket)) is not None:
                _check_types(identity)
                asked.identity = identity
                return
            again = None if identity.expires_at is None else renewals.identify_again(websocket)
            await serve(sessions, websocket, identity, receiver, park=True, identify=again)

        router = app.router if isinstance(app, FastAPI) else app
        name = getattr(identify, "__name__", None)
        # The door runs before the endpoint's own dependencies. Otherwise identify could redeem a token for a socket
        # that is then refused.
        router.add_api_websocket_route(path, endpoint, name=name, dependencies=[Depends(refuse_or_open)])
        return identify

    return decorate
