"""Drain in real servers: signals, the route and the command, and what a client sees of them."""

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from fastapi_websocket_stabilizer import WebSocketConnectionManager
from tests.integration.cluster import Managers, client_ids
from tests.support import http
from tests.support.nginx import nginx_command, wait_for_listener
from tests.support.process import ChildProcess, free_port
from tests.support.proxy import TcpProxy
from tests.support.servers import RedisServer
from tests.support.waiting import eventually, eventually_sync

PROJECT = Path(__file__).parents[2]
UVICORN = "uvicorn tests.integration.drain_app:app --port PORT"
HYPERCORN = "hypercorn tests.integration.drain_app:app --bind 127.0.0.1:PORT --workers 0 --graceful-timeout 1"
GRANIAN = "granian tests.integration.drain_app:app --port PORT --interface asgi --workers-kill-timeout 1"
WAYS = ("parked", "served", "classic")
AT_ONCE_S = 10.0
"""Longer than any server needs to stop on two busy cores, and much shorter than the window that it was given."""
SECRET = "open sesame, please"
BEARER = {"Authorization": f"Bearer {SECRET}"}


class Node:
    """One server process, asked from outside."""

    def __init__(self, command: str, **settings: Any) -> None:
        self.port = free_port()
        environment = {f"WS_{name.upper()}": str(value) for name, value in settings.items()}
        words = [sys.executable, "-m", *command.replace("PORT", str(self.port)).split()]
        self.process = ChildProcess(words, environment=environment, directory=PROJECT)
        self.http = http.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=30)
        eventually_sync(self._is_up, 20.0, "the server is up")

    def _is_up(self) -> bool:
        assert self.process.is_running, self.process.output
        return self.status("/readyz") == 200

    def stop(self) -> None:
        self.http.close()
        self.process.kill()

    def status(self, path: str) -> int:
        return self.http.get(path).status_code

    def here(self) -> dict[str, Any]:
        return dict(self.http.get("/here").json())

    def here_now(self) -> list[str]:
        """Return who is registered, without a question to Redis."""
        return list(self.http.get("/local").json())

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.process.pid, number)

    def connect(self, path: str) -> connect:
        return connect(f"ws://127.0.0.1:{self.port}/{path}", proxy=None, ping_interval=None, close_timeout=1)

    @asynccontextmanager
    async def clients(self, count: int, *ways: str) -> AsyncIterator[list[ClientConnection]]:
        """Connect ``count`` clients in each way, registered when the block begins."""
        async with AsyncExitStack() as stack:
            paths = [f"{way}/{way}-{number}" for way in ways or WAYS for number in range(count)]
            sockets = [await stack.enter_async_context(self.connect(path)) for path in paths]
            await eventually(lambda: len(self.here()["clients"]) == len(sockets), what="all registered")
            yield sockets

    async def has_ended(self, within_s: float) -> None:
        await eventually(lambda: not self.process.is_running, within_s, f"end of\n{self.process.output}")


Launch = Callable[..., Node]


@pytest.fixture
def launch(redis_url: str, namespace: str) -> Iterator[Launch]:
    """Start server processes of one registry."""
    with ExitStack() as stack:

        def start(command: str = UVICORN, **settings: Any) -> Node:
            own = {"redis_url": redis_url, "namespace": namespace, "renew_interval_s": 1, "lease_ttl_s": 4}
            own |= {"drain_secret": SECRET}
            node = Node(command, **own | settings)
            stack.callback(node.stop)
            return node

        yield start


@pytest.fixture
async def refuge(redis_url: str, namespace: str) -> AsyncIterator[WebSocketConnectionManager]:
    """Another node of the registry, which could take the clients."""
    managers = Managers(redis_url, namespace)
    yield await managers.start()
    await managers.close()


async def closed_with(client: ClientConnection) -> tuple[int | None, str]:
    async with asyncio.timeout(15):
        await client.wait_closed()
    return client.close_code, client.close_reason or ""


async def was_sent_away(client: ClientConnection) -> bool:
    code, reason = await closed_with(client)
    assert code == 1012, (code, reason)
    return 0 <= int(json.loads(reason)["reconnect_in_ms"]) <= 1000


async def refusal(node: Node, path: str) -> int:
    with pytest.raises(InvalidStatus) as caught:
        async with node.connect(path):
            pass
    return int(caught.value.response.status_code)


