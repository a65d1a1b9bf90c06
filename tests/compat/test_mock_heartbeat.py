"""The heartbeat of release 1.1 with mock sockets: pings, pongs, timeouts."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from fastapi_websocket_stabilizer import WebSocketConfig, WebSocketConnectionManager
from tests.support.waiting import eventually

from .support import AnsweringSocket, BrokenSocket, FakeSocket, register

Running = Callable[..., Any]


@pytest.fixture
def running() -> Running:
    @asynccontextmanager
    async def run(interval: float = 0.02, timeout: float = 0.02) -> AsyncIterator[WebSocketConnectionManager]:
        config = WebSocketConfig(heartbeat_interval=interval, heartbeat_timeout=timeout)
        manager = WebSocketConnectionManager(config)
        await manager.start()
        try:
            yield manager
        finally:
            await manager.graceful_shutdown()

    return run


async def test_ping_is_a_json_dict_with_a_timestamp(running: Running) -> None:
    alice = FakeSocket()
    async with running(timeout=30.0) as manager:
        await register(manager, "alice", alice)
        await eventually(lambda: len(alice.jsons) > 0)
    ping = alice.jsons[0]
    assert (ping["type"], isinstance(ping["timestamp"], float)) == ("ping", True)
    assert (set(ping), alice.texts, alice.binaries) == ({"type", "timestamp"}, [], [])


async def test_silent_client_is_disconnected(running: Running) -> None:
    alice = FakeSocket()
    async with running() as manager:
        await register(manager, "alice", alice)
        await eventually(lambda: manager.get_connection_count() == 0 and len(alice.closes) == 1)
    assert (len(alice.jsons) >= 1, len(alice.closes)) == (True, 1)


async def test_answering_client_stays_while_a_silent_one_goes(running: Running) -> None:
    silent = FakeSocket()
    async with running(interval=0.04, timeout=0.04) as manager:
        answering = AnsweringSocket(client_id="alice", manager=manager)
        await register(manager, "alice", answering)
        await register(manager, "bob", silent)
        await eventually(lambda: len(silent.closes) == 1 and len(answering.jsons) >= 4)
        assert (manager.get_active_connections(), answering.closes) == (["alice"], [])


async def test_client_whose_ping_fails_is_disconnected(running: Running) -> None:
    alice = BrokenSocket()
    async with running(timeout=30.0) as manager:
        await register(manager, "alice", alice)
        await eventually(lambda: manager.get_connection_count() == 0 and len(alice.closes) == 1)


async def test_nobody_is_pinged_before_start() -> None:
    """Another manager's beat is the clock."""
    config = WebSocketConfig(heartbeat_interval=0.02, heartbeat_timeout=30.0)
    idle, busy = WebSocketConnectionManager(config), WebSocketConnectionManager(config)
    unpinged, pinged = FakeSocket(), FakeSocket()
    await register(idle, "alice", unpinged)
    await busy.start()
    await register(busy, "bob", pinged)
    await eventually(lambda: len(pinged.jsons) > 0)
    await busy.graceful_shutdown()
    assert unpinged.jsons == []


async def test_shutdown_ends_the_heartbeat(running: Running) -> None:
    before = asyncio.all_tasks()
    async with running(timeout=30.0) as manager:
        await register(manager, "alice", FakeSocket())
        await eventually(lambda: asyncio.all_tasks() != before)
    await eventually(lambda: asyncio.all_tasks() <= before)


async def test_pong_of_an_unknown_client_is_ignored() -> None:
    manager = WebSocketConnectionManager()
    await manager.handle_pong("nobody")
    assert manager.get_connection_count() == 0
