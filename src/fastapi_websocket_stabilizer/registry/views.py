"""Answers operators: the connections and rooms of this node. Tables are read in turns, so the loop is never held.

Another node or ``stabilizer`` on the command line asks, over the bus. An answer has at most ``MAX_ROWS`` rows.
"""

import asyncio
import heapq
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, NamedTuple, TypeVar

from pydantic import TypeAdapter

from ..exceptions import ClientInputError, RequestFailedError
from ..local.connection import Connection
from ..models import CloseCause, ClosedConnection, ConnectionView, RoomView
from ..names import NodeId, node_of
from ..wire.foreign_json import check_numbers
from .replies import is_outcome
from .state import NodeState

MAX_ROWS = 500
"""Rows of one answer."""
PER_TURN = 500
"""Rows that are looked at in one turn of the event loop."""
VIEWS_PER_TURN = 50
"""Rows that are built in one turn of the event loop."""
MAX_COUNT = 1 << 53
"""Larger counts are of no node."""
MAX_AT_ONCE = 4
"""Questions that are answered at a time. More are refused."""
SHOWN_ROOMS = 20
"""Rooms of a connection that are shown."""
EXPIRES_SOON_S = 60.0
"""Seconds before the end of the credentials in which a connection counts as expiring."""

State = Literal["slow", "silent", "parked", "expiring"]
Order = Literal["age", "outbox", "silent"]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class OfConnections:
    """Asks for open connections.

    Attributes:
        client: Only those of this client.
        room: Only those in this room.
        state: Only those that read too slowly, that have not answered a ping, that have no task, or whose
            credentials expire within a minute.
        order: What the first rows have most of.
    """

    client: str | None = None
    room: str | None = None
    state: State | None = None
    order: Order = "age"
    limit: int = 100


@dataclass(frozen=True, slots=True)
class OfClosed:
    """Asks for connections that have ended, the newest first.

    Attributes:
        client: Only those of this client.
        cause: Only those with this cause.
    """

    client: str | None = None
    cause: CloseCause | None = None
    limit: int = 100


@dataclass(frozen=True, slots=True)
class OfRooms:
    """Asks for rooms, those with the most members first.

    Attributes:
        prefix: Only those whose name begins with it.
    """

    prefix: str = ""
    limit: int = 100


Question = OfConnections | OfClosed | OfRooms
KINDS: dict[str, type[Question]] = {"connections": OfConnections, "closed": OfClosed, "rooms": OfRooms}
_READERS: dict[str, TypeAdapter[Any]] = {name: TypeAdapter(kind) for name, kind in KINDS.items()}
_ROWS: dict[type[Question], TypeAdapter[Any]] = {
    OfConnections: TypeAdapter(list[ConnectionView]),
    OfClosed: TypeAdapter(list[ClosedConnection]),
    OfRooms: TypeAdapter(list[RoomView]),
}


@dataclass(frozen=True, slots=True)
class Found:
    """An answer.

    Attributes:
        rows: At most as many as were asked for.
        count: Number of rows that there are.
    """

    rows: list[Any]
    count: int


class Answered(NamedTuple):
    """The answers of nodes to one question.

    Attributes:
        found: What each node has found.
        silent: Why there is no answer of the other nodes.
    """

    found: dict[NodeId, Found]
    silent: dict[NodeId, str]


def request_of(question: Question) -> dict[str, Any]:
    """Return a question as the request to another node."""
    kind = next(name for name, each in KINDS.items() if isinstance(question, each))
    asked: dict[str, Any] = TypeAdapter(type(question)).dump_python(question, mode="json")
    return {"do": "show", "what": kind, **asked}


def question_in(request: Mapping[Any, Any]) -> Question:
    """Return the question in a request.

    Raises:
        ValueError: It is unknown to this release, or malformed.
    """
    reader = _READERS.get(str(request.get("what")))
    if reader is None:
        raise ValueError(f"nothing is known of {request.get('what')!r:.80}")
    question: Question = reader.validate_python(request)
    return question


def as_answer(question: Question, found: Found) -> dict[str, Any]:
    """Return what was found as the answer to another node."""
    return {"rows": _ROWS[type(question)].dump_python(found.rows, mode="json"), "count": found.count}


def is_answer(answer: Any) -> bool:
    """Whether another node's answer has the form of one: what it has found, or an error."""
    return isinstance(answer, dict) or is_outcome(answer)


def answered(
    question: Question, asked: Iterable[NodeId], answers: Mapping[NodeId, Any], timeout_s: float
) -> Answered:
    """Return what nodes have found, and why others are silent. A stranger may have sent an answer."""
    found, silent = dict[NodeId, Found](), dict[NodeId, str]()
    for node in asked:
        match answers.get(node):
            case None:
                silent[node] = f"no answer within {timeout_s:g} s"
            case {"rows": rows, "count": int(count)}:
                try:
                    found[node] = _found(question, rows, count)
                except (ValueError, ClientInputError):
                    silent[node] = "its answer is not one of this release"
            case [_, text, _]:
                silent[node] = str(text)
            case _:
                silent[node] = "its answer is not one of this release"
    return Answered(found, silent)


