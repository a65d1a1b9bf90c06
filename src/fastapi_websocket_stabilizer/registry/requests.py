"""Requests between nodes, and of operators: what to do with the sockets of a client, and what to show of a node."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from functools import partial
from typing import Any

from .. import close_codes, exceptions
from ..exceptions import LOSSES, BackendUnavailableError, ConnectionNotFoundError, WebSocketStabilizerError
from ..models import CloseCause
from ..names import NodeId, check_room
from ..wire.envelopes import Envelope
from .connections import Connections
from .directory import Directory
from .drain import Drain
from .inboxes import Inboxes
from .questions import Questions, foreign_question
from .replies import is_outcome, is_value
from .revocations import Revocations
from .rooms import Rooms
from .state import NodeState
from .views import Question, Views, as_answer, question_in

Note = Callable[[str, dict[str, Any]], Awaitable[bool | None]]
_ERRORS: dict[str, type[WebSocketStabilizerError]] = {
    error.__name__: error
    for error in vars(exceptions).values()
    if isinstance(error, type) and issubclass(error, WebSocketStabilizerError)
}


def parse(body: str | bytes) -> dict[str, Any]:
    """Return the request in an envelope.

    Raises:
        ValueError: The request is unknown to this release, or its room, code or reason is invalid.
    """
    match json.loads(body):
        case {"do": "join" | "leave" as do, "room": room}:
            return {"do": do, "room": check_room(room)}
        case {"do": "drain", "over_s": float(over_s)} if 0 < over_s < float("inf"):
            return {"do": "drain", "over_s": over_s}
        case {"do": "ask", "name": str(name), "within_s": float(within_s), "data": data}:
            return {"do": "ask", "question": foreign_question(name, data, within_s)}
        case {"do": "withdraw" | "unwatch" as do, "ask": int(ask)}:
            return {"do": do, "ask": ask}
        case {"do": "show" | "watch" as do, **about}:
            return {"do": do, "question": question_in(about) if do == "show" else None}
        case {"do": "close" | "disconnect" as do, "code": int(code), "reason": str(reason), **others}:
            return {"do": do, "code": code, "reason": reason, "connection_id": _only(code, others)}
        case request:
            raise ValueError(f"unknown request {request!r}"[:200])


def _only(code: int, others: Mapping[Any, Any]) -> str | None:
    """Return the only connection that a close is for; None for all of its client. Check the close code."""
    only = others.get("connection_id")
    if only is not None and not isinstance(only, str):
        raise ValueError(f"connection_id must be a string, got {only!r}"[:200])
    close_codes.check(code)
    return only


class Requests:
    """Operations on a client of any node: sends requests to other nodes, and executes theirs."""

    def __init__(
        self,
        state: NodeState,
        inboxes: Inboxes,
        *,
        directory: Directory,
        connections: Connections,
        rooms: Rooms,
        drain: Drain,
        questions: Questions,
        revocations: Revocations,
    ) -> None:
        self._state, self._replies, self._inboxes, self._directory = state, state.replies, inboxes, directory
        self._connections, self._rooms, self._drain = connections, rooms, drain
        self._questions, self._revocations = questions, revocations
        self.views: Views = Views(state)

    async def act(self, client_id: str, request: dict[str, Any]) -> int:
        """Execute a request for every connection of a client, or for one of them, on all nodes; return their number.

        What a leave or a close takes from a client is noted, for nodes that cannot be reached. A client that is away
        has sessions, from which it is removed as well.

        Raises:
            ConnectionNotFoundError: The client is not connected, and has no session to change.
            BackendUnavailableError: Another node did not answer in time.
        """
        outcomes = await asyncio.gather(
            self._noted(self._revocations.note, client_id, request),
            self._noted(self._change_sessions, client_id, request),
            self._act_elsewhere(client_id, request),
            self.act_here(client_id, request),
            return_exceptions=True,
        )
        touched = [*map(_or_raise, outcomes)]
        if not any(touched):
            only = request.get("connection_id")
            lacks = "is not connected" if only is None else f"has no connection {only!r}"
            raise ConnectionNotFoundError(f"client {client_id!r} {lacks}")
        return sum(touched[2:])

    async def _noted(self, note: Note, client_id: str, request: dict[str, Any]) -> bool:
        """Note what is taken from a client. The command is queued before its connections are asked for."""
        is_here = self._state.shards.has_client(client_id)
        try:
            return bool(await note(client_id, request))
        except LOSSES:
            if not self._state.degrades or not is_here:
                raise
        return False

    async def _change_sessions(self, client_id: str, request: dict[str, Any]) -> bool:
        """Revoke a room, or end all sessions of a client. Without ``client_protocol`` there are none."""
        sessions = self._state.backend.sessions
        match request if self._state.config.client_protocol else {}:
            case {"do": "leave", "room": room}:
                self._state.check_reachable()
                return await sessions.revoke(client_id, room)
            case {"do": "close", "connection_id": None}:
                self._state.check_reachable()
                return await sessions.end_all(client_id)
        return False

    async def _act_elsewhere(self, client_id: str, request: dict[str, Any]) -> int:
        return await self.ask(await self._directory.nodes_elsewhere(client_id), client_id, request)

    async def act_here(self, client_id: str, request: dict[str, Any]) -> int:
        """Execute a request for this node's connections of a client; return the number of connections.

        A drain applies to all clients.
        """
        if request["do"] == "drain":
            return (await self._drain.run(request["over_s"])).closed_count
        only = request.get("connection_id")
        connections = [c for c in self._state.shards.of_client(client_id) if only in (None, c.connection_id)]
        for connection in connections:
            match request["do"]:
                case "join":
                    await self._rooms.join(connection, request["room"])
                case "leave":
                    await self._rooms.leave(connection, request["room"])
                case "close":
                    cause = CloseCause.KICKED
                    await self._connections.end(connection, cause, request["code"], request["reason"])
        return len(connections)

    async def ask(self, nodes: list[NodeId], client_id: str, request: dict[str, Any]) -> int:
        """Send ``request`` to the nodes; return the number of connections that it affected.

        Raises:
            BackendUnavailableError: A node did not answer within ``redis_timeout_s``.
            WebSocketStabilizerError: The error of the operation there.
        """
        if not nodes:
            return 0
        with self._replies.opened(is_outcome) as ask:
            took = await self._publish(nodes, client_id, request, ask)
            answers = await self._replies.gather(ask, took, self._state.config.redis_timeout_s)
        if len(answers) < took:
            missing, timeout_s = sorted(set(nodes) - set(answers)), self._state.config.redis_timeout_s
            raise BackendUnavailableError(
                f"{request['do']} {client_id!r}: no answer from {missing} within {timeout_s:g} s",
                outcome_unknown=True,
            )
        return sum(_touched(answer) for answer in answers.values())

    async def _publish(self, nodes: list[NodeId], client_id: str, request: dict[str, Any], ask: int) -> int:
        """Send the request to the nodes; return the number of nodes that received it."""
        body = json.dumps(request)
        return sum([await self._inboxes.request(node, client_id, body, ask) for node in nodes])

    def on_request(self, envelope: Envelope) -> None:
        """Execute another node's request, and reply."""
        (client_id,), request = envelope.targets, parse(envelope.body)
        match request["do"]:
            case "ask":
                self._questions.ask_for(envelope, request["question"])
            case "withdraw":
                self._questions.withdraw_for(envelope, request["ask"])
            case "show":
                self._serve(envelope, self._shown(request["question"]))
            case "watch":
                self._serve(envelope, self._watched(envelope))
            case "unwatch":
                self._state.tail.unwatch((envelope.sender, request["ask"]))
            case "disconnect":  # of an operator, who may ask any node
                self._serve(envelope, self.act(client_id, request | {"do": "close"}))
            case _:
                self._serve(envelope, self.act_here(client_id, request))

    def _serve(self, envelope: Envelope, act: Coroutine[Any, Any, Any]) -> None:
        self._state.tasks.spawn(self._reply(envelope, act), "serve")

    async def _reply(self, envelope: Envelope, act: Coroutine[Any, Any, Any]) -> None:
        try:
            outcome = await act
        except WebSocketStabilizerError as error:
            outcome = _packed(error)
        await self._inboxes.reply(envelope.sender, envelope.ask, outcome)

    async def _shown(self, question: Question) -> dict[str, Any]:
        return as_answer(question, await self.views.answer(question))

    async def _watched(self, envelope: Envelope) -> dict[str, Any]:
        watcher = envelope.sender, envelope.ask
        self._state.tail.watch(watcher, partial(self._inboxes.reply, *watcher))
        return {"events": [], "dropped": 0}


def _or_raise(outcome: int | BaseException) -> int:
    if isinstance(outcome, BaseException):
        raise outcome
    return int(outcome)


def _touched(answer: Any) -> int:
    if isinstance(answer, list):
        raise _unpacked(*answer)
    return int(answer)


def _packed(error: WebSocketStabilizerError) -> list[Any]:
    """Return an error as an answer: the public class, the text, and the attributes that JSON can hold."""
    name = next(base.__name__ for base in type(error).__mro__ if base.__name__ in _ERRORS)
    return [name, str(error), {key: value for key, value in vars(error).items() if is_value(value)}]


def _unpacked(name: str, text: str, values: dict[str, Any]) -> WebSocketStabilizerError:
    error = _ERRORS.get(name, WebSocketStabilizerError)(text)
    for key in vars(error).keys() & values.keys():
        setattr(error, key, values[key])
    return error
