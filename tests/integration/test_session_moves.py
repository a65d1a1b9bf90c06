"""Clients of ``stabilizer.v1`` that move between nodes: two managers of one registry, and real sockets."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from fastapi import FastAPI, Query
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from fastapi_websocket_stabilizer import Connection, Identity, PresenceEvent, WebSocketConfig
from fastapi_websocket_stabilizer.registry import successions
from fastapi_websocket_stabilizer.testing import MemoryCluster, MemoryManager
from tests.integration.test_sessions import ANSWER_S, V1, close_of, coded, heard, say
from tests.support.waiting import eventually
from tests.wire.inprocess import Served, serving

CLOSE_TIMEOUT_S = 1.0
OVER_S = 1.0


@dataclass
class Node:
    """One manager, and the server in front of it."""

    manager: MemoryManager
    served: Served
    handled: list[str | bytes] = field(default_factory=list)
    events: list[tuple[str, str]] = field(default_factory=list)

    @asynccontextmanager
    async def opened(
        self, client_id: str = "ann", after: str = "", rooms: str = ""
    ) -> AsyncIterator[tuple[ClientConnection, dict[str, Any]]]:
        """Connect, perhaps after the session ``after``, and return the client with the content of its first frame."""
        items = [V1]
        if after:
            cursor = json.dumps({"s": after, "t": 1, "at": {}})
            items.append(f"{V1}.resume.{coded(cursor)}")
        address = f"ws://127.0.0.1:{self.served.port}/ws/{client_id}?rooms={rooms}"
        async with connect(
            address,
            subprotocols=[Subprotocol(item) for item in items],
            proxy=None,
            close_timeout=CLOSE_TIMEOUT_S,
        ) as client:
            hi = (await heard(client))["hi"]
            assert await heard(client) == {"live": 0}
            yield client, hi


@asynccontextmanager
async def nodes(count: int = 2, **settings: Any) -> AsyncIterator[tuple[MemoryCluster, list[Node]]]:
    config = WebSocketConfig(log_level="CRITICAL", drain_on_sigterm=False, **settings)
    async with MemoryCluster(count, config) as cluster, AsyncExitStack() as stack:
        yield cluster, [await stack.enter_async_context(node(manager)) for manager in cluster.managers]


@asynccontextmanager
async def node(manager: MemoryManager) -> AsyncIterator[Node]:
    app = FastAPI()
    handled: list[str | bytes] = []
    events: list[tuple[str, str]] = []

    async def on_message(connection: Connection, message: str | bytes) -> None:
        if isinstance(message, str) and message.startswith("join "):
            await connection.join(message.removeprefix("join "))
        handled.append(message)

    @manager.on_presence
    def note(event: PresenceEvent) -> None:
        events.append((event.kind, event.client_id))

    @manager.websocket(app, "/ws/{client_id}", on_message=on_message)
    def identify(client_id: str, rooms: str = Query("")) -> Identity:
        return Identity(client_id, rooms=rooms.split(",") if rooms else ())

    async with serving(app) as served:
        yield Node(manager, served, handled, events)


# Rooms


async def test_joins_and_leaves_by_another_node_are_told() -> None:
    async with nodes() as (_, (first, second)), first.opened() as (client, _):
        await second.manager.join("ann", "garden")
        assert await heard(client) == {"in": "garden", "at": None}
        await second.manager.broadcast({"n": 1}, room=["attic", "garden"])
        assert await heard(client) == [0, "garden", {"n": 1}]
        await second.manager.leave("ann", "garden")
        assert await heard(client) == {"out": "garden"}


# A session that is taken over


async def test_next_connection_continues_the_session_on_another_node() -> None:
    async with nodes() as (_, (first, second)):
        async with first.opened(rooms="lobby") as (client, hi):
            await say(client, {"m": "join attic", "n": 1})
            assert await heard(client) == {"in": "attic", "at": None}
            assert await heard(client) == {"n": 1}
            await say(client, {"m": "x", "n": 2})
            assert await heard(client) == {"n": 2}
        await eventually(lambda: first.manager.get_connection_count() == 0)
        async with second.opened(after=hi["sid"], rooms="cellar") as (client, again):
            assert (again["re"], again["n"]) == (True, 2)
            assert again["at"] == {"attic": None, "cellar": None}
            await say(client, {"m": "x", "n": 2})
            assert await heard(client) == {"n": 2}
            await say(client, {"m": "y", "n": 3})
            assert await heard(client) == {"n": 3}
        assert (first.handled, second.handled) == (["join attic", "x"], ["y"])


async def test_session_is_taken_over_when_redis_is_back() -> None:
    async with nodes() as (cluster, (first, second)):
        async with first.opened() as (client, hi):
            for number, room in enumerate(("attic", "vip"), start=1):
                await say(client, {"m": f"join {room}", "n": number})
                assert [await heard(client), await heard(client)] == [{"in": room, "at": None}, {"n": number}]
        await eventually(lambda: first.manager.get_connection_count() == 0)
        cluster.cut(second.manager)
        await second.manager.beat()
        async with second.opened(after=hi["sid"]) as (client, again):
            assert ("n" in again, again["at"]) == (False, {})
            await first.manager.leave("ann", "vip")
            await say(client, {"m": "join cellar", "n": 1})
            assert [await heard(client), await heard(client)] == [{"in": "cellar", "at": None}, {"n": 1}]
            await cluster.mend(second.manager)
            assert await heard(client) == {"in": "attic", "at": None}
        async with first.opened(after=again["sid"]) as (_, third):
            assert (third["n"], third["at"]) == (1, {"attic": None, "cellar": None})


async def test_second_one_with_the_same_cursor_gets_no_session() -> None:
    async with nodes(max_connections_per_client=3) as (_, (first, second)):
        async with first.opened() as (client, hi):
            await say(client, {"m": "join attic", "n": 1})
            assert [await heard(client), await heard(client)] == [{"in": "attic", "at": None}, {"n": 1}]
        async with (
            first.opened(after=hi["sid"]) as (_, one),
            second.opened(after=hi["sid"]) as (_, other),
        ):
            assert (one["n"], one["at"]) == (1, {"attic": None})
            assert ("n" in other, other["at"], other["re"]) == (False, {}, True)


async def test_revoked_room_does_not_come_back() -> None:
    async with nodes() as (_, (first, second)):
        async with first.opened() as (client, hi):
            for number, room in enumerate(("attic", "vip"), start=1):
                await say(client, {"m": f"join {room}", "n": number})
                assert [await heard(client), await heard(client)] == [{"in": room, "at": None}, {"n": number}]
        await eventually(lambda: first.manager.get_connection_count() == 0)
        await second.manager.leave("ann", "vip")
        async with second.opened(after=hi["sid"]) as (_, again):
            assert again["at"] == {"attic": None}


# Displacement


@pytest.mark.parametrize("elsewhere", [False, True])
async def test_displaced_connection_learns_which_session_took_its_place(elsewhere: bool) -> None:
    async with nodes() as (_, both), both[0].opened() as (old, _), both[elsewhere].opened() as (_, hi):
        assert await close_of(old) == (4500, json.dumps({"by": hi["sid"]}, separators=(",", ":")))


@pytest.mark.parametrize("elsewhere", [False, True])
@pytest.mark.parametrize("overflow", ["replace", "reject"])
async def test_own_next_socket_takes_the_place_of_a_half_open_one(elsewhere: bool, overflow: str) -> None:
    """Presence shows no end in between, and the limit of the client does not refuse it."""
    async with nodes(on_client_overflow=overflow) as (_, both):
        async with both[0].opened() as (old, before):
            await eventually(lambda: both[0].events == [("joined", "ann")])
            async with both[elsewhere].opened(after=before["sid"]) as (client, hi):
                code, reason = await close_of(old)
                assert (code, json.loads(reason or "")) == (4500, {"by": hi["sid"]})
                await both[0].manager.send_to_client("ann", "to the new one")
                assert await heard(client) == [0, 0, "to the new one"]
                assert both[0].events + both[1].events == [("joined", "ann")]
        await eventually(lambda: ("left", "ann") in both[elsewhere].events)


# A duplicated tab


def parted(both: list[Node]) -> int:
    return sum(each.manager.statistics().counters["sessions_parted"] for each in both)


@pytest.mark.parametrize("elsewhere", [False, True])
async def test_duplicated_tab_lives_beside_its_original_and_both_keep_their_sessions(elsewhere: bool) -> None:
    async with nodes(max_connections_per_client=3) as (cluster, both):
        first, other = both[0], both[elsewhere]
        async with first.opened() as (original, before):
            await say(original, {"m": "join attic", "n": 1})
            assert [await heard(original), await heard(original)] == [{"in": "attic", "at": None}, {"n": 1}]
            async with other.opened(after=before["sid"]) as (copy, hi):
                await eventually(lambda: parted(both) == 1, what="an answer of the original")
                await cluster.beat()
                assert await other.manager.send_to_client("ann", "to both")
                assert [await heard(original), await heard(copy)] == [[0, 0, "to both"]] * 2
                await say(original, {"m": "x", "n": 2})
                assert await heard(original) == {"n": 2}
        await eventually(lambda: all(each.manager.get_connection_count() == 0 for each in both))
        for sid, handled in ((before["sid"], 2), (hi["sid"], 1)):
            async with other.opened(after=sid) as (_, again):
                assert (again["n"], again["at"]) == (handled, {"attic": None})


@pytest.mark.parametrize("elsewhere", [False, True])
async def test_socket_that_does_not_answer_is_no_tab(
    elsewhere: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(successions, "ANSWER_S", 0.2)
    async with nodes(max_connections_per_client=3) as (_, both), both[0].opened() as (half_open, before):
        half_open.transport.pause_reading()
        async with both[elsewhere].opened(after=before["sid"]):

            async def has_one() -> bool:
                return len(await both[0].manager.presence("ann")) == 1

            await eventually(has_one, what="the end of the half-open socket")
            assert both[elsewhere].manager.get_connection_count() == 1
            assert parted(both) == 0
        half_open.transport.abort()


@pytest.mark.parametrize("overflow", ["replace", "reject"])
async def test_duplicated_tab_counts_in_the_limit_of_its_client(overflow: str) -> None:
    async with (
        nodes(max_connections_per_client=2, on_client_overflow=overflow) as (_, (first, second)),
        first.opened() as (original, before),
        first.opened() as (other, _),
        second.opened(after=before["sid"]) as (copy, _),
    ):
        code, _ = await close_of(original if overflow == "replace" else copy)
        assert code == (4500 if overflow == "replace" else 4509)
        await say(other, {"ping": 1})
        assert await heard(other) == {}


# Drain


@pytest.mark.parametrize("limit", [1, 3])
async def test_drained_client_moves_before_its_old_socket_ends(limit: int) -> None:
    async with (
        nodes(max_connections_per_client=limit) as (_, (first, second)),
        first.opened() as (old, before),
    ):
        await say(old, {"m": "join attic", "n": 1})
        assert [await heard(old), await heard(old)] == [{"in": "attic", "at": None}, {"n": 1}]
        draining = asyncio.create_task(first.manager.drain(5 * OVER_S))
        go = await heard(old)
        assert list(go) == ["go"]
        assert 0 <= go["go"]["in"] <= 1000
        await second.manager.broadcast("to both", room="attic")
        assert await heard(old) == [0, "attic", "to both"], "the old socket still works"
        await say(old, {"m": "still here", "n": 2})
        assert await heard(old) == {"n": 2}
        async with second.opened(after=before["sid"]) as (client, hi):
            assert (hi["n"], hi["at"]) == (2, {"attic": None})
            assert await close_of(old) == (4500, json.dumps({"by": hi["sid"]}, separators=(",", ":")))
            async with asyncio.timeout(ANSWER_S):
                report = await draining
            assert (report.closed_count, report.failed_count) == (1, 0)
            assert report.duration_seconds < 4 * OVER_S, "no one is left to wait for"
            assert first.manager.statistics().counters["connections_drained"] == 1
            await first.manager.send_to_client("ann", "x")
            assert await heard(client) == [0, 0, "x"]
        assert [kind for kind, _ in first.events].count("left") == 0


async def test_client_that_does_not_move_is_closed_when_the_drain_ends() -> None:
    async with nodes() as (_, (first, _)), first.opened() as (old, _):
        began_s = asyncio.get_running_loop().time()
        report = await first.manager.drain(OVER_S)
        assert asyncio.get_running_loop().time() - began_s >= OVER_S / 2
        assert list(await heard(old)) == ["go"]
        code, reason = await close_of(old)
        assert (code, list(json.loads(reason or ""))) == (1012, ["reconnect_in_ms"])
        assert (report.closed_count, report.failed_count) == (1, 0)


async def test_new_client_of_a_draining_node_is_sent_away_with_a_hint() -> None:
    async with nodes() as (_, (first, _)), first.opened("ann"):
        draining = asyncio.create_task(first.manager.drain(OVER_S))
        await asyncio.sleep(0)
        address = f"ws://127.0.0.1:{first.served.port}/ws/bob"
        async with connect(address, subprotocols=[Subprotocol(V1)], proxy=None) as client:
            code, reason = await close_of(client)
            assert (code, list(json.loads(reason or ""))) == (1012, ["reconnect_in_ms"])
        await draining


async def test_drain_paces_those_that_it_tells_to_go_and_gives_each_time_to_move() -> None:
    async with nodes(1, max_connections_per_client=40) as (_, (only,)), AsyncExitStack() as stack:
        clients = [(await stack.enter_async_context(only.opened()))[0] for _ in range(30)]
        now_s = asyncio.get_running_loop().time
        told_at_s: list[float] = []
        had_s: list[float] = []

        async def wait_for_go(client: ClientConnection) -> None:
            assert list(await heard(client)) == ["go"]
            told_s = now_s()
            told_at_s.append(told_s)
            with pytest.raises(ConnectionClosed):
                await client.recv()
            had_s.append(now_s() - told_s)

        waiting = [asyncio.create_task(wait_for_go(client)) for client in clients]
        report = await only.manager.drain(4 * OVER_S)
        await asyncio.gather(*waiting)
        assert report.closed_count == 30
        assert max(told_at_s) - min(told_at_s) > 0.1
        assert min(had_s) > 0.3
