"""Requests of the application to clients: to all sockets of a client, on every node. The first answer counts."""

import asyncio
import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from ..exceptions import (
    LOSSES,
    ConnectionNotFoundError,
    InvalidNameError,
    MessageError,
    RequestFailedError,
    RequestTimeoutError,
    RequestUnsupportedError,
    WrongEventLoopError,
)
from ..local.connection import Connection
from ..local.requests import FirstAnswer, Resolve, Unanswered
from ..local.session import Session
from ..names import NodeId, has_utf8
from ..runtime.loops import running_loop
from ..runtime.seconds import positive_seconds
from ..wire.client_input import MAX_NAME_CHARACTERS, Answer, ErrorAnswer
from ..wire.envelopes import Envelope
from ..wire.own_json import encode_json
from .directory import Directory
from .inboxes import Inboxes
from .state import NodeState

_REASONS = {reason.value: reason for reason in Unanswered}


@dataclass(frozen=True, slots=True)
class Question:
    """A request to a client.

    Attributes:
        json: The data as JSON text.
        timeout_s: Seconds within which an answer counts.
    """

    name: str
    json: str
    timeout_s: float


def foreign_question(name: str, data: Any, timeout_s: float) -> Question:
    """Return the question of another node.

    Raises:
        ValueError: The name or the time is out of range.
    """
    if not 0 < len(name) <= MAX_NAME_CHARACTERS or not 0 < timeout_s < float("inf"):
        raise ValueError(f"question {name!r:.200} within {timeout_s!r} s")
    return Question(name, encode_json(data, "data of the request").decode(), timeout_s)


class Race:
    """A question on its way to sockets of this node, and to other nodes.

    Attributes:
        answers: The first answer, or why there is none.
        deadline_s: Time of the event loop up to which an answer counts.
        done: Ends with the first answer, or when none can come any more.
    """

    def __init__(self, question: Question) -> None:
        self.answers: FirstAnswer = FirstAnswer(self._over)
        self.deadline_s: float = running_loop().time() + question.timeout_s
        self.done: asyncio.Future[None] = running_loop().create_future()
        self.is_withdrawn: bool = False
        self._question = question
        self._asked: list[tuple[Session, int]] = []

    def _over(self) -> None:
        if not self.done.done():  # it is cancelled with the task that waits for it
            self.done.set_result(None)

    def ask(self, connections: Iterable[Connection]) -> None:
        """Send the question to sockets of this node.

        Raises:
            WrongEventLoopError: A socket belongs to another event loop.
        """
        name, text = self._question.name, self._question.json
        for connection in connections:
            session = connection.session
            if session is None:
                self.answers.expect()(Unanswered.PLAIN)
            elif connection.loop is not running_loop():
                raise WrongEventLoopError(
                    f"connection {connection.connection_id} is served on another event loop: ask it on that one"
                )
            else:
                number = session.request(name, text, self.answers.expect(), self.deadline_s)
                if number is not None:
                    self._asked.append((session, number))

    def body(self) -> str:
        """Return the request to another node, with the time that is left. The data is JSON already."""
        left_s = max(0.001, self.deadline_s - running_loop().time())
        head = json.dumps({"do": "ask", "name": self._question.name, "within_s": left_s})
        return f'{head[:-1]}, "data": {self._question.json}}}'

    def withdraw(self) -> None:
        """Tell the sockets that have not answered that no answer is needed any more."""
        self.is_withdrawn = True
        for session, number in self._asked:
            session.withdraw(number)


