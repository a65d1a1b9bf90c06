"""``manager.admin_router()``: what operators see and do, as JSON under ``/api`` and as one page."""

import asyncio
import json
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass, fields, is_dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, TypeVar, get_args

from fastapi import APIRouter, Body, HTTPException, Query, Request
from fastapi.params import Depends as Dependency
from fastapi.responses import StreamingResponse
from pydantic import Field

from .. import close_codes
from ..backends.redis.doctor.diagnosis import Level
from ..backends.redis.doctor.examination import examine
from ..config import mask_password
from ..exceptions import ConfigurationError, WebSocketStabilizerError
from ..models import BroadcastResult, CloseCause, NodeInfo
from ..names import NodeId
from ..observe import looking
from ..observe.overview import NodeName, Overview, RedisState, Watch, ends_of, totals_of
from ..observe.report import ShownNode, report_of
from ..registry.registry import Registry
from ..registry.statistics import limits_of
from ..registry.views import MAX_ROWS, OfClosed, OfConnections, OfRooms, Order, State
from ..runtime.logs import get_logger
from ..runtime.loops import running_loop
from .access import Access
from .admin_page import add_page_routes
from .problems import guarded_by

Action = Literal["kick", "drain", "broadcast"]
EVENTS_LAST_IN_DRAIN_S = 2.0
QUIET_S = 1.0
"""Seconds after which a stream without events has an empty line, so that a client that has gone is noticed."""
EVENTS_LAST_S = 30.0
"""Seconds after which a stream of events ends, and the page asks for the next one."""
DOCTOR_LASTS_S = 30.0
"""Seconds for which the findings of an examination are shown again."""
Broadcast = Callable[..., Awaitable[BroadcastResult]]
Answer = dict[str, Any]
Limit = Annotated[int, Query(ge=1, le=MAX_ROWS)]
Name = Annotated[str | None, Query(max_length=512)]

LEVELS = {Level.OK: "ok", Level.NOTE: "note", Level.CHANGE: "error"}
"""The level of a finding about Redis, as the page colours it."""
T = TypeVar("T")

audit: logging.Logger = get_logger("audit")


def admin_router(
    registry: Registry,
    broadcast: Broadcast,
    *,
    prefix: str,
    dependencies: Sequence[Dependency],
    actions: Collection[Action],
    include_in_schema: bool,
) -> APIRouter:
    """Return the router of ``manager.admin_router``.

    Raises:
        ConfigurationError: An action is unknown, or callers could act without being checked.
    """
    unknown = sorted(set(actions) - set(get_args(Action)))
    if unknown:
        raise ConfigurationError(
            f"actions are {', '.join(get_args(Action))}, got {', '.join(map(repr, unknown))}"
        )
    config, counters = registry.state.config, registry.state.counters
    access = Access(lambda: config.admin_secret, counters, is_checked=bool(dependencies))
    if actions:
        access.check_guarded()
    router = APIRouter(prefix=prefix, dependencies=dependencies, tags=["stabilizer"])
    api = APIRouter(
        prefix="/api",
        route_class=guarded_by(access),
        include_in_schema=include_in_schema,
    )
    Admin(registry, broadcast, frozenset(actions)).add_routes(api)
    router.include_router(api)
    add_page_routes(router, access)
    return router


