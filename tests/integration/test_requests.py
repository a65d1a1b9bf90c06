"""Requests to clients on any of two nodes: the first answer counts, and each call has one outcome."""

import json
import secrets
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from fastapi_websocket_stabilizer.local.requests import MAX_OPEN_REQUESTS
from tests.integration.cluster import first_row
from tests.support.servers import RedisServer
from tests.support.waiting import eventually
from tests.wire.servers import ASYNCIO, STOCK_ROW, Row, Server, running
from tests.wire.speakers import Speaker, speaking

NODES = "ab"
ROWS = (ASYNCIO, STOCK_ROW)
"""One node has the library's class, the other one has uvicorn's."""


def on(row: Row, redis_url: str, namespace: str, **settings: str) -> Row:
    environment = {"WS_REDIS_URL": redis_url, "WS_NAMESPACE": namespace, **settings}
    return row.but("node", environment={**row.environment, **environment})


@pytest.fixture(scope="module")
def nodes(redis_url: str) -> Iterator[dict[str, Server]]:
    namespace = f"test-{secrets.token_hex(8)}"
    rows = [on(row, redis_url, namespace, WS_MAX_CONNECTIONS_PER_CLIENT="4") for row in ROWS]
    with running(rows[0]) as a, running(rows[1]) as b:
        yield dict(zip(NODES, (a, b), strict=True))


@pytest.fixture
def own_server() -> Iterator[RedisServer]:
    """Return a server that this test may end."""
    with RedisServer(first_row()) as server:
        yield server


@pytest.fixture
def client_id() -> str:
    """Return a client that no other test has."""
    return f"ada-{secrets.token_hex(4)}"


async def asked(server: Server, client_id: str, data: Any = 1, number: Any = "", **options: str) -> str:
    """Send a request, and return the name of its outcome."""
    name = f"requests/{client_id}-{number}"
    options = {"timeout": "60", **options}  # so that no deadline hides that a socket is not told
    await server.ask("POST", name, json.dumps(data).encode(), to=client_id, **options)
    return name


async def outcome(server: Server, name: str) -> Any:
    return await server.ask("GET", name)


@pytest.mark.parametrize("holder", NODES)
@pytest.mark.parametrize("asker", NODES)
async def test_answer_of_a_client_comes_from_any_node(
    nodes: dict[str, Server], asker: str, holder: str, client_id: str
) -> None:
    data = {"text": "grüße 🎉" * 3, "numbers": [0.5, -7, None, True]}
    async with speaking(nodes[holder], f"parked/{client_id}") as client:
        name = await asked(nodes[asker], client_id, data)
        assert await client.next() == {"q": 1, "m": "confirm", "d": data}
        client.say({"a": 1, "d": [data]})
        assert await outcome(nodes[asker], name) == {"answer": [data]}
        name = await asked(nodes[asker], client_id)
        assert await client.next() == {"q": 2, "m": "confirm", "d": 1}
        client.say({"a": 2, "x": {"code": "taken", "message": "Grüße", "retry": True}})
        failed = {"error": "RequestFailedError", "code": "taken", "message": "Grüße", "retry": True}
        assert await outcome(nodes[asker], name) == failed


@pytest.mark.parametrize("asker", NODES)
@pytest.mark.parametrize("winner", range(4))
async def test_first_answer_of_several_sockets_counts_and_the_others_are_told(
    nodes: dict[str, Server], asker: str, winner: int, client_id: str
) -> None:
    async with AsyncExitStack() as stack:
        sockets: list[Speaker] = []
        for holder in ("a", "a", "b", "b"):
            path = f"parked/{client_id}"
            sockets.append(await stack.enter_async_context(speaking(nodes[holder], path)))
        name = await asked(nodes[asker], client_id)
        for socket in sockets:
            assert await socket.next() == {"q": 1, "m": "confirm", "d": 1}
        sockets[winner].say({"a": 1, "d": winner})
        assert await outcome(nodes[asker], name) == {"answer": winner}
        for number, socket in enumerate(sockets):
            if number != winner:
                assert await socket.next() == {"c": 1}
            assert await socket.ask(5, "anything", "still there") == {"a": 5, "d": "still there"}


@pytest.mark.parametrize("asker", NODES)
async def test_plain_sockets_do_not_answer_and_do_not_hinder(
    nodes: dict[str, Server], asker: str, client_id: str
) -> None:
    async with nodes["a"].connected(f"parked/{client_id}"), nodes["b"].connected(f"parked/{client_id}"):
        found = await outcome(nodes[asker], await asked(nodes[asker], client_id))
        assert (found["error"], found["code"]) == ("RequestUnsupportedError", "unsupported")
        async with speaking(nodes["b"], f"parked/{client_id}") as client:
            name = await asked(nodes[asker], client_id)
            assert await client.next() == {"q": 1, "m": "confirm", "d": 1}
            client.say({"a": 1, "d": 1})
            assert await outcome(nodes[asker], name) == {"answer": 1}


@pytest.mark.parametrize("asker", NODES)
async def test_client_that_is_nowhere_is_not_found(
    nodes: dict[str, Server], asker: str, client_id: str
) -> None:
    name = await asked(nodes[asker], client_id)
    assert await outcome(nodes[asker], name) == {"error": "ConnectionNotFoundError"}


