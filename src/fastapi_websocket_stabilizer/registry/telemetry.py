"""The values that a node publishes of itself with each beat, and reads of the others of its group.

A scrape reaches one process of several behind one port. It must show them all, and no value may be lower than the one
that another process has shown before. So all values are those that were published last, the own ones included.
"""

import os
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from pydantic_core import from_json

from ..backends.workers import WorkerStore
from ..exceptions import LOSSES
from ..local.pinger import Pinger
from ..names import NodeId, printable
from ..runtime.loops import running_loop
from ..runtime.metrics import totals
from ..wire.own_json import encode_json
from .directory import Directory
from .lease import Lease
from .state import NodeState

FOREIGN = (ValueError, TypeError, KeyError, AttributeError)
"""Errors about what another release has published."""
MAX_TOTAL = 2.0**63
"""Larger values are of no release of this library."""
MAX_BODY_BYTES = 16 * 1024
"""Longer values are of no release either. They would be added to the own totals, and published again."""
OWN_LASTS_S = 1.0
"""Seconds for which own values are shown that were not published. To render them takes 5 ms."""
FRESH_BEATS = 3
"""Beats for which published values are shown."""


@dataclass(frozen=True, slots=True)
class Sample:
    """The values of one node at one moment.

    Attributes:
        worker: Its number in its group; -1 if it has none.
        node: Its node_id.
        pid: Its process, on its host.
        name: Its display name.
        version: The release of this library.
        at_s: The time by its own clock, in seconds since 1970.
        totals: Counters. They go on from those of the last process with the same number, and never go back.
        gauges: Present values.
        histograms: Durations: their number in each bucket, and their sum in seconds.
    """

    worker: int
    node: NodeId
    pid: int
    name: str
    version: str
    at_s: float
    totals: Mapping[str, int]
    gauges: Mapping[str, float]
    histograms: Mapping[str, tuple[list[int], float]]


@dataclass(frozen=True, slots=True)
class Scrape:
    """The content of one scrape.

    Attributes:
        samples: One of each node.
        missing: Nodes that should be there: workers of this server that have published nothing, or nodes whose values
            cannot be read.
    """

    samples: list[Sample]
    missing: int