class Questions:
    """Asks clients for the application, and for other nodes."""

    def __init__(self, state: NodeState, inboxes: Inboxes, directory: Directory) -> None:
        self._state, self._inboxes, self._directory = state, inboxes, directory
        self._of_others: dict[tuple[NodeId, int], Race] = {}

    # For the application

    def question(self, name: str, data: Any, timeout_s: float) -> Question:
        """Return a question whose parts are checked.

        Raises:
            InvalidNameError: ``name`` is no text of 1 to 128 characters without lone surrogates.
            ConfigurationError: ``timeout_s`` is not a positive number.
            MessageError: ``data`` cannot be encoded, or is too long.
        """
        if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME_CHARACTERS or not has_utf8(name):
            raise InvalidNameError(
                f"the name of a request must be a text of 1 to {MAX_NAME_CHARACTERS} characters "
                f"without lone surrogates, got {name!r:.200}"
            )
        seconds = positive_seconds("timeout", timeout_s)
        if isinstance(data, bytes | bytearray | memoryview):
            raise MessageError("a request carries JSON, not bytes: send bytes as a message")
        text, limit = encode_json(data, "data of the request"), self._state.config.max_message_size
        if len(text) > limit:
            raise MessageError(f"data of the request has {len(text)} bytes, max_message_size is {limit}")
        return Question(name, text.decode(), seconds)

    async def ask(self, client_id: str, question: Question) -> Any:
        """Return the first answer of a client.

        Raises:
            RequestTimeoutError: None came in time.
            RequestFailedError: It was an error, or 64 requests are open at each socket.
            RequestUnsupportedError: All sockets are plain.
            ConnectionNotFoundError: The client is not connected, or was disconnected before it answered.
            BackendUnavailableError: Redis is unavailable.
        """
        race, silent = Race(question), dict[NodeId, Resolve]()

        def take(node: NodeId, reply: Any) -> None:
            resolve = silent.pop(node, None)
            if resolve is not None:
                resolve(_outcome(reply))

        with self._state.replies.opened(is_answer, take) as ask:
            try:
                race.ask(self._state.shards.of_client(client_id))
                async with asyncio.timeout_at(race.deadline_s):
                    await self._ask_elsewhere(client_id, race, silent, ask)
                    race.answers.all_asked()
                    await race.done
            except TimeoutError:
                race.answers.reasons.add(Unanswered.TIMEOUT)
            except LOSSES:
                if race.answers.answer is None:
                    raise
            finally:
                race.withdraw()
                if silent:
                    self._state.tasks.spawn(
                        self._withdraw_elsewhere(list(silent), client_id, ask), "withdraw"
                    )
        return _value(race.answers, client_id, question)

    async def ask_connection(self, connection: Connection, question: Question) -> Any:
        """Return the answer of one connection. Raises as ``ask``."""
        race = Race(question)
        try:
            race.ask([connection])
            race.answers.all_asked()
            await race.done  # at the deadline at the latest, which the session watches
        finally:
            race.withdraw()
        return _value(race.answers, connection.client_id, question)

    async def _ask_elsewhere(
        self, client_id: str, race: Race, silent: dict[NodeId, Resolve], ask: int
    ) -> None:
        is_only_here = self._state.config.max_connections_per_client == 1
        if is_only_here and self._state.shards.has_client(client_id):
            return
        for node in await self._directory.nodes_elsewhere(client_id):
            if race.answers.is_over:
                return
            silent[node] = resolve = race.answers.expect()  # before the send: the answer may arrive during it
            is_heard = await self._inboxes.request(node, client_id, race.body(), ask)
            if not is_heard and silent.pop(node, None) is not None:
                resolve(Unanswered.ABSENT)

    async def _withdraw_elsewhere(self, nodes: Sequence[NodeId], client_id: str, ask: int) -> None:
        body = json.dumps({"do": "withdraw", "ask": ask})
        with suppress(*LOSSES):  # the deadline ends it there
            for node in nodes:
                await self._inboxes.request(node, client_id, body, 0)

    # For other nodes

    def ask_for(self, envelope: Envelope, question: Question) -> None:
        """Ask this node's sockets of a client for another node, and reply with the first answer."""
        race, (client_id,) = Race(question), envelope.targets
        self._of_others[envelope.sender, envelope.ask] = race
        race.ask(self._state.shards.of_client(client_id))
        race.answers.all_asked()
        self._state.tasks.spawn(self._reply(envelope, race), "reply")

    def withdraw_for(self, envelope: Envelope, ask: int) -> None:
        """Note that another node no longer waits for the answer to its question."""
        race = self._of_others.get((envelope.sender, ask))
        if race is not None:
            race.withdraw()

    async def _reply(self, envelope: Envelope, race: Race) -> None:
        try:
            await race.done  # at the deadline at the latest, which the sessions watch
        finally:
            self._of_others.pop((envelope.sender, envelope.ask), None)
            was_withdrawn = race.is_withdrawn
            race.withdraw()
        if not was_withdrawn:
            await self._reply_with(envelope, _packed(race.answers))

    async def _reply_with(self, envelope: Envelope, outcome: dict[str, Any]) -> None:
        try:
            await self._inboxes.reply(envelope.sender, envelope.ask, outcome)
        except MessageError as error:
            too_long = ErrorAnswer(0, "failed", f"the answer cannot be passed on: {error}")
            await self._inboxes.reply(envelope.sender, envelope.ask, _packed_answer(too_long))


