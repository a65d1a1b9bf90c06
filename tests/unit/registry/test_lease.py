"""The lease of a node, and what it knows of the others: time moves by hand."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from fastapi_websocket_stabilizer.backends.ports import Renewal
from fastapi_websocket_stabilizer.config import WebSocketConfig
from fastapi_websocket_stabilizer.exceptions import BackendUnavailableError
from fastapi_websocket_stabilizer.names import NodeId
from fastapi_websocket_stabilizer.registry import lease
from fastapi_websocket_stabilizer.registry.lease import RenewedLease, SoloLease
from tests.unit.fakes import Clock, turns

ME, PEER, GHOST = NodeId("me"), NodeId("peer"), NodeId("ghost")
LEASE_S, BEAT_S = 10.0, 3.0
CONFIG = WebSocketConfig(lease_ttl_s=LEASE_S, renew_interval_s=BEAT_S)


class Nodes:
    """The part of a NodeStore that a lease needs; answers what the test says, when the test says so."""

    def __init__(self) -> None:
        self.live = {ME: 10_000, PEER: 10_000}
        self.held, self.error, self.epoch = True, False, "epoch-1"
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.calls: list[tuple[str, NodeId, bytes, int]] = []

    async def register(self, node: NodeId, info: bytes, ttl_ms: int) -> str:
        self.calls.append(("register", node, info, ttl_ms))
        return self.epoch

    async def renew(self, node: NodeId, info: bytes, ttl_ms: int) -> Renewal:
        self.calls.append(("renew", node, info, ttl_ms))
        await self.may_answer.wait()
        if self.error:
            raise BackendUnavailableError("no answer")
        return Renewal(self.held, dict(self.live), (GHOST,), self.epoch)


class World:
    def __init__(self) -> None:
        self.clock, self.nodes, self.server = Clock(), Nodes(), "run-1"
        self.losses = self.answers = self.refusals = self.moves = 0
        self.has_lapsed = False
        self.beats = list[Renewal]()
        self.reclaimed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        nodes: Any = self.nodes
        self.lease = RenewedLease(nodes, CONFIG, lambda: b"info", lambda: self.server)

    def store_lost(self, error: Exception) -> None:
        self.losses += 1

    def store_answered(self) -> None:
        self.answers += 1

    async def lease_gone(self, *, has_lapsed: bool) -> "asyncio.Future[None]":
        self.refusals += 1
        self.has_lapsed = has_lapsed
        return self.reclaimed

    def store_changed(self) -> None:
        self.moves += 1

    def renewed(self, renewal: Renewal) -> None:
        self.beats.append(renewal)

    async def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)
        await turns()

    @property
    def renewals(self) -> int:
        return sum(call[0] == "renew" for call in self.nodes.calls)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    """Give a node that is registered and beats."""
    world = World()
    await world.lease.register(ME)
    beating = asyncio.create_task(world.lease.run(world))
    await turns()
    yield world
    beating.cancel()
    await asyncio.wait([beating])


# Beats


async def test_lease_is_taken_for_its_lifetime_in_ms(world: World) -> None:
    assert world.nodes.calls == [("register", ME, b"info", 10_000)]


async def test_lease_is_renewed_every_beat(world: World) -> None:
    for _ in range(3):
        await world.pass_time(BEAT_S)
    assert world.nodes.calls[1:] == [("renew", ME, b"info", 10_000)] * 3
    assert [beat.lapsed for beat in world.beats] == [(GHOST,)] * 3


async def test_refused_renewal_is_told_before_the_beat(world: World) -> None:
    world.nodes.held = False
    await world.pass_time(BEAT_S)
    assert (world.refusals, len(world.beats)) == (1, 1)


async def test_beat_without_an_answer_is_told_and_the_next_one_is_made(world: World) -> None:
    world.nodes.error = True
    await world.pass_time(BEAT_S)
    world.nodes.error = False
    await world.pass_time(BEAT_S)
    assert (world.losses, world.answers, len(world.beats)) == (1, 1, 1)


# Who lives


async def test_live_nodes_are_known_for_as_long_as_their_lease_remains(world: World) -> None:
    world.nodes.live = {ME: 10_000, PEER: 4_000}
    await world.pass_time(BEAT_S)
    assert world.lease.known_live() == {ME, PEER}
    world.nodes.error = True
    await world.pass_time(4.1)
    assert world.lease.known_live() == {ME}


async def test_known_node_costs_no_question(world: World) -> None:
    await world.pass_time(BEAT_S)
    before = world.renewals
    assert await world.lease.live_among([ME, PEER, PEER]) == {ME, PEER}
    assert await world.lease.live_among([]) == set()
    assert world.renewals == before


async def test_unknown_node_is_looked_up_before_it_is_called_dead(world: World) -> None:
    await world.pass_time(BEAT_S)
    world.nodes.live[NodeId("new")] = 10_000
    assert await world.lease.live_among([NodeId("new"), GHOST]) == {"new"}


async def test_dead_node_is_looked_up_once(world: World) -> None:
    await world.pass_time(BEAT_S)
    await world.lease.live_among([GHOST])
    before = world.renewals
    assert await world.lease.live_among([GHOST]) == set()
    assert world.renewals == before


async def test_only_so_many_dead_nodes_are_remembered(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "REMEMBERED_DEAD", 2)
    for number in range(3):
        await world.lease.live_among([NodeId(f"ghost-{number}")])
    before = world.renewals
    await world.lease.live_among([NodeId("ghost-2"), NodeId("ghost-1")])
    assert world.renewals == before
    await world.lease.live_among([NodeId("ghost-0")])
    assert world.renewals == before + 1


async def test_knowledge_older_than_two_beats_is_not_used(world: World) -> None:
    await world.pass_time(BEAT_S)
    world.nodes.may_answer.clear()  # the beats from here on get no answer
    await world.pass_time(BEAT_S)
    await world.pass_time(BEAT_S + 0.1)
    asked = asyncio.create_task(world.lease.live_among([PEER]))
    await turns()
    assert not asked.done()
    del world.nodes.live[PEER]
    world.nodes.may_answer.set()
    assert await asked == set()


async def test_all_live_is_asked_for_and_sorted(world: World) -> None:
    world.nodes.live = {PEER: 10_000, ME: 10_000, GHOST: 0}
    assert await world.lease.all_live() == [ME, PEER]
    assert world.renewals == 1


async def test_lookup_without_an_answer_is_an_error(world: World) -> None:
    world.nodes.error = True
    with pytest.raises(BackendUnavailableError):
        await world.lease.live_among([GHOST])


# After a freeze


async def test_node_that_renews_in_time_serves_at_once(world: World) -> None:
    for _ in range(5):
        await world.pass_time(BEAT_S)
        assert world.lease.gate.obstacle() is None


async def test_frozen_node_serves_nothing_until_it_has_asked(world: World) -> None:
    world.clock.advance(LEASE_S + 1)
    verified = world.lease.gate.obstacle()
    assert verified is not None
    assert not verified.done()
    await asyncio.wait_for(asyncio.shield(verified), 5)
    assert (world.renewals, world.lease.gate.obstacle()) == (1, None)


async def test_frozen_node_waits_for_the_answer_and_not_for_the_question(world: World) -> None:
    world.nodes.may_answer.clear()
    await world.pass_time(LEASE_S + 1)  # the beat came first: the question is on its way
    assert world.renewals == 1
    verified = world.lease.gate.obstacle()
    assert verified is not None
    world.nodes.may_answer.set()
    await asyncio.wait_for(asyncio.shield(verified), 5)


async def test_lookup_that_finds_the_lease_gone_verifies_nothing(world: World) -> None:
    world.nodes.held = False
    world.clock.advance(LEASE_S + 1)
    await world.lease.live_among([GHOST])  # before the beat has run
    assert world.refusals or world.lease.gate.obstacle() is not None


async def test_frozen_node_that_gets_no_answer_serves_on(world: World) -> None:
    world.nodes.error = True
    world.clock.advance(LEASE_S + 1)
    verified = world.lease.gate.obstacle()
    assert verified is not None
    await asyncio.wait_for(asyncio.shield(verified), 5)
    assert world.lease.gate.obstacle() is None


async def test_all_that_wait_after_a_freeze_wait_for_the_same_beat(world: World) -> None:
    world.clock.advance(LEASE_S + 1)
    first, second = world.lease.gate.obstacle(), world.lease.gate.obstacle()
    assert first is not None
    assert first is second
    await asyncio.wait_for(asyncio.shield(first), 5)
    assert world.renewals == 1


# Sweeping


async def beat_for(world: World, seconds: float) -> None:
    for _ in range(int(seconds)):
        await world.pass_time(1.0)


async def test_node_may_sweep_after_one_whole_lease(world: World) -> None:
    await beat_for(world, LEASE_S - 1)
    assert not world.lease.may_sweep()
    await beat_for(world, 2)
    assert world.lease.may_sweep()


async def test_beat_without_an_answer_begins_the_wait_anew(world: World) -> None:
    await beat_for(world, LEASE_S + 1)
    world.nodes.error = True
    await beat_for(world, BEAT_S)
    world.nodes.error = False
    await beat_for(world, LEASE_S - BEAT_S)
    assert not world.lease.may_sweep()
    await beat_for(world, BEAT_S + 1)
    assert world.lease.may_sweep()


async def test_restarted_or_promoted_server_begins_the_wait_anew(world: World) -> None:
    await beat_for(world, LEASE_S + 1)
    world.server = "run-2"
    await beat_for(world, BEAT_S)
    assert not world.lease.may_sweep()
    await beat_for(world, LEASE_S + 1)
    assert world.lease.may_sweep()


async def test_another_server_or_other_content_is_told_once(world: World) -> None:
    await world.pass_time(BEAT_S)
    await world.pass_time(BEAT_S)
    assert world.moves == 0
    world.server = "run-2"
    await world.pass_time(BEAT_S)
    await world.pass_time(BEAT_S)
    assert world.moves == 1
    world.nodes.epoch = "epoch-2"
    await world.pass_time(BEAT_S)
    await world.pass_time(BEAT_S)
    assert world.moves == 2
    assert not world.lease.may_sweep()


async def test_server_that_forgot_the_lease_is_no_move(world: World) -> None:
    await world.pass_time(BEAT_S)
    world.server, world.nodes.epoch, world.nodes.held = "run-2", "epoch-2", False
    await world.pass_time(BEAT_S)
    assert (world.refusals, world.moves) == (1, 0)


async def test_new_node_id_begins_the_wait_anew(world: World) -> None:
    await beat_for(world, LEASE_S + 1)
    await world.lease.register(NodeId("me-again"))
    assert not world.lease.may_sweep()
    await world.pass_time(BEAT_S)
    assert world.nodes.calls[-1][1] == "me-again"


async def test_frozen_node_serves_nothing_until_what_it_held_is_claimed_again(world: World) -> None:
    world.nodes.held = False
    await world.pass_time(LEASE_S + 1)
    assert world.lease.gate.obstacle() is world.reclaimed
    world.reclaimed.set_result(None)
    assert world.lease.gate.obstacle() is None


async def test_node_that_was_awake_when_its_lease_was_forgotten_serves_on(world: World) -> None:
    world.nodes.held = False
    await world.pass_time(BEAT_S)
    assert (world.refusals, world.lease.gate.obstacle()) == (1, None)


# Waiting for a beat


async def test_who_waits_for_a_beat_goes_on_in_the_order_of_coming(world: World) -> None:
    world.nodes.may_answer.clear()
    world.clock.advance(LEASE_S)
    went_on: list[int] = []

    async def wait(number: int) -> None:
        if world.lease.gate.must_wait:
            await world.lease.gate.wait()
        went_on.append(number)

    waiting = [asyncio.create_task(wait(number)) for number in range(3)]
    await turns()
    waiting[1].cancel()
    world.nodes.may_answer.set()
    await asyncio.wait([waiting[0]])
    late = asyncio.create_task(wait(3))  # the beat is over, and some still wait
    await asyncio.wait([*waiting, late])
    assert went_on == [0, 2, 3]
    assert not world.lease.gate.must_wait


async def test_nobody_waits_for_a_beat_that_will_not_come() -> None:
    world = World()
    await world.lease.register(ME)
    beating = asyncio.create_task(world.lease.run(world))
    await turns()
    world.nodes.may_answer.clear()
    world.clock.advance(LEASE_S)
    waiting = asyncio.create_task(world.lease.gate.wait())
    await turns()
    assert not waiting.done()
    beating.cancel()
    await asyncio.wait([beating, waiting], timeout=1)
    assert waiting.done()
    assert not world.lease.gate.must_wait


# Alone


async def test_lease_without_a_store_is_always_fresh_and_every_node_lives() -> None:
    solo = SoloLease(lambda: ME)
    await solo.register(ME)
    assert not solo.gate.must_wait
    assert await solo.live_among([ME, GHOST]) == {ME, GHOST}
    assert await solo.all_live() == [ME]
    assert solo.known_live() == {ME}
    assert not solo.may_sweep()