# --- SIGTERM under uvicorn ----------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["ours", "uvicorn's"])
async def test_sigterm_drains_and_then_stops_the_server(
    launch: Launch, refuge: WebSocketConnectionManager, protocol: str
) -> None:
    node = launch(drain_over_s=4, uvicorn_protocol=protocol == "ours")
    async with node.clients(20) as clients:
        node.signal(signal.SIGTERM)
        await eventually(lambda: node.status("/readyz") == 503, what="not ready")
        assert (node.status("/livez"), node.http.get("/readyz").json()["reason"]) == (200, "draining")
        assert [await refusal(node, f"{way}/newcomer") for way in ("parked", "served")] == [503, 503]
        async with node.connect("classic/newcomer") as newcomer:
            assert await was_sent_away(newcomer)
        assert [info.draining for info in await refuge.nodes() if info.connections] == [True]
        assert all([await was_sent_away(client) for client in clients])
        await node.has_ended(AT_ONCE_S)
    assert await client_ids(refuge) == set()
    assert [info.node_id for info in await refuge.nodes()] == [refuge.statistics().node_id]
    assert node.process.output.count("Traceback") == node.process.output.count("DrainingError: ")


async def test_process_without_another_node_stops_fast(launch: Launch) -> None:
    node = launch(drain_over_s=30)
    async with node.clients(5) as clients:
        node.signal(signal.SIGTERM)
        assert {await closed_with(client) for client in clients} == {(1012, "")}  # the server's own close
        await node.has_ended(AT_ONCE_S)


async def test_process_without_redis_stops_fast(launch: Launch) -> None:
    node = launch(drain_over_s=30, redis_url="")
    async with node.clients(5):
        node.signal(signal.SIGTERM)
        await node.has_ended(AT_ONCE_S)


async def test_nodes_that_all_stop_do_not_wait_for_one_another(launch: Launch) -> None:
    nodes = [launch(drain_over_s=30) for _ in range(3)]
    async with AsyncExitStack() as stack:
        for node in nodes:
            await stack.enter_async_context(node.clients(100, "parked"))
        for node in nodes:
            node.signal(signal.SIGTERM)
        for node in nodes:
            await node.has_ended(AT_ONCE_S + 2)


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
async def test_second_signal_ends_at_once(
    launch: Launch, refuge: WebSocketConnectionManager, second: signal.Signals
) -> None:
    node = launch(drain_over_s=60)
    async with node.clients(200, "parked") as clients:
        node.signal(signal.SIGTERM)
        await eventually(lambda: any(client.close_code for client in clients), what="the drain has begun")
        node.signal(second)
        await node.has_ended(AT_ONCE_S)
        assert {(await closed_with(client))[0] for client in clients} == {1012}


async def test_sigint_never_drains(launch: Launch, refuge: WebSocketConnectionManager) -> None:
    node = launch(drain_over_s=60)
    async with node.clients(100, "parked"):
        node.signal(signal.SIGINT)
        await node.has_ended(AT_ONCE_S)


async def test_drain_on_sigterm_may_be_switched_off(
    launch: Launch, refuge: WebSocketConnectionManager
) -> None:
    node = launch(drain_over_s=60, drain_on_sigterm=False)
    async with node.clients(100, "parked") as clients:
        node.signal(signal.SIGTERM)
        await node.has_ended(AT_ONCE_S)
        assert {await closed_with(client) for client in clients} == {(1012, "")}


async def test_handler_of_the_application_is_called_when_the_drain_is_over(
    launch: Launch, refuge: WebSocketConnectionManager
) -> None:
    node = launch(UVICORN.replace(":app", ":handling"), drain_over_s=4)
    async with node.clients(5) as clients:
        node.signal(signal.SIGTERM)
        assert all([await was_sent_away(client) for client in clients])
        await node.has_ended(AT_ONCE_S)
    assert node.process.output.count("told with 0 clients") == 1


async def test_message_that_is_still_handled_does_not_keep_the_process(
    launch: Launch, refuge: WebSocketConnectionManager
) -> None:
    node = launch(drain_over_s=2)
    async with node.clients(3, "busy") as clients:
        for client in clients:
            await client.send("think")
        node.signal(signal.SIGTERM)
        assert all([await was_sent_away(client) for client in clients])
        await node.has_ended(2 + AT_ONCE_S)


