"""Direct sends of one tick: what shares a call, in which order it leaves, and who learns what of it."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

import pytest

from fastapi_websocket_stabilizer.backends.memory import MemoryBackend, MemoryHub
from fastapi_websocket_stabilizer.backends.ports import Claim
from fastapi_websocket_stabilizer.config import WebSocketConfig
from fastapi_websocket_stabilizer.exceptions import BackendUnavailableError, MessageError
from fastapi_websocket_stabilizer.names import ConnectionId, NodeId
from fastapi_websocket_stabilizer.registry.direct import BYTES_PER_CALL, CLIENTS_PER_CALL, Direct
from fastapi_websocket_stabilizer.registry.state import NodeState
from fastapi_websocket_stabilizer.wire.envelopes import MAX_PART_BYTES, Envelope
from fastapi_websocket_stabilizer.wire.messages import Encoded, Form, encode
from tests.unit.fakes import text, turns

OTHER = NodeId("other")


class Outside(MemoryBackend):
    """Memory that keeps what it is given, and answers only when it is told to."""

    def __init__(self, state: NodeState) -> None:
        hub = MemoryHub()
        super().__init__(hub, state.node_id, lambda *_: None, state.counters)
        MemoryBackend(hub, OTHER, lambda *_: None, state.counters)
        self.sent: list[Envelope] = []
        self.replies: list[asyncio.Future[Any]] = []
        self.answers: list[asyncio.Future[Any]] = []

    def publish_clients(
        self, envelope: Envelope, top: int, but: Sequence[NodeId] = ()
    ) -> asyncio.Future[Any]:
        self.sent.append(envelope)
        self.answers.append(super().publish_clients(envelope, top, but))
        self.replies.append(asyncio.get_running_loop().create_future())
        return self.replies[-1]

    def reply(self, number: int = -1) -> None:
        self.replies[number].set_result(self.answers[number].result())

    @property
    def bodies(self) -> list[list[str | bytes]]:
        return [[part.body for part in envelope.parts] for envelope in self.sent]


@pytest.fixture
def state() -> NodeState:
    return NodeState(
        WebSocketConfig(redis_timeout_s=0.01), logging.getLogger("test"), Outside, is_distributed=False
    )


@pytest.fixture
async def outside(state: NodeState) -> Outside:
    assert isinstance(state.backend, Outside)
    outside = state.backend
    await outside.claim(Claim("alice", ConnectionId(f"{OTHER}.1"), 1, b""))
    await outside.claim(Claim("bob", ConnectionId(f"{state.node_id}.1"), 1, b""))
    return outside


@pytest.fixture
def direct(state: NodeState, outside: Outside) -> Direct:
    return Direct(state, outside)


def say(direct: Direct, body: str, *clients: str) -> asyncio.Future[Any]:
    return direct.send(clients or ("alice",), text(body), 0)


async def test_messages_of_one_tick_share_an_envelope_and_those_of_the_next_do_not(
    direct: Direct, outside: Outside, state: NodeState
) -> None:
    say(direct, "1")
    say(direct, "2", "bob")
    assert outside.sent == []
    await turns(1)
    say(direct, "3")
    await turns(1)
    assert outside.bodies == [["1", "2"], ["3"]]
    assert state.counters.direct_batches == 2


async def test_what_was_collected_leaves_when_something_is_to_be_queued_behind_it(
    direct: Direct, outside: Outside
) -> None:
    say(direct, "1")
    direct.flush()
    assert outside.bodies == [["1"]]
    say(direct, "2")
    await turns(2)
    assert outside.bodies == [["1"], ["2"]]


async def test_numbers_grow_in_the_order_of_leaving(
    direct: Direct, outside: Outside, state: NodeState
) -> None:
    say(direct, "1")
    direct.flush()
    number = state.outgoing.evict(ConnectionId("x.1")).sequence
    say(direct, "2")
    direct.flush()
    assert outside.sent[0].sequence < number < outside.sent[1].sequence


async def test_call_has_a_bounded_number_of_clients(direct: Direct, outside: Outside) -> None:
    for number in range(CLIENTS_PER_CALL):
        say(direct, str(number))
    say(direct, "one more")
    say(direct, "many", *["alice"] * CLIENTS_PER_CALL)
    await turns(2)
    assert [sum(len(part.targets) for part in envelope.parts) for envelope in outside.sent] == [500, 1, 500]
    assert [body for bodies in outside.bodies for body in bodies] == [
        *map(str, range(500)),
        "one more",
        "many",
    ]


async def test_call_has_bounded_bytes_and_a_longer_message_one_to_itself(
    direct: Direct, outside: Outside
) -> None:
    half, longer = "x" * (BYTES_PER_CALL // 2), "x" * (BYTES_PER_CALL + 1)
    for body in ("a", half, "b", half, longer, "c"):
        direct.send(["alice"], encode(body, 2 * BYTES_PER_CALL), 0)
    await turns(2)
    assert outside.bodies == [["a", half, "b"], [half], [longer], ["c"]]


async def test_each_caller_learns_of_his_own_clients(
    direct: Direct, outside: Outside, state: NodeState
) -> None:
    answers = [say(direct, "1"), say(direct, "2", "nobody", "bob", "alice"), say(direct, "3", "nobody")]
    await turns(2)
    outside.reply()
    assert await asyncio.gather(*answers) == [[[OTHER]], [[], [], [OTHER]], [[]]]


async def test_message_too_large_for_an_envelope_is_its_callers_fault_alone(
    direct: Direct, outside: Outside
) -> None:
    say(direct, "1")
    with pytest.raises(MessageError, match="the limit is"):
        direct.send(["alice"], Encoded(Form.TEXT, "", MAX_PART_BYTES), 0)
    say(direct, "2")
    await turns(2)
    assert outside.bodies == [["1", "2"]]


async def test_cancelled_caller_takes_nothing_back_and_nobody_along(direct: Direct, outside: Outside) -> None:
    first, cancelled, last = say(direct, "1"), say(direct, "2"), say(direct, "3")
    cancelled.cancel()
    await turns(2)
    assert outside.bodies == [["1", "2", "3"]]
    outside.reply()
    assert (await first, await last) == ([[OTHER]], [[OTHER]])


async def test_error_reaches_every_caller_and_warns_of_none_that_is_gone(
    direct: Direct, outside: Outside, state: NodeState
) -> None:
    answers = [say(direct, "1"), say(direct, "2"), say(direct, "3")]
    await turns(2)
    answers[0].cancel()
    outside.replies[0].set_exception(BackendUnavailableError("away", outcome_unknown=True))
    await turns(2)
    with pytest.raises(BackendUnavailableError) as caught:
        await answers[1]
    assert caught.value.outcome_unknown
