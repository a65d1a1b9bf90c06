"""What one node asks another to do with a client whose socket it holds: join, leave, close. And to drain."""

import json
from collections.abc import Awaitable, Callable
from typing import Any

from .. import close_codes, exceptions
from ..exceptions import BackendUnavailableError, WebSocketStabilizerError
from ..names import NodeId, check_room
from ..wire.envelopes import Envelope, Kind
from ..wire.messages import Form
from .inbound import Inbound
from .replies import is_outcome, is_value
from .state import NodeState

_ERRORS: dict[str, type[WebSocketStabilizerError]] = {
    error.__name__: error
    for error in vars(exceptions).values()
    if isinstance(error, type) and issubclass(error, WebSocketStabilizerError)
}

Act = Callable[[str, dict[str, Any]], Awaitable[int]]
"""Carries out one operation for a client on this node; returns how many connections it touched."""


def parse(body: str | bytes) -> dict[str, Any]:
    """Return the request in an envelope.

    Raises:
        ValueError: It is none that this release knows, or names no legal room, code or reason.
    """
    match json.loads(body):
        case {"do": "join" | "leave" as do, "room": room}:
            return {"do": do, "room": check_room(room)}
        case {"do": "drain", "over_s": float(over_s)} if 0 < over_s < float("inf"):
            return {"do": "drain", "over_s": over_s}
        case {"do": "close", "code": int(code), "reason": str(reason), **others}:
            only = others.get("connection_id")
            if only is None or isinstance(only, str):
                close_codes.check(code)
                return {"do": "close", "code": code, "reason": reason, "connection_id": only}
            raise ValueError(f"connection_id must be a string, got {only!r}"[:200])
        case request:
            raise ValueError(f"unknown request {request!r}"[:200])


class Requests:
    """Asks, answers, and brings errors home under their own names."""

    def __init__(self, state: NodeState, delivery: Inbound, act: Act) -> None:
        self._state, self._inbound, self._act = state, delivery, act
        self._replies = state.replies

    async def ask(self, nodes: list[NodeId], client_id: str, request: dict[str, Any]) -> int:
        """Have the nodes carry out ``request``; return how many connections it touched.

        Raises:
            BackendUnavailableError: A node did not answer within ``redis_timeout_s``.
            WebSocketStabilizerError: What the operation raised there.
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
        """Send the request to the nodes; return how many took it."""
        own, body, took = self._state.node_id, json.dumps(request), 0
        for node in nodes:
            # Numbered when it is sent: while one is awaited, others are sent, and none may look like a repetition.
            sequence, previous = self._state.sequencer.next("inbox")
            envelope = Envelope(own, sequence, previous, Kind.REQUEST, (client_id,), (), Form.JSON, body, ask)
            took += await self._state.backend.bus.publish_node(node, envelope)
        return took

    async def serve(self, envelope: Envelope, client_id: str, request: dict[str, Any]) -> None:
        """Carry out another node's request and answer it."""
        try:
            answer: Any = await self._act(client_id, request)
        except WebSocketStabilizerError as error:
            answer = _packed(error)
        await self._inbound.answer(envelope.sender, envelope.ask, answer)


def _touched(answer: Any) -> int:
    if isinstance(answer, list):
        raise _unpacked(*answer)
    return int(answer)


def _packed(error: WebSocketStabilizerError) -> list[Any]:
    """Return an error as an answer: the public class, the text and the values that JSON has."""
    name = next(base.__name__ for base in type(error).__mro__ if base.__name__ in _ERRORS)
    return [name, str(error), {key: value for key, value in vars(error).items() if is_value(value)}]


def _unpacked(name: str, text: str, values: dict[str, Any]) -> WebSocketStabilizerError:
    error = _ERRORS.get(name, WebSocketStabilizerError)(text)
    for key in vars(error).keys() & values.keys():
        setattr(error, key, values[key])
    return error
