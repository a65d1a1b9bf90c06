"""``workers.WorkerStore`` on every backend."""

import pytest

from fastapi_websocket_stabilizer.backends import memory_workers
from fastapi_websocket_stabilizer.backends.ports import Backend
from fastapi_websocket_stabilizer.backends.redis import workers as redis_workers
from fastapi_websocket_stabilizer.names import NodeId
from tests.contract.support import AWKWARD_NAMES
from tests.support.waiting import eventually

A, B, C = NodeId("a"), NodeId("b"), NodeId("c")
LONG_MS, SHORT_MS = 60_000, 100


async def lease(backend: Backend, *nodes: NodeId, ttl_ms: int = LONG_MS) -> None:
    for node in nodes:
        await backend.nodes.register(node, b"{}", ttl_ms)


async def test_each_live_node_of_a_group_has_a_number_of_its_own(backend: Backend) -> None:
    await lease(backend, A, B)
    assert await backend.workers.take("host:1", A) == (0, b"")
    assert await backend.workers.take("host:1", B) == (1, b"")
    assert await backend.workers.take("host:2", C) == (0, b"")


async def test_node_that_asks_again_keeps_its_number(backend: Backend) -> None:
    await lease(backend, A)
    await backend.workers.take("host:1", A)
    await backend.workers.publish("host:1", 0, A, b'{"x": 1}')
    assert await backend.workers.take("host:1", A) == (0, b'{"x": 1}')


async def test_number_of_a_dead_node_goes_to_its_successor_with_what_it_has_published(
    backend: Backend,
) -> None:
    await lease(backend, A, ttl_ms=SHORT_MS)
    await lease(backend, B)
    await backend.workers.take("host:1", A)
    await backend.workers.publish("host:1", 0, A, b'{"total": 12}')

    async def is_dead() -> bool:
        return A not in await backend.nodes.live()

    await eventually(is_dead)
    assert await backend.workers.take("host:1", B) == (0, b'{"total": 12}')
    assert await backend.workers.read("host:1") == {0: (B, b'{"total": 12}')}


async def test_number_of_a_process_that_has_ended_is_free_before_its_lease_lapses(backend: Backend) -> None:
    await lease(backend, A, B, C)
    await backend.workers.take("host:1", A)
    await backend.workers.take("host:1", B)
    await backend.workers.publish("host:1", 1, B, b'{"total": 12}')
    assert await backend.workers.take("host:1", C, [B, NodeId("unknown")]) == (1, b'{"total": 12}')


async def test_number_that_is_given_back_leaves_nothing(backend: Backend) -> None:
    await lease(backend, A, B)
    await backend.workers.take("host:1", A)
    await backend.workers.publish("host:1", 0, A, b'{"total": 12}')
    await backend.workers.give_back("host:1", 0)
    assert await backend.workers.read("host:1") == {}
    assert await backend.workers.take("host:1", B) == (0, b"")


@pytest.mark.parametrize("group", AWKWARD_NAMES)
async def test_any_group_is_read_as_it_was_published(backend: Backend, group: str) -> None:
    await lease(backend, A, B)
    await backend.workers.take(group, A)
    await backend.workers.take(group, B)
    await backend.workers.publish(group, 0, A, '{"name": "Süd 1"}'.encode())
    assert await backend.workers.read(group) == {0: (A, '{"name": "Süd 1"}'.encode()), 1: (B, b"")}
    assert await backend.workers.read(group + "x") == {}


async def test_there_is_a_largest_number_of_workers(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (memory_workers, redis_workers):
        monkeypatch.setattr(module, "MAX_WORKERS", 2)
    await lease(backend, A, B, C)
    numbers = [(await backend.workers.take("host:1", node))[0] for node in (A, B, C)]
    assert numbers == [0, 1, -1]
