"""Three replicas are restarted one after the other while 3,000 clients use them."""

import asyncio
import os
import random
import resource
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from fastapi_websocket_stabilizer import WebSocketConnectionManager
from tests.integration.cluster import Managers, client_ids
from tests.integration.travellers import Balancer, Traveller, codes, peak_per_s, ready_node
from tests.support.process import ChildProcess, free_port
from tests.support.waiting import eventually

pytestmark = [pytest.mark.alone, pytest.mark.later]

PROJECT = Path(__file__).parents[2]
CLIENTS = 3_000
DRAIN_S = 6.0
LAST_CLOSE_S = DRAIN_S - 1.5
"""The last quarter of a short window is left to those that are slow to close."""
RECONNECT_S = 4.0
"""What one attempt to connect, and the load balancer's next look, may take on two busy cores."""
BURST = 2.5
"""How far busy cores may bunch what was well spread; all at once would be four times the average."""
TOLERANCE_S = 1.0
"""Between a client's and Redis' knowledge of the same socket, on two busy cores."""


class Replica:
    """A server process that is replaced by another on the same port."""

    def __init__(self, url: str, namespace: str, number: int) -> None:
        self.port = free_port()
        self._environment = {
            "WS_REDIS_URL": url,
            "WS_NAMESPACE": namespace,
            "WS_NODE_NAME": f"web-{number}",
            "WS_DRAIN_OVER_S": str(DRAIN_S),
            "WS_LOG_LEVEL": "WARNING",
        }
        self.start()

    def start(self) -> None:
        command = [
            sys.executable,
            "-m",
            "uvicorn",
            "tests.integration.drain_app:app",
            "--log-level",
            "warning",
        ]
        command += ["--port", str(self.port), "--backlog", "4096", "--no-access-log"]
        self.process = ChildProcess(command, environment=self._environment, directory=PROJECT)

    async def is_ready(self) -> bool:
        assert self.process.is_running, self.process.output
        return bool(await ready_node(self.port))


@dataclass
class Observed:
    """What another node of the registry saw all the time."""

    samples: list[tuple[float, float, list[tuple[str, str]]]] = field(default_factory=list)
    sends: list[tuple[float, float, str, bool]] = field(default_factory=list)

    async def look(self, observer: WebSocketConnectionManager) -> None:
        while True:
            began_s = time.monotonic()
            found = [(entry.client_id, str(entry.node)) async for entry in observer.clients()]
            self.samples.append((began_s, time.monotonic(), found))
            await asyncio.sleep(0.5)

    async def send(self, observer: WebSocketConnectionManager, names: list[str]) -> None:
        while True:
            began_s, name = time.monotonic(), random.choice(names)
            took = await observer.send_to_client(name, "hello")
            self.sends.append((began_s, time.monotonic(), name, took))
            await asyncio.sleep(0.01)


@asynccontextmanager
async def running(*jobs: Callable[[], Coroutine[None, None, None]]) -> AsyncIterator[None]:
    """Keep endless jobs running; one that fails fails the block."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(job()) for job in jobs]
        yield
        for task in tasks:
            task.cancel()


@pytest.fixture
async def replicas(redis_url: str, namespace: str) -> AsyncIterator[list[Replica]]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if min(hard, 8192) > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    replicas = [Replica(redis_url, namespace, number) for number in range(3)]
    for replica in replicas:
        await eventually(replica.is_ready, 20, "a replica is ready")
    yield replicas
    for replica in replicas:
        replica.process.kill()


@pytest.mark.timeout(150)
async def test_rolling_restart_is_hardly_noticed(managers: Managers, replicas: list[Replica]) -> None:
    observer = await managers.start(lease_ttl_s=10, renew_interval_s=1)
    balancer, observed = Balancer([replica.port for replica in replicas]), Observed()
    travellers = [Traveller(f"client-{number}", balancer) for number in range(CLIENTS)]
    by_name = {traveller.name: traveller for traveller in travellers}
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(running(balancer.watch))
        await eventually(lambda: len(balancer.ready) == len(replicas))
        await stack.enter_async_context(running(*(traveller.travel for traveller in travellers)))
        await eventually(lambda: all(traveller.stays for traveller in travellers), 40, "all connected")
        looks = (lambda: observed.look(observer)), (lambda: observed.send(observer, list(by_name)))
        await stack.enter_async_context(running(*looks))
        drains = [await restart(replica, travellers) for replica in replicas]
        await eventually(lambda: all(is_there(traveller) for traveller in travellers), 20, "all are back")
        assert await client_ids(observer) == set(by_name)
        check_clients(travellers, drains)
        check_presence(by_name, observed)


def is_there(traveller: Traveller) -> bool:
    return traveller.stays[-1].until_s == float("inf")


@dataclass
class Drained:
    """One replica's way out."""

    clients: int
    began_s: float
    ended_s: float