@pytest.mark.parametrize("asker", NODES)
@pytest.mark.parametrize("holder", NODES)
async def test_client_that_leaves_before_its_answer_is_not_found(
    nodes: dict[str, Server], asker: str, holder: str, client_id: str
) -> None:
    async with speaking(nodes[holder], f"parked/{client_id}") as client:
        name = await asked(nodes[asker], client_id)
        assert await client.next() == {"q": 1, "m": "confirm", "d": 1}
        client.client.reset()
    assert await outcome(nodes[asker], name) == {"error": "ConnectionNotFoundError"}


@pytest.mark.parametrize("asker", NODES)
async def test_timeout_and_cancellation_reach_the_sockets_of_all_nodes(
    nodes: dict[str, Server], asker: str, client_id: str
) -> None:
    async with (
        speaking(nodes["a"], f"parked/{client_id}") as first,
        speaking(nodes["b"], f"parked/{client_id}") as second,
    ):
        name = await asked(nodes[asker], client_id, timeout="0.5")
        for client in (first, second):
            assert await client.next() == {"q": 1, "m": "confirm", "d": 1}
            assert await client.next() == {"c": 1}
        assert await outcome(nodes[asker], name) == {"error": "RequestTimeoutError"}
        name = await asked(nodes[asker], client_id)
        for client in (first, second):
            assert await client.next() == {"q": 2, "m": "confirm", "d": 1}
        assert await nodes[asker].ask("DELETE", name)
        for client in (first, second):
            assert await client.next() == {"c": 2}
            client.say({"a": 2, "d": "too late"})
            assert await client.ask(1, "anything") == {"a": 1, "d": None}


async def test_bound_of_open_requests_holds_from_another_node(
    nodes: dict[str, Server], client_id: str
) -> None:
    async with speaking(nodes["b"], f"parked/{client_id}") as client:
        names = [await asked(nodes["a"], client_id, n, n) for n in range(MAX_OPEN_REQUESTS + 3)]
        for name in names[MAX_OPEN_REQUESTS:]:
            found = await outcome(nodes["a"], name)
            assert (found["error"], found["code"], found["retry"]) == ("RequestFailedError", "limit", True)
        frames = [await client.next() for _ in range(MAX_OPEN_REQUESTS)]
        client.say(*({"a": frame["q"], "d": frame["d"]} for frame in frames))
        for number, name in enumerate(names[:MAX_OPEN_REQUESTS]):
            assert await outcome(nodes["a"], name) == {"answer": number}


async def test_long_answer_is_passed_on(nodes: dict[str, Server], client_id: str) -> None:
    answer = "🎉" * 60_000
    async with speaking(nodes["b"], f"parked/{client_id}") as client:
        name = await asked(nodes["a"], client_id)
        await client.next()
        client.say({"a": 1, "d": answer})
        assert (await outcome(nodes["a"], name) == {"answer": answer}) is True


@pytest.mark.parametrize("holder", NODES)
async def test_disconnect_in_a_function_for_requests_means_its_own_socket(
    nodes: dict[str, Server], holder: str, client_id: str
) -> None:
    path = f"parked/{client_id}"
    async with speaking(nodes[holder], path) as own, speaking(nodes[holder], path) as other:
        own.say({"q": 1, "m": "disconnect"})
        assert await own.client.ending() == (4322, "asked for")

        async def has_ended() -> bool:
            return "disconnected" in await nodes[holder].diary(client_id)

        await eventually(has_ended, what="the function has ended")
        assert await other.ask(1, "anything", "still there") == {"a": 1, "d": "still there"}


async def test_node_that_dies_before_its_answer_costs_the_timeout(redis_url: str, client_id: str) -> None:
    namespace = f"test-{secrets.token_hex(8)}"
    with running(on(ROWS[0], redis_url, namespace)) as a, running(on(ROWS[1], redis_url, namespace)) as b:
        async with speaking(b, f"parked/{client_id}") as client:
            name = await asked(a, client_id, timeout="2")
            assert await client.next() == {"q": 1, "m": "confirm", "d": 1}
            b.process.kill()
        assert await outcome(a, name) == {"error": "RequestTimeoutError"}


async def test_node_that_dies_with_its_question_leaves_nothing_open(redis_url: str, client_id: str) -> None:
    namespace = f"test-{secrets.token_hex(8)}"
    with running(on(ROWS[0], redis_url, namespace)) as a, running(on(ROWS[1], redis_url, namespace)) as b:
        async with speaking(a, f"parked/{client_id}") as client:
            await asked(b, client_id, timeout="2")
            assert await client.next() == {"q": 1, "m": "confirm", "d": 1}
            b.process.kill()
            assert await client.next() == {"c": 1}


async def test_without_redis_only_clients_of_this_node_are_asked(
    own_server: RedisServer, client_id: str
) -> None:
    settings = {"WS_MAX_CONNECTIONS_PER_CLIENT": "4", "WS_REDIS_TIMEOUT_S": "1"}
    with running(on(ROWS[0], own_server.url, "away", **settings)) as node:
        async with speaking(node, f"parked/{client_id}") as client:
            own_server.kill()
            name = await asked(node, client_id)
            assert await client.next() == {"q": 1, "m": "confirm", "d": 1}
            client.say({"a": 1, "d": "here"})
            assert await outcome(node, name) == {"answer": "here"}
            name = await asked(node, "stranger")
            assert await outcome(node, name) == {"error": "BackendUnavailableError"}
