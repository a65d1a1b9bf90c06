"""Mailboxes in memory and over a hub: without ``start``, with faults on demand, and without Redis."""

import asyncio
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from fastapi_websocket_stabilizer import (
    BackendUnavailableError,
    ConfigurationError,
    Identity,
    Mailbox,
    Sent,
    WebSocketConfig,
    WebSocketConnectionManager,
)
from fastapi_websocket_stabilizer.registry.logs import name_of
from fastapi_websocket_stabilizer.testing import FakeWebSocket, MemoryCluster
from fastapi_websocket_stabilizer.wire.channels import box_of
from tests.unit.registry.sessions import connect

CONFIG = WebSocketConfig(mailbox=Mailbox(), log_level="CRITICAL")
V1 = "stabilizer.v1"


async def test_message_is_stored_once_and_sent_to_plain_sockets() -> None:
    manager, socket = WebSocketConnectionManager(CONFIG), FakeWebSocket()
    away = await manager.send_to_client("ann", "before", store=True)
    assert (away.stored, away.delivered, bool(away)) == (True, False, True)
    await manager.connect("ann", socket)
    sent = [await manager.send_to_client("ann", "hello", store=True, key="k") for _ in range(2)]
    assert [each.delivered for each in sent] == [True, False]
    assert sent[0].id == sent[1].id > away.id
    assert socket.received == ["hello"]
    with pytest.raises(ConfigurationError, match="a key needs a message that is stored"):
        await manager.send_to_client("ann", "x", key="k")  # type: ignore[call-overload]  # that is the test
    assert await manager.send_to_client("ann", "volatile") is True
    assert socket.received == ["hello", "volatile"]


def test_page_gets_what_waited_and_continues_behind_its_mark_although_nothing_was_started() -> None:
    manager, app = WebSocketConnectionManager(CONFIG), FastAPI()

    @manager.websocket(app, "/ws")
    async def identify() -> Identity:
        return Identity("ann")

    def store(text: str) -> Sent:
        return asyncio.run(manager.send_to_client("ann", text, store=True))

    def visit(*sent: dict[str, Any], frames: int) -> list[Any]:
        with TestClient(app).websocket_connect("/ws", subprotocols=[V1]) as socket:
            for frame in sent:
                socket.send_json(frame)
            return [socket.receive_json() for _ in range(frames)]

    first, second = store("1"), store("2")
    hi, *missed = visit(frames=4)
    assert hi["hi"]["box"] == 0
    assert missed == [[first.id, 0, "1"], [second.id, 0, "2"], {"live": 2}]
    hi, *_ = visit({"k": first.id}, {"ping": 1}, frames=5)
    assert hi["hi"]["box"] == 0
    hi, *missed = visit(frames=3)
    assert hi["hi"]["box"] == first.id
    assert missed == [[second.id, 0, "2"], {"live": 1}]


@pytest.mark.parametrize("never", [[], [2**53 - 1], [2**53 - 1 - number for number in range(7)]])
async def test_highest_mark_of_a_burst_counts_that_the_mailbox_has_reached(never: list[int]) -> None:
    async with MemoryCluster(1, CONFIG) as cluster:
        (manager,) = cluster.managers
        client = await connect(manager, "s1")
        stored = [(await manager.send_to_client("ann", str(n), store=True)).id for n in range(20)]
        for entry in (0, stored[0], stored[2], *stored[4:], *never, stored[3]):
            manager.registry.mailboxes.handled(client.connection, entry)
        await cluster.quiet()
        assert manager.link.hub.logged.logs[name_of(box_of("ann"))].mark == stored[19]
        assert manager.statistics().counters["mailbox_marks_refused"] == len(never)


async def test_what_was_stored_while_a_node_was_cut_off_reaches_its_plain_sockets() -> None:
    async with MemoryCluster(2, CONFIG) as cluster:
        here, there = cluster.managers
        socket = FakeWebSocket()
        await here.connect("ann", socket)
        assert (await there.send_to_client("ann", "1", store=True)).delivered
        await cluster.quiet()
        cluster.cut(here)
        with pytest.raises(BackendUnavailableError):
            await here.send_to_client("ann", "refused", store=True)
        await there.send_to_client("ann", "2", store=True)
        assert socket.received == ["1"]
        await cluster.mend(here)
        await cluster.quiet()
        assert socket.received == ["1", "2"]