@pytest.mark.parametrize("way", ["parked", "classic"])
async def test_client_that_reads_slowly_gets_all_that_waits_for_it(
    launch: Launch, refuge: WebSocketConnectionManager, way: str
) -> None:
    """It takes what is left of the window, not what a close is given; others do not wait for it."""
    node = launch(drain_over_s=20, close_timeout_s=0.5, outbox_size=1 << 24)
    async with TcpProxy("127.0.0.1", node.port) as slow_network:
        slow_network.throttle(2_000_000)
        url = f"ws://127.0.0.1:{slow_network.port}/{way}/slow"
        async with connect(url, proxy=None, ping_interval=None, compression=None) as client:
            await eventually(lambda: node.here()["clients"] == ["slow"])
            await asyncio.to_thread(node.http.post, "/flood/slow", params={"mib": 8})
            node.signal(signal.SIGTERM)
            received: list[int] = []
            with suppress(ConnectionClosed):
                while True:
                    received.append(len(await client.recv()))
            assert received == [1 << 20] * 8
            assert await was_sent_away(client)
        await node.has_ended(AT_ONCE_S)


@pytest.mark.parametrize("protocol", ["ours", "uvicorn's"])
async def test_clients_that_read_nothing_do_not_keep_the_process(
    launch: Launch, refuge: WebSocketConnectionManager, protocol: str
) -> None:
    settings = {"write_timeout_s": 30, "close_timeout_s": 1, "outbox_size": 1 << 25}
    node = launch(drain_over_s=2, uvicorn_protocol=protocol == "ours", **settings)
    with ExitStack() as stack:
        for way in WAYS:
            raw = stack.enter_context(socket.create_connection(("127.0.0.1", node.port), 5))
            raw.sendall(HANDSHAKE.replace("PATH", f"{way}/{way}").encode())
            assert raw.recv(12) == b"HTTP/1.1 101"
            await eventually(lambda: way in node.here()["clients"])  # noqa: B023 - awaited in this turn
            await asyncio.to_thread(node.http.post, f"/flood/{way}", params={"mib": 12})
        node.signal(signal.SIGTERM)
        await node.has_ended(2 + AT_ONCE_S)
    assert await client_ids(refuge) == set()


async def test_process_that_lost_redis_ends_in_time(
    launch: Launch, server: RedisServer, namespace: str
) -> None:
    """It believes that who was there at the last beat still is: the window applies, and is kept."""
    managers = Managers(server.url, namespace)
    await managers.start(lease_ttl_s=60)
    settings = {"lease_ttl_s": 60, "renew_interval_s": 1, "redis_timeout_s": 1}
    node = launch(redis_url=server.url, drain_over_s=4, **settings)
    async with node.clients(20, "parked", "served") as clients:
        server.process.freeze()
        node.signal(signal.SIGTERM)
        assert all([await was_sent_away(client) for client in clients])
        await node.has_ended(4 + AT_ONCE_S)
    server.process.thaw()
    await managers.close()


HANDSHAKE = """\
GET /PATH HTTP/1.1\r
Host: localhost\r
Connection: Upgrade\r
Upgrade: websocket\r
Sec-WebSocket-Version: 13\r
Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r
\r
"""


async def test_client_whose_claim_is_under_way_is_refused(
    launch: Launch, server: RedisServer, namespace: str
) -> None:
    node = launch(redis_url=server.url, lease_ttl_s=30, renew_interval_s=9)
    server.process.freeze()
    refused = [asyncio.create_task(refusal(node, f"{way}/{way}")) for way in ("parked", "served")]
    await eventually(lambda: sorted(node.here_now()) == ["parked", "served"], what="both claims wait")
    draining = asyncio.create_task(
        asyncio.to_thread(node.http.post, "/drain", params={"over": 5}, headers=BEARER)
    )
    await eventually(lambda: node.status("/readyz") == 503)
    server.process.thaw()
    assert await asyncio.gather(*refused) == [503, 503]
    assert (await draining).json()["failed_count"] == 0
    assert "Traceback" not in node.process.output


# --- uvicorn --workers --------------------------------------------------------------------------------------


WORKERS = f"{UVICORN} --workers 2"


def workers_of(node: Node) -> dict[str, int]:
    """Return the process ids of the workers by node_id; each answers as often as the kernel likes."""
    found: dict[str, int] = {}
    for _ in range(200):
        here = http.get(f"http://127.0.0.1:{node.port}/here").json()
        found[here["node_id"]] = here["pid"]
        if len(found) == 2:
            return found
    raise AssertionError(found)


