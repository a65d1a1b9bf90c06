"""The backends that every contract suite runs on: memory, each named server, and each topology."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence

import pytest

from fastapi_websocket_stabilizer import WebSocketConfig
from fastapi_websocket_stabilizer.backends.memory import MemoryBackend, MemoryHub
from fastapi_websocket_stabilizer.backends.ports import Backend, Receive
from fastapi_websocket_stabilizer.backends.redis import RedisBackend
from fastapi_websocket_stabilizer.names import NodeId
from fastapi_websocket_stabilizer.runtime.metrics import Counters
from fastapi_websocket_stabilizer.wire.channels import Channel
from fastapi_websocket_stabilizer.wire.envelopes import Envelope, Part
from tests.support.requirements import missing
from tests.support.servers import Missing
from tests.support.topologies import TOPOLOGIES
from tests.support.watchers import watcher

TIMEOUT_S = 3.0
NODE = NodeId("n1")


class Peer:
    """One node of a registry: its backend, and what its bus has heard."""

    def __init__(
        self, node: NodeId, make: Callable[[NodeId, Receive], Backend], *, is_in_cluster: bool = False
    ) -> None:
        self.node, self._is_in_cluster = node, is_in_cluster
        self.heard: list[tuple[Channel, Envelope]] = []
        self.backend = make(node, self._hear)

    def _hear(self, channel: Channel, envelope: Envelope, size: int) -> None:
        self.heard.append((channel, envelope))

    @property
    def bodies(self) -> list[str | bytes]:
        """What it heard: a direct envelope has a body in each of its parts."""
        return [
            body
            for _, envelope in self.heard
            for body in ([part.body for part in envelope.parts] or [envelope.body])
        ]

    def hears_in_order(self, bodies: Sequence[str]) -> bool:
        """Whether it heard exactly these; in a cluster only those of one channel need to be in order."""
        if not self._is_in_cluster:
            return self.bodies == list(bodies)
        places: dict[Channel, list[int]] = {}
        for channel, envelope in self.heard:
            for body in [part.body for part in envelope.parts] or [envelope.body]:
                places.setdefault(channel, []).append(bodies.index(str(body)))
        return sorted(map(str, self.bodies)) == sorted(bodies) and all(
            found == sorted(found) for found in places.values()
        )

    @property
    def parts(self) -> list[Part]:
        return [part for _, envelope in self.heard for part in envelope.parts]


OpenPeer = Callable[[str], Awaitable[Peer]]


@pytest.fixture(scope="session", params=["memory", *TOPOLOGIES])
def row(request: pytest.FixtureRequest) -> Iterator[str | None]:
    """URL of each place that a registry can live in; None is this process."""
    if request.param == "memory":
        yield None
        return
    topology = TOPOLOGIES[request.param]
    found = topology.find()
    if isinstance(found, Missing):
        missing(found.reason)
    with topology.serve(found) as url:
        yield url


@pytest.fixture
async def open_peer(row: str | None, namespace: str) -> AsyncIterator[OpenPeer]:
    """Start further nodes of the test's registry; all of them stop after the test."""
    hub, peers = MemoryHub(), []

    def make(node: NodeId, receive: Receive) -> Backend:
        if row is None:
            return MemoryBackend(hub, node, receive, Counters())
        return RedisBackend(
            WebSocketConfig(redis_url=row, namespace=namespace, redis_timeout_s=TIMEOUT_S),
            watcher(receive),
            Counters(),
            stores=True,
        )

    async def start(name: str) -> Peer:
        peer = Peer(NodeId(name), make, is_in_cluster="+cluster" in (row or ""))
        await peer.backend.start(peer.node)
        peers.append(peer)
        return peer

    yield start
    for peer in peers:
        await peer.backend.stop()


@pytest.fixture
async def backend(open_peer: OpenPeer) -> Backend:
    """The started backend of node ``n1``."""
    return (await open_peer(NODE)).backend
