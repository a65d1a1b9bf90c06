"""FastAPI's side: routes that serve sockets, refusals as HTTP answers, health."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Response, WebSocket, WebSocketDisconnect

from . import close_codes
from .cluster.context import LOSSES, Context
from .cluster.readiness import degraded
from .cluster.refusal import UNREACHABLE, turn_away
from .cluster.registry import Registry
from .drain_route import add_drain_route
from .exceptions import (
    ConfigurationError,
    ConnectionLimitExceededError,
    ConnectionNotFoundError,
    ConnectionTimeoutError,
    DrainingError,
    InvalidNameError,
    MessageError,
    SlowConsumerError,
    WebSocketStabilizerError,
)
from .hooks import OnMessage
from .local.connection import MAX_REASON_BYTES, Connection
from .local.transport import is_accepted
from .models import CompressionMode, Identity

if TYPE_CHECKING:
    from .manager import WebSocketConnectionManager

RETRY_AFTER_S = 5
"""What a refused client is told to wait."""
INTERNAL_ERROR = (1011, "internal error")


@asynccontextmanager
async def connected(
    manager: "WebSocketConnectionManager",
    websocket: WebSocket,
    client_id: str,
    metadata: Mapping[str, Any] | None,
    rooms: Iterable[str],
    subprotocol: str | None,
) -> AsyncIterator[Connection]:
    """Claim, accept, join, and release exactly this socket; see ``WebSocketConnectionManager.connection``."""
    connection = await _register(manager, websocket, client_id, dict(metadata or {}))
    code, reason = close_codes.NORMAL, "normal closure"
    has_begun = False
    try:
        if not is_accepted(websocket):
            await websocket.accept(subprotocol)
        for room in rooms:
            await connection.join(room)
        has_begun = True
        yield connection
    except BaseException as error:
        if not has_begun and _is_the_end_of(connection, error):
            raise WebSocketDisconnect(*(connection.closed_with or (code, reason))) from error
        if not _is_the_end_of(connection, error):
            is_cancelled = isinstance(error, asyncio.CancelledError)
            code, reason = (close_codes.GOING_AWAY, "server shutdown") if is_cancelled else INTERNAL_ERROR
            raise
    finally:
        if not connection.is_parked:
            await connection.close(code, reason)


async def _register(
    manager: "WebSocketConnectionManager", websocket: WebSocket, client_id: str, metadata: dict[str, Any]
) -> Connection:
    try:
        return await manager.connect(client_id, websocket, metadata)
    except WebSocketStabilizerError as error:
        if is_accepted(websocket):
            if isinstance(error, (DrainingError, *LOSSES)):
                raise  # it was closed, with a word about when to come back
            reason = str(error).encode()[:MAX_REASON_BYTES].decode(errors="ignore")
            within_s = manager.config.close_timeout_s
            await turn_away(websocket, close_codes.TRY_AGAIN_LATER, reason, within_s)
            raise
        raise _refusal(error) from error


def _is_the_end_of(connection: Connection, error: BaseException) -> bool:
    """Whether an error in the block only says that the connection is over; it may be about another client."""
    if isinstance(error, WebSocketDisconnect):
        return True
    is_about_an_end = isinstance(error, ConnectionNotFoundError | ConnectionTimeoutError | SlowConsumerError)
    return is_about_an_end and connection.ended is not None


def _refusal(error: WebSocketStabilizerError) -> HTTPException:
    if isinstance(error, InvalidNameError | MessageError):
        return HTTPException(400, str(error))
    if isinstance(error, ConnectionLimitExceededError) and "max_connections_per_client" in str(error):
        return HTTPException(409, str(error))
    retry_after_s = 1 if isinstance(error, DrainingError) else RETRY_AFTER_S  # another node takes it
    text = UNREACHABLE if isinstance(error, LOSSES) else str(error)
    return HTTPException(503, text, headers={"Retry-After": str(retry_after_s)})


def check_open(registry: Registry) -> None:
    """Raise the HTTP answer to a handshake that ``connect`` would refuse whoever it is for.

    Raises:
        HTTPException: 503, with ``Retry-After``.
    """
    try:
        registry.check_usable()
        registry.node.check_open()
    except WebSocketStabilizerError as error:
        raise _refusal(error) from error


def add_websocket_route(
    manager: "WebSocketConnectionManager", app: FastAPI | APIRouter, path: str, on_message: OnMessage | None
) -> Callable[[Any], Any]:
    """Return the decorator behind ``manager.websocket``."""

    def decorate(identify: Any) -> Any:
        # A dependency, so that FastAPI resolves its parameters as those of any other.
        async def endpoint(websocket: WebSocket, identity: Annotated[Identity, Depends(identify)]) -> None:
            await manager.serve(
                websocket,
                identity.client_id,
                metadata=identity.metadata,
                rooms=identity.rooms,
                subprotocol=identity.subprotocol,
                on_message=on_message,
                park=True,
            )

        router = app.router if isinstance(app, FastAPI) else app
        name = getattr(identify, "__name__", None)
        # Before the endpoint's own dependencies, so that identify redeems nothing for a socket that is refused.
        router.add_api_websocket_route(path, endpoint, name=name, dependencies=[Depends(manager.check_open)])
        return identify

    return decorate


def install_protocol(context: Context) -> None:
    """Have uvicorn serve sockets with the class that makes broadcasts fast, and say which way they go."""
    reason = "uvicorn_protocol is off"
    if context.config.uvicorn_protocol:
        try:
            from . import uvicorn
        except (ImportError, ConfigurationError) as error:
            reason = str(error)
        else:
            reason = uvicorn.install(compress=context.config.compression is not CompressionMode.NONE)
    if not reason:
        context.protocol = uvicorn.NAME
    # Where people look when a server starts; uvicorn shows its own loggers only.
    server_log = logging.getLogger("uvicorn.error")
    log = server_log if server_log.hasHandlers() else context.log
    log.info("WebSockets go through %s%s", context.protocol, f" ({reason})" if reason else "")


def health_router(registry: Registry) -> APIRouter:
    """Return the routes of ``manager.router``."""
    router = APIRouter()

    @router.get("/livez", include_in_schema=False)
    async def livez() -> dict[str, str]:
        return {"status": "alive"}

    @router.get("/readyz", include_in_schema=False)
    async def readyz(response: Response) -> dict[str, str]:
        reason = registry.unready()
        if reason is not None:
            response.status_code = 503
            return {"status": "not ready", "reason": reason}
        context = registry.context
        status = {"status": "ready", "node_id": context.node_id, "protocol": context.protocol}
        lacking = degraded(context)
        return status if lacking is None else {**status, "degraded": lacking}

    add_drain_route(router, registry)
    return router
