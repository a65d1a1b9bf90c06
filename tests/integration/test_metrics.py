"""What a scrape of Prometheus shows: every worker, whichever answers, and no series of anybody's choice."""

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, fields
from typing import Any

import aiohttp
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families
from yarl import URL

from fastapi_websocket_stabilizer import (
    BackendUnavailableError,
    ConfigurationError,
    WebSocketConfig,
    WebSocketConnectionManager,
)
from fastapi_websocket_stabilizer.backends.redis.keys import Keys
from fastapi_websocket_stabilizer.testing import RedisServer
from tests.integration.cluster import PROJECT, Managers, register
from tests.support.process import ChildProcess, free_port
from tests.support.waiting import eventually, eventually_sync

LEASE_S = 20.0
"""A worker that replaces a killed one has started long before the lease of that lapses, as with the default."""
HOSTILE = ['"} 1 forged{x="', "x" * 500, "{}", "\\", "a b", "日本", "stabilizer_connections 9"]
Series = tuple[str, tuple[tuple[str, str], ...]]


def series_of(text: str) -> dict[Series, float]:
    """Return every value of a scrape by name and labels."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(scrape: dict[Series, float], name: str, **labels: str) -> float:
    """Return the sum of a metric over all series with these labels."""
    return sum(
        number
        for (found, has), number in scrape.items()
        if found == name and labels.items() <= dict(has).items()
    )


def workers_in(scrape: dict[Series, float]) -> set[str]:
    return {dict(labels)["worker"] for name, labels in scrape if name == "stabilizer_connections"}


class Site:
    """A server with several workers, and what scrapes of it have shown."""

    def __init__(self, process: ChildProcess, port: int) -> None:
        self.process, self.port = process, port
        self.highest: dict[Series, float] = {}
        self.gone_back: list[Series] = []

    async def get(self, path: str, **headers: str) -> tuple[int, str]:
        """Return status and body, on a connection of its own: the kernel chooses the worker."""
        async with aiohttp.ClientSession() as http, http.get(self.url(path), headers=headers) as response:
            return response.status, await response.text()

    def url(self, path: str, scheme: str = "http") -> str:
        return f"{scheme}://127.0.0.1:{self.port}/{path}"

    async def scrape(self) -> dict[Series, float]:
        """Return a scrape, and note the totals that are lower than what was shown before."""
        status, text = await self.get("metrics")
        assert status == 200, text
        found = series_of(text)
        for series, number in found.items():
            if series[0].endswith(("_total", "_bucket", "_count", "_sum")):
                self.gone_back += [series] * (number < self.highest.get(series, 0))
                self.highest[series] = max(number, self.highest.get(series, 0))
        return found

    async def who(self) -> tuple[str, int]:
        """Return the node_id and the pid of the worker that answers."""
        pid, node_id = json.loads((await self.get("who"))[1])
        return str(node_id), int(pid)

    async def pids(self, count: int) -> dict[str, int]:
        """Return the pid of each worker by node_id."""
        found: dict[str, int] = {}

        async def are_all() -> bool:
            found.update([await self.who()])
            return len(found) >= count

        await eventually(are_all, 30, what=f"{count} workers answer")
        return found

    @asynccontextmanager
    async def client(self, client_id: str) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        url = URL(self.url("ws/", "ws")) / client_id
        async with aiohttp.ClientSession() as http, http.ws_connect(url) as socket:
            yield socket


@contextmanager
def serving(url: str, namespace: str, workers: int, **settings: str) -> Iterator[Site]:
    port = free_port()
    environment = {
        "WS_REDIS_URL": url, "WS_NAMESPACE": namespace, "WS_LEASE_TTL_S": f"{LEASE_S}",
        "WS_RENEW_INTERVAL_S": "0.5", **settings,
    }  # fmt: skip
    command = [sys.executable, "-m", "uvicorn", "tests.integration.metrics_app:app", "--port", str(port)]
    command += ["--workers", str(workers), "--log-level", "warning"] if workers > 1 else []
    with ChildProcess(command, environment=environment, directory=PROJECT) as process:
        eventually_sync(lambda: _is_ready(port), 40, what="the server is ready")
        yield Site(process, port)


def _is_ready(port: int) -> bool:
    from urllib.request import urlopen

    with urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as response:
        return bool(response.status == 200)


async def test_each_scrape_shows_all_workers_and_no_series_goes_back(redis_url: str, namespace: str) -> None:
    """Also when a worker is killed, and another one takes its number."""
    with serving(redis_url, namespace, workers=4) as site:
        pids = await site.pids(4)

        async def shows_all() -> bool:
            return workers_in(await site.scrape()) == {"0", "1", "2", "3"}

        await eventually(shows_all, 20, what="a scrape shows four workers")
        await asyncio.gather(*(visit(site, f"client {number}") for number in range(20)))

        async def has_all_visits() -> bool:
            scrape = await site.scrape()
            assert workers_in(scrape) == {"0", "1", "2", "3"}
            return (
                value(scrape, "stabilizer_connections_opened_total") == 20
                and value(scrape, "stabilizer_connections_closed_total", cause="peer_closed") == 20
                and value(scrape, "stabilizer_connection_duration_seconds_count", cause_class="client") == 20
            )

        await eventually(has_all_visits, 20, what="the visits of all workers are counted")
        for _ in range(20):
            assert workers_in(await site.scrape()) == {"0", "1", "2", "3"}
        os.kill(pids[busiest_in(await site.scrape())], signal.SIGKILL)

        async def is_replaced() -> bool:
            return any([(await site.who())[0] not in pids for _ in range(8)])

        await eventually(is_replaced, 40, what="uvicorn has started another worker")
        await visit(site, "somebody")

        async def is_whole() -> bool:
            scrape = await site.scrape()
            has_all = len(workers_in(scrape)) == 4 and value(scrape, "stabilizer_scrape_missing_workers") == 0
            return has_all and value(scrape, "stabilizer_connections_opened_total") == 21

        await eventually(is_whole, 20, what="four workers again, with the totals of the killed one")
        assert site.gone_back == []


def busiest_in(scrape: dict[Series, float]) -> str:
    """Return the node_id of the worker that has opened most connections."""
    opened = {
        dict(labels)["worker"]: count
        for (name, labels), count in scrape.items()
        if name == "stabilizer_connections_opened_total"
    }
    busiest = max(opened, key=lambda worker: opened[worker])
    infos = [dict(labels) for name, labels in scrape if name == "stabilizer_node_info"]
    return next(info["node_id"] for info in infos if info["worker"] == busiest)


async def visit(site: Site, client_id: str) -> None:
    async with site.client(client_id) as socket:
        await socket.send_str("hello")
        assert await socket.receive_str() == "hello"


async def test_no_name_code_or_address_makes_a_series(redis_url: str, namespace: str) -> None:
    with serving(redis_url, namespace, workers=1) as site:
        await visit(site, "usual")
        before = set(await site.scrape())
        for number, name in enumerate(HOSTILE):
            async with site.client(f"{number}-{name}") as socket:
                await socket.send_str(f"{number}-{name}")
                await socket.receive()
                await socket.close(code=3000 + number, message=name.encode()[:100])
        await eventually(lambda: _has_ended(site, 1 + len(HOSTILE)), 20, what="all have ended")
        assert set(await site.scrape()) == before


async def _has_ended(site: Site, count: int) -> bool:
    return value(await site.scrape(), "stabilizer_connections_closed_total") == count


async def test_scraper_gets_open_metrics_if_it_asks_for_them(redis_url: str, namespace: str) -> None:
    with serving(redis_url, namespace, workers=1) as site:
        _, text = await site.get("metrics", Accept="application/openmetrics-text; version=1.0.0")
        names = {family.name for family in open_metrics(text)}  # type: ignore[no-untyped-call]  # it has no types
        assert {
            "stabilizer_connections",
            "stabilizer_connections_closed",
            "stabilizer_bus_lag_seconds",
        } <= names


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded", "X-Real-IP", "Via"])
async def test_metrics_are_not_shown_through_a_proxy(redis_url: str, namespace: str, header: str) -> None:
    with serving(redis_url, namespace, workers=1) as site:
        status, text = await site.get("metrics", **{header: "for=203.0.113.7"})
        assert (status, "metrics_secret" in text) == (403, True)


async def test_secret_opens_and_closes_the_metrics(redis_url: str, namespace: str) -> None:
    secret = "a secret of the scrapers"
    with serving(redis_url, namespace, workers=1, WS_METRICS_SECRET=secret) as site:
        through_a_proxy = {"X-Forwarded-For": "203.0.113.7"}
        answers = [
            (await site.get("metrics", **headers))[0]
            for headers in (
                {},
                {"Authorization": "Bearer wrong"},
                {"Authorization": f"Basic {secret}"},
                {"Authorization": f"bearer {secret}", **through_a_proxy},
            )
        ]
        assert answers == [403, 403, 403, 200]


def collected(manager: WebSocketConnectionManager, scope: Any) -> dict[Series, float]:
    registry = CollectorRegistry()
    registry.register(manager.prometheus_collector(scope))
    return series_of(generate_latest(registry).decode())


async def test_collector_of_the_cluster_has_every_node(managers: Managers) -> None:
    nodes = await managers.start_many(2)
    for node in nodes:
        await register(node, "ada")
        await node._registry.telemetry.publish()
    scrape = await asyncio.to_thread(collected, nodes[0], "cluster")
    assert workers_in(scrape) == {node.statistics().node_id for node in nodes}
    assert value(scrape, "stabilizer_connections_opened_total") == 2


async def test_each_node_knows_how_many_there_are_and_how_long_redis_takes(managers: Managers) -> None:
    nodes = await managers.start_many(3)

    async def all_know() -> bool:
        scrapes = [collected(node, "node") for node in nodes]
        return all(value(scrape, "stabilizer_cluster_nodes") == 3 for scrape in scrapes)

    await eventually(all_know, what="the nodes know one another")
    scrape = collected(nodes[0], "node")
    answered = value(scrape, "stabilizer_redis_command_seconds_count")
    assert 0 < answered <= nodes[0].statistics().counters["redis_batches"]
    assert 0 < value(scrape, "stabilizer_redis_command_seconds_sum") < 3 * answered


async def test_collector_of_a_node_needs_no_redis(own_managers: Managers, server: RedisServer) -> None:
    node = await own_managers.start()
    await register(node, "ada")
    server.kill()
    assert value(collected(node, "node"), "stabilizer_connections") == 1
    scrape = await asyncio.to_thread(collected, node, "cluster")
    assert (value(scrape, "stabilizer_connections"), value(scrape, "stabilizer_scrape_missing_workers")) == (
        1,
        1,
    )


async def test_collector_of_a_node_may_be_in_another_thread_while_the_bus_is_silent(
    managers: Managers,
) -> None:
    """Exporters of OpenTelemetry are. Then the node looks how long the bus has been silent."""
    (node,) = await managers.start_many(1)
    backend: Any = node._state.backend
    for canary in backend._canaries._canaries.values():
        canary._unheard_since_s = time.monotonic() - 100
    scrape = await asyncio.to_thread(collected, node, "node")
    assert value(scrape, "stabilizer_ready") == 0


async def test_collector_that_would_block_the_event_loop_says_what_to_do(managers: Managers) -> None:
    node = await managers.start()
    with pytest.raises(RuntimeError, match="metrics_router"):
        collected(node, "host")


def test_unknown_scope_is_an_error_that_has_it() -> None:
    with pytest.raises(ConfigurationError, match="scope must be one of host, node, cluster, got 'pod'"):
        WebSocketConnectionManager(WebSocketConfig()).prometheus_collector("pod")  # type: ignore[arg-type]


async def test_what_others_have_written_there_is_left_out_and_counted(
    own_managers: Managers, server: RedisServer
) -> None:
    node = await own_managers.start()
    telemetry = node._registry.telemetry
    await telemetry.publish()
    (key,) = server.client().scan_iter("*:workers:*")
    for number, body in enumerate(
        ["", "[]", "{", '{"totals": {"x": -1}}', '{"totals": 5, "gauges": {}}'], start=1
    ):
        server.client().hset(key, str(number), f"{node.statistics().node_id} {body}")
    long = json.dumps(asdict(telemetry.own()) | {"totals": {f"x{number}": 1 for number in range(5_000)}})
    server.client().hset(key, "6", f"{node.statistics().node_id} {long}")
    for field in ("256", "-1", "1e3", "9" * 400):
        server.client().hset(key, field, f"{node.statistics().node_id} {{}}")
    before = node.statistics().counters["redis_malformed"]
    scrape = await telemetry.of_host()
    assert [sample.worker for sample in scrape.samples] == [0]
    assert node.statistics().counters["redis_malformed"] == before + 6


async def test_values_of_the_process_alone_do_not_go_on_from_those_of_a_dead_worker(
    own_managers: Managers, server: RedisServer
) -> None:
    """OpenTelemetry has them: there, each process is a resource of its own."""
    first = await own_managers.start(scrape_group="web")
    await register(first, "alice")
    await first._registry.telemetry.publish()
    key = Keys(own_managers.namespace).workers("web")
    left_behind = server.client().hget(key, "0")
    assert left_behind is not None
    await first.graceful_shutdown()
    server.client().hset(key, "0", left_behind)  # as if it had been killed
    successor = await own_managers.start(scrape_group="web")
    await register(successor, "bob")
    telemetry = successor._registry.telemetry
    assert telemetry.own().totals["connections_opened"] == 2
    assert telemetry.own(goes_on=False).totals["connections_opened"] == 1


async def test_foreign_key_is_replaced(own_managers: Managers, server: RedisServer) -> None:
    node = await own_managers.start()
    telemetry = node._registry.telemetry
    await telemetry.publish()
    (key,) = server.client().scan_iter("*:workers:*")
    server.client().set(key, "foreign")
    await telemetry.publish()
    await telemetry.publish()
    assert [sample.node for sample in (await telemetry.of_host()).samples] == [node.statistics().node_id]
    server.client().set(key, "foreign")
    assert await node._state.backend.workers.take(node._state.group, node._state.node_id) == (0, b"")
    assert server.client().type(key) == "hash"


async def test_beat_has_at_most_two_kilobytes_of_statistics(
    own_managers: Managers, server: RedisServer
) -> None:
    node = await own_managers.start(enable_metrics=True)
    state = node._state
    for number, each in enumerate(fields(state.counters)):  # a busy node has counted a third of them
        setattr(state.counters, each.name, 10**8 * (number % 3 == 0))
    for histogram in state.histograms.by_name().values():
        for bound in histogram.bounds_s:
            histogram.add(bound)
    await node._registry.telemetry.publish()
    (key,) = server.client().scan_iter("*:workers:*")
    assert len(server.client().hget(key, "0") or b"") <= 2048


async def test_nothing_is_published_while_redis_is_away(own_managers: Managers, server: RedisServer) -> None:
    """Otherwise a start without Redis would wait for a second time limit."""
    node = await own_managers.start(log_level="CRITICAL")
    server.kill()
    await eventually(lambda: node._state.is_away, what="the node has noticed")
    before = node.statistics().counters["redis_commands"]
    with pytest.raises(BackendUnavailableError):
        await node._registry.telemetry.publish()
    assert node.statistics().counters["redis_commands"] == before
