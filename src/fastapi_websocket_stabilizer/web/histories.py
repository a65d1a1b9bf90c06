"""``GET /history/{room}`` for pages that load older messages. The application decides who may read a room."""

import base64
import inspect
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Path, Query, Response

from ..exceptions import ConfigurationError, WebSocketStabilizerError
from ..models import HistoryEntry, HistoryPage
from ..names import check_room
from ..registry.hooks import name_of
from ..registry.registry import Registry
from ..retention import history_of
from ..wire.own_json import encode_json
from .routes import http_error

MAX_LIMIT = 100
"""Entries in one response, at most."""
MAX_ID = (1 << 53) - 1
WANTED = (
    "manager.history_router needs a FastAPI dependency with a parameter room, which raises an HTTPException or "
    "returns False if the caller may not read the room"
)
FORBIDDEN = "you may not read the history of this room"
SINCE_JOIN = "members of this room see only later messages than their join, so its history is not served here"
NO_HISTORY = "this room has no history"

Authorize = Callable[..., object]
"""A FastAPI dependency with a parameter ``room``."""


ReadPage = Callable[[str, int, int | None], Awaitable[HistoryPage]]
"""Function that returns a page of a room: ``manager.history``."""


def history_router(registry: Registry, read: ReadPage, authorize: Authorize) -> APIRouter:
    """Return the router of ``manager.history_router``.

    Raises:
        ConfigurationError: ``authorize`` is no function that takes a room.
    """
    _check(authorize)
    router = APIRouter()

    @router.get("/history/{room:path}")
    async def history(
        room: Annotated[str, Path()],
        verdict: Annotated[Any, Depends(authorize)],
        limit: Annotated[int, Query(ge=1, le=MAX_LIMIT)] = 50,
        before: Annotated[int | None, Query(ge=1, le=MAX_ID)] = None,
    ) -> Response:
        if verdict is False:
            raise HTTPException(403, FORBIDDEN)
        try:
            page = await _page(registry, read, room, limit, before)
        except WebSocketStabilizerError as error:
            raise http_error(error) from error
        found = {"entries": [_shown(entry) for entry in page], "cursor": page.cursor}
        return Response(
            encode_json(found, "history"),
            media_type="application/json",
            headers={"Cache-Control": "no-store"},
        )

    return router


async def _page(registry: Registry, read: ReadPage, room: str, limit: int, before: int | None) -> HistoryPage:
    """Return the page, or raise the HTTP response to a request for another room."""
    kept = history_of(registry.state.config.history, check_room(room))
    if kept is None:
        raise HTTPException(404, NO_HISTORY)
    if kept.visible == "since_join":
        raise HTTPException(403, SINCE_JOIN)
    return await read(room, limit, before)


def _shown(entry: HistoryEntry) -> dict[str, Any]:
    if isinstance(entry.message, bytes):
        return {"id": entry.id, "at": entry.at, "base64": base64.b64encode(entry.message).decode()}
    return {"id": entry.id, "at": entry.at, "message": entry.message}


def _check(authorize: object) -> None:
    """Check that a function decides by room.

    Raises:
        ConfigurationError: It is not callable, or has no parameter ``room``.
    """
    if not callable(authorize):
        raise ConfigurationError(f"{WANTED}, got {authorize!r}")
    if "room" not in inspect.signature(authorize).parameters:
        raise ConfigurationError(f"{WANTED}, got {name_of(authorize)}, which has no parameter room")
