"""Memory limits of a node: who is refused and who gives way."""

import logging
from typing import Any

import pytest

from fastapi_websocket_stabilizer.backends.memory import MemoryBackend, MemoryHub
from fastapi_websocket_stabilizer.config import WebSocketConfig
from fastapi_websocket_stabilizer.exceptions import MemoryLimitExceededError
from fastapi_websocket_stabilizer.local.connection import Connection
from fastapi_websocket_stabilizer.models import CloseCause
from fastapi_websocket_stabilizer.registry.budget import Budget
from fastapi_websocket_stabilizer.registry.eviction import measure
from fastapi_websocket_stabilizer.registry.registration import Registration, registration_of
from fastapi_websocket_stabilizer.registry.state import NodeState
from tests.unit.fakes import connect


def memory_of(state: NodeState) -> MemoryBackend:
    return MemoryBackend(MemoryHub(), state.node_id, lambda *_: None, state.counters)


class World:
    """A node of which only the tables and the budget are real."""

    def __init__(self, **settings: Any) -> None:
        config, log = WebSocketConfig(**settings), logging.getLogger("budget")
        self.state = NodeState(config, log, memory_of, is_distributed=False)
        self.budget = Budget(self.state, self.end)
        self.ended: list[tuple[str, CloseCause, int]] = []

    async def end(self, connection: Connection, cause: CloseCause, code: int, reason: str) -> None:
        connection.end(cause)
        self.state.shards.remove(connection)
        self.budget.remove(connection)
        self.ended.append((connection.client_id, cause, code))

    async def add(self, client_id: str, opened_at_s: float = 0.0, **metadata: Any) -> Connection:
        size = await self.budget.admit(client_id, metadata)
        connection = connect(client_id)
        connection.registration = Registration(size)
        connection.metadata = metadata
        connection.opened_at_s = connection.used_at_s = opened_at_s
        self.state.shards.add(connection)
        self.budget.add(size)
        return connection

    @property
    def evicted(self) -> list[str]:
        return [client_id for client_id, _, _ in self.ended]

    def measured(self) -> int:
        return sum(measure(c.client_id, c.metadata, c.user_data) for c in self.state.shards)


ONE = measure("a", {}, {})
"""Bytes of a connection without data."""


async def test_sum_follows_what_comes_changes_and_goes() -> None:
    world = World()
    alice, bob = await world.add("alice", name="Alice"), await world.add("bob")
    await world.budget.set_user_data(alice, "score", 10**30)
    assert world.budget.total_bytes == world.measured()
    await world.end(bob, CloseCause.RELEASED, 1000, "")
    assert world.budget.total_bytes == world.measured() == registration_of(alice).size


async def test_removing_twice_counts_once() -> None:
    world = World()
    alice = await world.add("alice")
    world.budget.remove(alice)
    world.budget.remove(alice)
    assert world.budget.total_bytes == 0


async def test_connection_over_its_own_limit_is_refused() -> None:
    world = World(max_memory_per_connection=ONE)
    await world.add("a")
    with pytest.raises(
        MemoryLimitExceededError, match=f"'b' would take .* max_memory_per_connection is {ONE}$"
    ):
        await world.add("b", name="x" * 100)


async def test_user_data_over_the_limit_is_refused_and_changes_nothing() -> None:
    world = World(max_memory_per_connection=ONE + 1000)
    alice = await world.add("a")
    await world.budget.set_user_data(alice, "key", "old")
    before = world.budget.total_bytes
    with pytest.raises(MemoryLimitExceededError):
        await world.budget.set_user_data(alice, "key", "x" * 1000)
    assert (alice.user_data, world.budget.total_bytes) == ({"key": "old"}, before)


async def test_replaced_user_data_counts_once() -> None:
    world = World()
    alice = await world.add("a")
    for _ in range(3):
        await world.budget.set_user_data(alice, "key", "x" * 1000)
    assert world.budget.total_bytes == world.measured()


@pytest.mark.parametrize(
    ("policy", "order"), [("lru", ["b", "c"]), ("fifo", ["a", "b"]), ("oldest", ["a", "b"])]
)
async def test_policy_says_who_gives_way(policy: str, order: list[str]) -> None:
    world = World(max_total_memory=3 * ONE, memory_eviction_policy=policy)
    connections = {client_id: await world.add(client_id, float(age)) for age, client_id in enumerate("abc")}
    connections["a"].used_at_s = 9.0
    await world.add("d", 10.0)
    await world.add("e", 11.0)
    assert world.evicted == order
    assert world.state.counters.connections_evicted_for_memory == 2
    assert world.ended[0][1:] == (CloseCause.EVICTED, 1013)


async def test_nobody_gives_way_without_need() -> None:
    world = World(max_total_memory=3 * ONE)
    for client_id in "abc":
        await world.add(client_id)
    assert world.evicted == []


async def test_connection_larger_than_the_total_is_refused_and_evicts_nobody() -> None:
    world = World(max_total_memory=2 * ONE)
    await world.add("a")
    with pytest.raises(MemoryLimitExceededError, match=f"over max_total_memory={2 * ONE} by themselves"):
        await world.add("b", name="x" * 10_000)
    assert world.evicted == []


async def test_user_data_evicts_others_and_never_its_own_connection() -> None:
    world = World(max_total_memory=5000, memory_eviction_policy="fifo")
    alice = await world.add("a", 0.0)
    await world.add("b", 1.0, name="x" * 1500)
    await world.add("c", 2.0, name="x" * 1500)
    await world.budget.set_user_data(alice, "key", "x" * 1500)
    assert (world.evicted, alice.ended) == (["b"], None)


async def test_connection_that_stored_user_data_is_still_the_oldest() -> None:
    world = World(max_total_memory=6000, memory_eviction_policy="fifo")
    connections = [
        await world.add(client_id, float(age), name="x" * 1000) for age, client_id in enumerate("abcd")
    ]
    await world.budget.set_user_data(connections[0], "key", "x" * 500)
    await world.add("e", 10.0, name="x" * 1000)
    assert world.evicted == ["b", "a"]


async def test_user_data_that_does_not_fit_beside_its_own_connection_is_refused() -> None:
    world = World(max_total_memory=2 * ONE)
    alice = await world.add("a")
    with pytest.raises(MemoryLimitExceededError, match="nothing can be evicted"):
        await world.budget.set_user_data(alice, "key", "x" * (ONE - 100))
    assert (alice.user_data, alice.ended) == ({}, None)


async def test_data_changed_in_place_is_seen_by_the_next_measurement() -> None:
    world = World(max_total_memory=3 * ONE, memory_eviction_policy="fifo")
    alice = await world.add("a", 0.0)
    await world.add("b", 1.0)
    alice.metadata = {"x": "x" * 2 * ONE}
    await world.budget.measure_all()
    assert (world.evicted, world.budget.total_bytes) == (["a"], world.measured())


async def test_connection_that_ended_meanwhile_is_not_counted_again() -> None:
    world = World()
    alice = await world.add("a")
    await world.end(alice, CloseCause.RELEASED, 1000, "")
    await world.budget.set_user_data(alice, "key", "x")
    assert world.budget.total_bytes == 0