class Telemetry:
    """Publishes the values of this node, and reads those of others."""

    def __init__(
        self,
        state: NodeState,
        lease: Lease,
        directory: Directory,
        pinger: Pinger,
        unready: Callable[[], str | None],
    ) -> None:
        self._state, self._lease, self._directory, self._pinger = state, lease, directory, pinger
        self._unready = unready
        self._holder = NodeId("")
        self._number, self._live = -1, 1
        self._published: Sample | None = None
        self._shown: tuple[float, Sample] | None = None
        self._before: tuple[Mapping[str, int], Mapping[str, tuple[list[int], float]]] = {}, {}

    async def publish(self) -> None:
        """Publish the present values.

        Raises:
            BackendUnavailableError: Redis does not answer.
        """
        if not self._state.is_distributed:
            return
        self._state.check_reachable()
        self._live = len(self._lease.known_live())  # here, because a collector may be in another thread
        store, node, group = self._state.backend.workers, self._state.node_id, self._state.group
        if self._holder != node:
            number, body = await store.take(group, node, await self._ended())
            if number != self._number:  # otherwise it is what this process has published itself
                before = _read(number, NodeId(""), body)
                self._before = (before.totals, before.histograms) if before else ({}, {})
            self._holder, self._number = node, number
        if self._number >= 0:
            sample = self.own()
            told = {name: found for name, found in asdict(sample).items() if name not in ("worker", "node")}
            await store.publish(group, self._number, node, encode_json(told, "statistics"))
            self._published = sample

    async def _ended(self) -> list[NodeId]:
        """Return the nodes of this server whose process has ended.

        A supervisor starts a successor before their lease lapses. A group with a name of its own may span hosts, on
        which the same pid is another process.
        """
        if self._state.config.scrape_group is not None:
            return []
        held = (await self._state.backend.workers.read(self._state.group)).values()
        samples = [_read(-1, node, body) for node, body in held]
        return [sample.node for sample in samples if sample is not None and not _is_running(sample.pid)]

    async def retire(self) -> None:
        """Give the number back, and let totals begin at zero if this process starts again.

        Raises:
            BackendUnavailableError: Redis does not answer. The values are forgotten after an hour.
        """
        if self._number >= 0:
            number, self._number = self._number, -1
            self._holder, self._before, self._published = NodeId(""), ({}, {}), None
            await self._state.backend.workers.give_back(self._state.group, number)

    def own(self, *, goes_on: bool = True) -> Sample:
        """Return the present values of this node.

        Without ``goes_on``, totals and durations are those of this process alone.
        """
        state = self._state
        labelled = (
            ("handshake", state.arrivals.counts),
            ("hook", state.hooks.failed),
            ("closed", state.ends.causes),
            ("sent", state.ends.sent),
            ("received", state.ends.received),
        )
        counts = {name: count for name, count in totals(state.counters).items() if count}
        for kind, found in labelled:
            # A copy, because a collector may be in another thread.
            counts |= {f"{kind}:{label}": count for label, count in dict(found).items() if count}
        histograms = {
            name: (histogram.counts, histogram.total_s)
            for name, histogram in state.histograms.by_name().items()
            if any(histogram.counts)
        }
        before, durations_before = self._before if goes_on else ({}, {})
        return Sample(
            worker=self._number,
            node=state.node_id,
            pid=os.getpid(),
            name=state.name,
            version=state.version,
            at_s=datetime.now(UTC).timestamp(),
            totals={
                name: counts.get(name, 0) + before.get(name, 0) for name in counts.keys() | before.keys()
            },
            gauges=self._gauges(),
            histograms={
                name: _sum(histograms.get(name), durations_before.get(name))
                for name in histograms.keys() | durations_before.keys()
            },
        )

    def _gauges(self) -> dict[str, float]:
        state, (total_bytes, largest_bytes) = self._state, self._pinger.outboxes
        gauges: dict[str, float] = {
            "connections": len(state.shards),
            "rooms": len(state.shards.rooms),
            "outbox_bytes": total_bytes,
            "outbox_largest_bytes": largest_bytes,
            "fan_out_queued_bytes": state.fan_out.queued_bytes,
            "redis_queued_bytes": state.backend.queued_bytes,
            "unheard_bytes": state.in_flight.bytes,
            "bus_connected": int(state.backend.is_connected),
            "ready": int(self._unready() is None),
            "draining": int(state.is_draining),
            "redis_away": int(state.is_away),
            "cluster_nodes": self._live,
        }
        limit = state.config.max_connections
        return gauges if limit is None else {**gauges, "max_connections": limit}

    async def of_host(self) -> Scrape:
        """Return the values of all workers of this server; only the own ones if Redis does not answer."""
        expected = self._state.served.workers or 1
        if not self._state.is_distributed or self._number < 0:
            return Scrape([self._present()], expected - 1)
        try:
            found = await self._of_groups([self._state.group])
        except LOSSES:
            found = [] if self._published is None else [self._published]
        samples = [sample for sample in found if self._is_fresh(sample)]
        if not any(sample.node == self._state.node_id for sample in samples):
            samples.append(self._present())
        return Scrape(sorted(samples, key=lambda sample: sample.worker), max(0, expected - len(samples)))

    def _present(self) -> Sample:
        """Return own values that are at most ``OWN_LASTS_S`` old."""
        now_s = running_loop().time()
        if (
            self._shown is None
            or now_s - self._shown[0] >= OWN_LASTS_S
            or self._shown[1].node != self._state.node_id
        ):
            self._shown = now_s, self.own()
        return self._shown[1]

    def _is_fresh(self, sample: Sample) -> bool:
        """Whether a worker of this host has published it lately. After an outage, older ones would go back."""
        age_s = datetime.now(UTC).timestamp() - sample.at_s
        return age_s < FRESH_BEATS * self._state.config.renew_interval_s

    async def of_cluster(self) -> Scrape:
        """Return the values of all live nodes.

        Raises:
            BackendUnavailableError: Redis does not answer.
        """
        if not self._state.is_distributed:
            return await self.of_host()
        nodes = await self._directory.groups()
        samples = await self._of_groups(dict.fromkeys(nodes.values()))
        return Scrape(samples, max(0, len(nodes) - len(samples)))

    async def _of_groups(self, groups: Iterable[str]) -> list[Sample]:
        samples, malformed = await read_groups(self._state.backend.workers, groups, self._lease.live_among)
        self._state.counters.redis_malformed += malformed
        return samples


async def read_groups(
    store: WorkerStore,
    groups: Iterable[str],
    live_among: Callable[[Iterable[NodeId]], Awaitable[set[NodeId]]],
) -> tuple[list[Sample], int]:
    """Return what the live nodes of groups have published last, and how many values are malformed.

    Raises:
        BackendUnavailableError: Redis does not answer.
    """
    found: list[Sample | None] = []
    for group in groups:
        held = await store.read(group)
        live = await live_among(node for node, _ in held.values())
        found += [_read(number, *entry) for number, entry in held.items() if entry[0] in live]
    samples = [sample for sample in found if sample is not None]
    return samples, len(found) - len(samples)


def _read(worker: int, node: NodeId, body: bytes) -> Sample | None:
    """Return what a node has published, or None if it is not of this form."""
    try:
        if len(body) > MAX_BODY_BYTES:
            return None
        found: dict[str, Any] = from_json(body, allow_inf_nan=False)
        durations = {
            str(name): ([_count(each) for each in counts], _number(total_s))
            for name, (counts, total_s) in found["histograms"].items()
        }
        return Sample(
            worker,
            node,
            _count(found["pid"]),
            printable(str(found["name"])),
            printable(str(found["version"])),
            _number(found["at_s"]),
            {str(name): _count(value) for name, value in found["totals"].items()},
            {str(name): _number(value) for name, value in found["gauges"].items()},
            durations,
        )
    except FOREIGN:
        return None


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # of another user, or no pid
        return True
    return True


def _count(value: object) -> int:
    if type(value) is not int or not 0 <= value < MAX_TOTAL:
        raise ValueError(f"{value!r:.80} is no total")
    return value


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < MAX_TOTAL:
        raise ValueError(f"{value!r:.80} is no value")
    return value


def _sum(*each: tuple[list[int], float] | None) -> tuple[list[int], float]:
    """Return the sum of durations. Those with other buckets, of another release, are left out."""
    (counts, total_s), *others = [one for one in each if one is not None]
    for more, seconds in others:
        if len(more) == len(counts):
            counts, total_s = [a + b for a, b in zip(counts, more, strict=True)], total_s + seconds
    return list(counts), total_s