def _packed(answers: FirstAnswer) -> dict[str, Any]:
    if answers.answer is None:
        return {"none": _main(answers.reasons).value}
    return _packed_answer(answers.answer)


def _packed_answer(answer: Answer | ErrorAnswer) -> dict[str, Any]:
    if isinstance(answer, ErrorAnswer):
        return {"x": [answer.code, answer.message, answer.is_temporary]}
    return {"d": answer.data}


def is_answer(reply: Any) -> bool:
    """Whether another node's reply to a question has the form of one."""
    match reply:
        case {"x": [str(), str(), bool()]} | {"d": _}:
            return len(reply) == 1
        case {"none": str(reason)}:
            return len(reply) == 1 and reason in _REASONS
        case _:
            return False


def _outcome(reply: dict[str, Any]) -> Answer | ErrorAnswer | Unanswered:
    if "x" in reply:
        return ErrorAnswer(0, *reply["x"])
    return Answer(0, reply["d"]) if "d" in reply else _REASONS[reply["none"]]


_BY_WEIGHT: Sequence[Unanswered] = (
    Unanswered.TIMEOUT, Unanswered.ENDED, Unanswered.LIMIT, Unanswered.PLAIN, Unanswered.CANCELLED,
    Unanswered.ABSENT,
)  # fmt: skip


def _main(reasons: set[Unanswered]) -> Unanswered:
    """Return the reason that matters most to a caller: first those after which the client may have acted."""
    return next(reason for reason in _BY_WEIGHT if reason in reasons)


def _value(answers: FirstAnswer, client_id: str, question: Question) -> Any:
    """Return the value of an answer, or raise the error of the outcome."""
    if isinstance(answers.answer, Answer):
        return answers.answer.data
    what = f"request {question.name!r} to client {client_id!r}"
    if isinstance(error := answers.answer, ErrorAnswer):
        raise RequestFailedError(
            f"{what} failed there with code {error.code!r}: {error.message!r}",
            code=error.code, message=error.message, retry=error.is_temporary,
        )  # fmt: skip
    match _main(answers.reasons):
        case Unanswered.TIMEOUT:
            raise RequestTimeoutError(f"{what}: no answer within {question.timeout_s:g} s")
        case Unanswered.ENDED:
            raise ConnectionNotFoundError(f"{what}: the client was disconnected before it answered")
        case Unanswered.LIMIT:
            text = "64 requests to each of its sockets are open"
            raise RequestFailedError(f"{what}: {text}", code="limit", message=text, retry=True)
        case Unanswered.PLAIN:
            text = "no socket of the client speaks stabilizer.v1"
            raise RequestUnsupportedError(f"{what}: {text}", code="unsupported", message=text)
        case _:
            raise ConnectionNotFoundError(f"{what}: the client is not connected")