async def restart(replica: Replica, travellers: list[Traveller]) -> Drained:
    """End a replica as a deploy does, and start its successor."""
    node = await ready_node(replica.port)
    clients = sum(is_there(one) and one.stays[-1].node == node for one in travellers)
    began_s = time.monotonic()
    os.kill(replica.process.pid, signal.SIGTERM)
    await eventually(lambda: not replica.process.is_running, DRAIN_S + 4, "end of the replica")
    drained = Drained(clients, began_s, time.monotonic())
    replica.start()
    await eventually(replica.is_ready, 20, "its successor is ready")
    return drained


def check_clients(travellers: list[Traveller], drains: list[Drained]) -> None:
    """Each was closed by a drain only, and was back as soon as it could."""
    gaps = [gap for traveller in travellers for gap in traveller.gaps]
    longest_s = max(gap_s for gap_s, _ in gaps)
    beyond_s = max(gap_s - hint_s for gap_s, hint_s in gaps)
    refused = sum(traveller.refused for traveller in travellers)
    print(f"\n{len(gaps)} moves of {len(travellers)} clients; longest gap {longest_s:.2f} s, ", end="")
    print(f"{beyond_s:.2f} s beyond what the client was told; {refused} attempts refused")
    assert codes(travellers) == {1012: len(gaps)}
    assert len(gaps) >= CLIENTS
    assert beyond_s < RECONNECT_S
    for drained in drains:
        check_pace(travellers, drained)


def check_pace(travellers: list[Traveller], drained: Drained) -> None:
    """The survivors were never asked to accept much more than the window's average."""
    accepts: dict[str, list[float]] = {}
    for traveller in travellers:
        for stay in traveller.stays[1:]:
            if drained.began_s <= stay.since_s <= drained.ended_s + 1.0:
                accepts.setdefault(stay.node, []).append(stay.since_s)
    average = drained.clients / LAST_CLOSE_S
    peak = peak_per_s([at_s for moments_s in accepts.values() for at_s in moments_s])
    each = {node: peak_per_s(moments_s) for node, moments_s in accepts.items()}
    took_s = drained.ended_s - drained.began_s
    print(f"{drained.clients} clients drained in {took_s:.1f} s: {average:.0f} a second; ", end="")
    print(f"peak accepts in a second {peak}, by survivor {sorted(each.values())}")
    assert peak < BURST * average
    assert took_s < DRAIN_S + 1.5


def check_presence(travellers: dict[str, Traveller], observed: Observed) -> None:
    """Nobody was shown where he was not, and nobody who was there was missing or could not be reached."""
    ghosts, missing = [], []
    for began_s, ended_s, found in observed.samples:
        for name, node in found:
            if not travellers[name].was_at(node, began_s, ended_s, TOLERANCE_S):
                ghosts.append((name, node))
        shown = set(found)
        for name, traveller in travellers.items():
            stay = traveller.stayed(began_s - TOLERANCE_S, ended_s + TOLERANCE_S)
            if stay is not None and (name, stay.node) not in shown:
                missing.append((name, stay.node))
    lost = [
        name
        for began_s, ended_s, name, took in observed.sends
        if not took and travellers[name].stayed(began_s - TOLERANCE_S, ended_s + TOLERANCE_S)
    ]
    failed = sum(not took for *_, took in observed.sends)
    print(
        f"{len(observed.samples)} looks at presence: {len(ghosts)} ghosts, {len(missing)} missing; ", end=""
    )
    print(
        f"{len(observed.sends)} messages, {failed} to clients on their way, {len(lost)} to others not taken"
    )
    assert (len(observed.samples) > 10, ghosts[:5], missing[:5], lost[:5]) == (True, [], [], [])