def _found(question: Question, rows: Any, count: int) -> Found:
    """Return what a node has found. Raise an error if a value is out of range."""
    check_numbers([rows])
    read: list[Any] = _ROWS[type(question)].validate_python(rows)
    if not 0 <= count < MAX_COUNT or any(
        isinstance(row, ClosedConnection) and row.at.tzinfo is None for row in read
    ):
        raise ValueError("a number or a time is out of range")
    return Found(read, count)


class Views:
    """Answers questions about this node."""

    def __init__(self, state: NodeState) -> None:
        self._state = state
        self._asked = 0

    async def answer(self, question: Question) -> Found:
        """Return the rows of an answer, and how many there are.

        Raises:
            RequestFailedError: ``MAX_AT_ONCE`` others are being answered. The code is "limit".
        """
        if self._asked >= MAX_AT_ONCE:
            self._state.counters.views_refused += 1
            text = f"node {self._state.name} answers {MAX_AT_ONCE} operators already: ask again"
            raise RequestFailedError(text, code="limit", message=text, retry=True)
        self._asked += 1
        try:
            return await self._found(question)
        finally:
            self._asked -= 1

    async def _found(self, question: Question) -> Found:
        limit = min(max(1, question.limit), MAX_ROWS)
        match question:
            case OfConnections():
                return await self._connections(question, limit)
            case OfClosed():
                client, cause = question.client, question.cause
                return await _most(
                    self._state.ends.last(),
                    lambda end: client in (None, end.client_id) and cause in (None, end.cause),
                    lambda end: end.at,
                    limit,
                )
            case OfRooms():
                node, prefix, sizes = (
                    self._state.node_id,
                    question.prefix,
                    [*self._state.shards.rooms.items()],
                )
                found = await _most(
                    sizes, lambda size: size[0].startswith(prefix), lambda size: size[1], limit
                )
                return Found([RoomView(room, node, members) for room, members in found.rows], found.count)

    async def _connections(self, question: OfConnections, limit: int) -> Found:
        shards, room, is_in = self._state.shards, question.room, _STATES[question.state]
        connections = shards if question.client is None else shards.of_client(question.client)
        found = await _most(
            connections,
            lambda each: (room is None or room in each.rooms) and is_in(each),
            _ORDERS[question.order],
            limit,
        )
        views = list[ConnectionView]()
        for number, connection in enumerate(found.rows):
            if number % VIEWS_PER_TURN == VIEWS_PER_TURN - 1:
                await asyncio.sleep(0)
            views.append(self._view(connection))
        return Found(views, found.count)

    def _view(self, connection: Connection) -> ConnectionView:
        heartbeat, session, expires_s = connection.heartbeat, connection.session, _expires_s(connection)
        return ConnectionView(
            client_id=connection.client_id,
            connection_id=connection.connection_id,
            node=node_of(connection.connection_id),
            open_s=round(_open_s(connection), 3),
            silent_s=round(_silent_s(connection), 3),
            ping_s=None if heartbeat.ping_s is None else round(heartbeat.ping_s, 6),
            queued_bytes=connection.writer.queued_bytes,
            queued_limit=self._state.config.outbox_size,
            is_behind=_is_behind(connection),
            is_asked=not heartbeat.is_answered,
            is_parked=connection.is_parked,
            protocol="" if session is None else "stabilizer.v1",
            expires_s=None if math.isinf(expires_s) else round(expires_s, 3),
            rooms=tuple(heapq.nsmallest(SHOWN_ROOMS, connection.rooms)),
            room_count=len(connection.rooms),
        )


def _open_s(connection: Connection) -> float:
    return connection.loop.time() - connection.opened_at_s


def _silent_s(connection: Connection) -> float:
    return min(_open_s(connection), connection.loop.time() - connection.heartbeat.heard_at_s)


def _expires_s(connection: Connection) -> float:
    return connection.expires_at_s - connection.loop.time()


def _is_behind(connection: Connection) -> bool:
    return connection.session is not None and connection.session.following.is_behind


_ORDERS: dict[Order, Callable[[Connection], float]] = {
    "age": _open_s,
    "outbox": lambda connection: connection.writer.queued_bytes,
    "silent": _silent_s,
}
_STATES: dict[State | None, Callable[[Connection], bool]] = {
    None: lambda _: True,
    "slow": lambda connection: connection.writer.queued_bytes > 0 or _is_behind(connection),
    "silent": lambda connection: not connection.heartbeat.is_answered,
    "parked": lambda connection: connection.is_parked,
    "expiring": lambda connection: _expires_s(connection) < EXPIRES_SOON_S,
}


async def _most(
    items: Iterable[T], is_wanted: Callable[[T], bool], key: Callable[[T], Any], limit: int
) -> Found:
    """Return the wanted items with the largest keys, and the number of all that are wanted."""
    best, count, rest = list[T](), 0, iter(items)
    while chunk := list(islice(rest, PER_TURN)):
        wanted = [each for each in chunk if is_wanted(each)]
        count += len(wanted)
        best = heapq.nlargest(limit, [*best, *wanted], key=key)
        await asyncio.sleep(0)
    return Found(best, count)