@dataclass(frozen=True, slots=True)
class NodeDetails:
    """A node with all its counters and gauges."""

    node: ShownNode
    totals: dict[str, int]
    gauges: dict[str, float]


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of the node that answers, without secrets, and how much of its limits is used."""

    settings: dict[str, Any]
    limits: dict[str, int | float | None]
    used: dict[str, int]


@dataclass(frozen=True, slots=True)
class Close:
    """The body of a disconnect: as the arguments of ``manager.disconnect``."""

    code: int = int(close_codes.CloseCode.ENDED)
    reason: Annotated[str, Field(max_length=123)] = "closed by an operator"
    connection_id: str | None = None


@dataclass(frozen=True, slots=True)
class DrainOver:
    """The body of a drain. ``over_s`` is ``drain_over_s`` if it is None."""

    over_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None


@dataclass(frozen=True, slots=True)
class Text:
    """The body of a broadcast: to everybody, or to a room."""

    text: str
    room: str | None = None


class Admin:
    """The routes of one admin router."""

    def __init__(self, registry: Registry, broadcast: Broadcast, actions: frozenset[Action]) -> None:
        self._registry, self._survey, self._state = registry, registry.survey, registry.state
        self._broadcast, self._actions = broadcast, actions
        self._watch = Watch()
        self._examined: tuple[float, asyncio.Future[list[dict[str, str]]]] | None = None

    def add_routes(self, api: APIRouter) -> None:
        """Add what shows, and the actions that are allowed. Those that are not do not exist."""
        shows: dict[str, Callable[..., Any]] = {
            "/overview": self.overview,
            "/nodes": self.nodes,
            "/nodes/{node_id}": self.node,
            "/connections": self.connections,
            "/clients/{client_id:path}": self.client,
            "/rooms": self.rooms,
            "/rooms/{room:path}": self.room,
            "/closed": self.closed,
            "/config": self.config,
            "/doctor": self.doctor,
            "/events": self.events,
        }
        for path, show in shows.items():
            api.get(path)(show)
        acts: dict[Action, tuple[str, Callable[..., Any]]] = {
            "kick": ("/clients/{client_id:path}/disconnect", self.disconnect),
            "drain": ("/nodes/{node_id}/drain", self.drain),
            "broadcast": ("/broadcast", self.broadcast),
        }
        for action in self._actions:
            path, act = acts[action]
            api.post(path)(act)

    # What shows

    async def overview(self) -> Overview:
        """Totals, problems, ends by cause, and all nodes."""
        scrape, state = await self._survey.scrape(), self._state
        look = self._watch.look(scrape, running_loop().time())
        report, url = report_of(state.config.namespace, look), state.config.redis_url
        return Overview(
            at=datetime.now(UTC),
            registry=state.config.namespace,
            node=NodeName(state.node_id, state.name),
            mode="redis" if state.is_distributed else "memory",
            redis=None if url is None else RedisState(mask_password(url), not state.is_away),
            window_s=round(look.seconds, 3),
            actions=sorted(self._actions),
            totals=totals_of(report),
            closed_by_cause=ends_of(look),
            problems=report.problems,
            nodes=report.nodes,
            missing=scrape.missing,
        )

    async def nodes(self) -> list[ShownNode]:
        """All nodes, with their rates."""
        return (await self.overview()).nodes

    async def node(self, node_id: str) -> NodeDetails:
        """One node, with all its counters and gauges."""
        scrape = await self._survey.scrape()
        look = self._watch.look(scrape, running_loop().time())
        shown = {node.node_id: node for node in report_of("", look).nodes}
        for sample in scrape.samples:
            if sample.node == node_id:
                return NodeDetails(shown[node_id], dict(sample.totals), dict(sample.gauges))
        raise HTTPException(404, f"no live node has the node_id {node_id!r:.80}")

    async def connections(
        self,
        client: Name = None,
        room: Name = None,
        state: State | None = None,
        sort: Order = "age",
        node: Name = None,
        limit: Limit = 100,
    ) -> Answer:
        """Open connections of all nodes, or of one."""
        question = OfConnections(client, room, state, sort, limit)
        order, nodes = looking.ORDERS[sort], await self._those(node)
        return (await looking.look(self._survey, question, order, nodes)).as_dict()

    async def client(self, client_id: str) -> Answer:
        """All that is known of one client, and what it means."""
        return looking.explained_as_dict(await looking.explain(self._survey, client_id))

    async def rooms(self, prefix: str = "", node: Name = None, limit: Limit = 100) -> Answer:
        """The rooms with the most members."""
        nodes = await self._those(node)
        return (await looking.rooms(self._survey, OfRooms(prefix, limit), nodes)).as_dict()

    async def room(self, room: str, limit: Limit = 100) -> Answer:
        """The connections in a room."""
        return await self.connections(room=room, limit=limit)

    async def closed(
        self, client: Name = None, cause: CloseCause | None = None, node: Name = None, limit: Limit = 100
    ) -> Answer:
        """The last connections that have ended, the newest first."""
        question, nodes = OfClosed(client, cause, limit), await self._those(node)
        return (await looking.look(self._survey, question, lambda end: end.at, nodes)).as_dict()

    async def _those(self, node: str | None) -> list[NodeInfo]:
        """Return all nodes, or the one with this node_id or name."""
        nodes = await self._survey.nodes()
        found = [each for each in nodes if node in (None, each.node_id, each.name)]
        if not found:
            raise HTTPException(404, f"no live node is called {node!r:.80}")
        return found

    async def config(self) -> Settings:
        """The settings of the node that answers, and its limits."""
        state, config = self._state, self._state.config
        shown = {
            field.name: _shown(getattr(config, field.name), is_secret=not field.repr)
            for field in fields(config)
        }
        if config.redis_url is not None:
            shown["redis_url"] = mask_password(config.redis_url)
        used = {
            "max_connections": len(state.shards),
            "fan_out_queue_bytes": state.fan_out.queued_bytes,
            "unheard_bytes": state.in_flight.bytes,
            "history_bytes": self._registry.history.held().bytes,
        }
        return Settings(shown, limits_of(config), used)

    async def doctor(self) -> dict[str, list[dict[str, str]]]:
        """Whether Redis is set up well. Callers within 30 s get the same findings."""
        config, now_s = self._state.config, running_loop().time()
        if config.redis_url is None:
            raise HTTPException(409, "this registry is in memory: there is no Redis to examine")
        if self._examined is None or now_s - self._examined[0] > DOCTOR_LASTS_S:
            examination = self._examine(config.redis_url, config.namespace, config.redis_timeout_s)
            self._examined = now_s, self._state.tasks.spawn(examination, "examine-redis")
        return {"findings": await asyncio.shield(self._examined[1])}

    @staticmethod
    async def _examine(url: str, namespace: str, timeout_s: float) -> list[dict[str, str]]:
        findings = await examine(url, namespace, timeout_s)
        return [
            {
                "level": LEVELS[finding.level],
                "text": f"{finding.check}{' of ' + finding.server if finding.server else ''}: {finding.found}",
                "advice": finding.advice,
            }
            for finding in findings
        ]

    async def events(
        self, client: Name = None, kind: Literal["opened", "closed"] | None = None
    ) -> StreamingResponse:
        """Each connection that opens or ends, a line of JSON each, for 30 s."""
        self._state.tail.check_room()

        def is_wanted(event: dict[str, Any]) -> bool:
            return client in (None, event.get("client_id")) and kind in (None, event.get("kind"))

        return StreamingResponse(
            self._lines(is_wanted), media_type="application/x-ndjson", headers={"Cache-Control": "no-store"}
        )

    async def _lines(self, is_wanted: Callable[[dict[str, Any]], bool]) -> AsyncIterator[str]:
        state, was_draining = self._state, self._state.is_draining
        until_s = running_loop().time() + (EVENTS_LAST_IN_DRAIN_S if was_draining else EVENTS_LAST_S)
        async with aclosing(self._survey.tail()) as messages:
            waiting = asyncio.ensure_future(anext(messages))
            try:
                while running_loop().time() < until_s and not state.is_closed:
                    if (
                        state.is_draining and not was_draining
                    ):  # a server waits for its responses before it ends
                        return
                    done, _ = await asyncio.wait({waiting}, timeout=QUIET_S)
                    yield _as_lines(waiting.result(), is_wanted) if done else "\n"
                    if done:
                        waiting = asyncio.ensure_future(anext(messages))
            except WebSocketStabilizerError as error:
                yield json.dumps({"kind": "silent", "text": str(error)}) + "\n"
            finally:
                waiting.cancel()
                await asyncio.wait({waiting})

    # What acts

    async def disconnect(
        self, client_id: str, request: Request, close: Annotated[Close, Body()]
    ) -> dict[str, str | int]:
        """Close a client, or one connection of it, on whichever node it is."""
        if not close_codes.is_allowed(close.code):
            raise HTTPException(422, f"code: must be {close_codes.ALLOWED}, got {close.code}")
        survey, about = self._survey, asdict(close)
        count = await self._audited(request, "kick", client_id, about, survey.disconnect(client_id, **about))
        return {"client_id": client_id, "closed": count}

    async def drain(
        self, node_id: str, request: Request, over: Annotated[DrainOver, Body()]
    ) -> dict[str, str]:
        """Have a node begin a drain."""
        over_s = self._state.config.drain_over_s if over.over_s is None else over.over_s
        drain = self._survey.begin_to_drain(NodeId(node_id), over_s)
        await self._audited(request, "drain", node_id, {"over_s": over_s}, drain)
        return {"node_id": node_id}

    async def broadcast(self, request: Request, text: Annotated[Text, Body()]) -> dict[str, int]:
        """Send a text to everybody, or to a room."""
        about = {"characters": len(text.text)}  # not the text, which is for clients
        sent = self._broadcast(text.text, room=text.room)
        published = await self._audited(request, "broadcast", text.room or "everybody", about, sent)
        return {"nodes": published.nodes}

    @staticmethod
    async def _audited(
        request: Request, action: Action, target: str, about: dict[str, Any], act: Awaitable[T]
    ) -> T:
        """Act, and log the action with its target, its actor and its result.

        A dependency of the application may set ``request.state.actor``.
        """
        caller = request.client.host if request.client else "?"
        extra = {
            "action": action,
            "target": target,
            "actor": getattr(request.state, "actor", caller),
            **about,
        }
        try:
            result = await act
        except BaseException as error:
            audit.warning("admin action failed", extra=extra | {"error": str(error)})
            raise
        audit.warning("admin action", extra=extra | {"result": str(result)})
        return result


def _as_lines(message: dict[str, Any], is_wanted: Callable[[dict[str, Any]], bool]) -> str:
    events = [*filter(is_wanted, message["events"])]
    if message["dropped"]:
        events.append({"kind": "dropped", "count": message["dropped"]})
    events += [{"kind": "silent", "text": text} for text in message["silent"]]
    return "".join(json.dumps(event) + "\n" for event in events)


def _shown(value: Any, *, is_secret: bool) -> Any:
    if is_secret:
        return "set" if value else None
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, dict):
        return {key: _shown(each, is_secret=False) for key, each in value.items()}
    if isinstance(value, tuple):
        return [*value]
    is_json = isinstance(value, str | int | None) or (isinstance(value, float) and math.isfinite(value))
    return value if is_json else str(getattr(value, "value", value))