async def test_worker_that_stops_sends_its_clients_to_the_others(launch: Launch) -> None:
    """A worker that drains leaves the shared port to the others: nobody who comes back is refused."""
    node = launch(WORKERS, drain_over_s=3)
    workers = await eventually(lambda: workers_of(node), what="two workers")
    leaving = min(workers)
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(node.connect(f"parked/c{n}")) for n in range(60)]
        os.kill(workers[leaving], signal.SIGTERM)
        await eventually(lambda: is_draining(node, leaving), what="one worker drains")
        newcomers = [await stack.enter_async_context(node.connect(f"parked/new{n}")) for n in range(40)]
        await eventually(lambda: leaving not in nodes_of(node), what="it has left")
        sent_away = [client for client in clients if client.close_code is not None]
        assert 0 < len(sent_away) < len(clients)
        assert all([await was_sent_away(client) for client in sent_away])
        assert [newcomer.close_code for newcomer in newcomers] == [None] * len(newcomers)


async def test_workers_that_all_stop_do_not_wait_for_one_another(launch: Launch) -> None:
    node = launch(WORKERS, drain_over_s=30)
    await eventually(lambda: workers_of(node), what="two workers")
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(node.connect(f"parked/c{n}")) for n in range(100)]
        node.signal(signal.SIGTERM)
        await node.has_ended(AT_ONCE_S + 2)
        assert {(await closed_with(client))[0] for client in clients} == {1012}


async def test_newcomer_hears_that_all_workers_drain(
    launch: Launch, refuge: WebSocketConnectionManager
) -> None:
    """Nobody is left in the queue of a port from which all workers have gone."""
    node = launch(WORKERS, drain_over_s=5)
    await eventually(lambda: workers_of(node), what="two workers")
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(node.connect(f"parked/c{n}")) for n in range(100)]
        node.signal(signal.SIGTERM)
        await eventually(lambda: fresh_status(node, "/readyz") == 503, what="not ready")
        assert fresh_status(node, "/livez") == 200
        assert await refusal(node, "parked/newcomer") == 503
        assert all([await was_sent_away(client) for client in clients])
        await node.has_ended(AT_ONCE_S)
    assert "without completing handshake" not in node.process.output


def fresh_status(node: Node, path: str) -> int:
    """Return the answer to a connection of its own: kept ones stay with their worker."""
    return http.get(f"http://127.0.0.1:{node.port}{path}", timeout=2).status_code


def nodes_of(node: Node) -> dict[str, bool]:
    """Return the node_ids of the registry, and whether each drains."""
    here = http.get(f"http://127.0.0.1:{node.port}/here").json()
    return dict(here["draining"])


def is_draining(node: Node, node_id: str) -> bool:
    return nodes_of(node)[node_id]


# --- the route and the command, on every server -------------------------------------------------------------


SERVERS = pytest.mark.parametrize(
    "command", [UVICORN, HYPERCORN, GRANIAN], ids=["uvicorn", "hypercorn", "granian"]
)


@SERVERS
async def test_route_drains_and_answers_when_it_is_over(
    launch: Launch, refuge: WebSocketConnectionManager, command: str
) -> None:
    node = launch(command)
    async with node.clients(5) as clients:
        answer = await asyncio.to_thread(node.http.post, "/drain", params={"over": 2}, headers=BEARER)
        report = answer.raise_for_status().json()
        assert (report["status"], report["closed_count"], report["failed_count"]) == ("drained", 15, 0)
        assert report["duration_seconds"] < 2 + 1
        assert all([await was_sent_away(client) for client in clients])
        assert (node.status("/readyz"), node.status("/livez"), await refusal(node, "parked/new")) == (
            503,
            200,
            503,
        )
    assert await client_ids(refuge) == set()


@SERVERS
async def test_command_drains_a_node_by_its_name(
    launch: Launch, redis_url: str, namespace: str, command: str
) -> None:
    node = launch(command, node_name="web-1")
    async with node.clients(5) as clients:
        done = await run_drain("web-1", "--over", "2", "--redis-url", redis_url, "--namespace", namespace)
        assert all([await was_sent_away(client) for client in clients])
        assert done[0] == 0, done
        assert f"web-1 ({node.here()['node_id']}): asked to drain 15 connections within 2 s" in done[1]
        assert "no connection left" in done[1]
        assert node.status("/readyz") == 503


async def run_drain(*arguments: str, **environment: str) -> tuple[int | None, str]:
    """Run ``stabilizer drain``; return its exit code and what it said."""
    command = [sys.executable, "-m", "fastapi_websocket_stabilizer.cli", "drain", *arguments]
    with ChildProcess(command, environment=environment, directory=PROJECT) as process:
        await eventually(lambda: not process.is_running, 20, "end of stabilizer drain")
        return process.exit_code, process.output


async def test_command_takes_redis_from_the_environment_and_says_whom_it_knows(
    refuge: WebSocketConnectionManager, redis_url: str, namespace: str
) -> None:
    code, said = await run_drain("nobody", WS_REDIS_URL=redis_url, WS_NAMESPACE=namespace)
    assert code == 1
    assert "no live node is called 'nobody'; there are 1:" in said
    assert refuge.statistics().node_id in said


async def test_command_refuses_a_name_that_several_nodes_have(managers: Managers) -> None:
    twins = await managers.start_many(2, node_name="twin")
    code, said = await run_drain("twin", "--redis-url", managers.url, "--namespace", managers.namespace)
    assert (code, "2 nodes are called 'twin'" in said) == (1, True)
    one = twins[0].statistics().node_id
    code, said = await run_drain(one, "--redis-url", managers.url, "--namespace", managers.namespace)
    assert (code, [info.draining for info in await twins[1].nodes() if info.node_id == one]) == (0, [True])


async def test_command_says_that_a_node_does_not_listen(
    launch: Launch, redis_url: str, namespace: str
) -> None:
    node = launch(node_name="frozen", lease_ttl_s=30, renew_interval_s=10)
    async with node.clients(1, "parked"):
        node.process.freeze()
        arguments = ("frozen", "--over", "0.5", "--redis-url", redis_url, "--namespace", namespace)
        code, said = await run_drain(*arguments)
        node.process.thaw()
    assert (code, "not draining after" in said) == (1, True)


# --- who may use the route ----------------------------------------------------------------------------------


BARE_PROXY = """
error_log ./error.log;
pid ./nginx.pid;
events {}
http {
    access_log off;
    server {
        listen 127.0.0.1:%d;
        location / {
            proxy_pass http://127.0.0.1:%d;
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection "upgrade";
            proxy_set_header Host $host;
        }
    }
}
"""
"""What many guides show: it adds no header that says that the request was forwarded."""


@asynccontextmanager
async def relayed(way: str, node: Node, directory: Path) -> AsyncIterator[int]:
    """Put nginx or a TCP relay in front of a node and return the port."""
    if way == "nginx":
        port = free_port()
        with ChildProcess(nginx_command(directory, BARE_PROXY % (port, node.port))) as nginx:
            await asyncio.to_thread(wait_for_listener, nginx, port)
            yield port
    else:
        async with TcpProxy("127.0.0.1", node.port) as relay:
            yield relay.port


@pytest.mark.parametrize("way", ["nginx", "TCP relay"])
async def test_stranger_behind_a_proxy_drains_nothing_without_a_secret(
    launch: Launch, refuge: WebSocketConnectionManager, tmp_path: Path, way: str
) -> None:
    node = launch(drain_secret="")
    async with node.clients(1) as clients, relayed(way, node, tmp_path) as port:
        url = f"http://127.0.0.1:{port}/drain?over=0.2"
        answer = await asyncio.to_thread(http.post, url)
        assert (answer.status_code, "drain_secret" in answer.json()["detail"]) == (403, True)
        assert node.status("/readyz") == 200
        assert [client.state.name for client in clients] == ["OPEN"] * len(WAYS)


@pytest.mark.parametrize("way", ["nginx", "TCP relay"])
async def test_secret_opens_the_route_through_a_proxy(launch: Launch, tmp_path: Path, way: str) -> None:
    node = launch()
    async with relayed(way, node, tmp_path) as port:
        url = f"http://127.0.0.1:{port}/drain?over=0.2"
        assert (await asyncio.to_thread(http.post, url)).status_code == 403
        assert node.status("/readyz") == 200
        answer = await asyncio.to_thread(http.post, url, headers=BEARER)
    assert (answer.status_code, node.status("/readyz")) == (200, 503)


async def test_secret_is_asked_of_everybody_when_there_is_one(launch: Launch) -> None:
    node = launch(f"{UVICORN} --proxy-headers")
    wrong = [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Basic {SECRET}"},
        {"Authorization": "Bearer"},
    ]
    assert [post_drain(node, headers) for headers in wrong] == [403] * 4
    right = {**BEARER, "X-Forwarded-For": "203.0.113.9"}
    assert post_drain(node, right) == 200
    assert SECRET not in node.process.output


async def test_route_refuses_a_time_that_makes_no_sense(launch: Launch) -> None:
    node = launch()
    for over in ("0", "-1", "nan", "inf", "soon"):
        assert node.http.post("/drain", params={"over": over}, headers=BEARER).status_code == 422
    assert (node.http.get("/drain").status_code, node.status("/readyz")) == (405, 200)


def post_drain(node: Node, headers: dict[str, str]) -> int:
    return node.http.post("/drain", headers=headers).status_code
