"""What it costs to be looked at: ``python -m benchmarks.observed``.

The observed replicas measure durations and functions for messages, export by the SDK of OpenTelemetry, are scraped by
Prometheus, and show the admin page. Both systems run at the same time and take turns.
"""

import argparse
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace

from tests.support.servers import Missing, RedisServer, find_row

from .crowd import Clients
from .loads import LOADS
from .measures import Burst, Session, awaited, rate
from .processes import raise_file_limit
from .systems import Cluster, Stage
from .systems.base import get
from .systems.ours import Ours, OursObserved

SERVER = "valkey-9.1"
EACH_S = {"/metrics": 5.0, "/stabilizer/admin/api/overview": 2.0}
"""Seconds between two requests to each replica: three times as often as Prometheus asks, and as often as the page."""
TURNS = 21
CPU_S = 0.7
"""CPU seconds of a sample."""


def main() -> int:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=TURNS)
    options = parser.parse_args()
    binary = find_row(SERVER)
    if isinstance(binary, Missing):
        print(binary.reason, file=sys.stderr)
        return 2
    raise_file_limit(8192)
    with ExitStack() as stack:
        server = stack.enter_context(RedisServer(binary))
        plain, observed = (_session(server, system, stack) for system in (Ours(), OursObserved()))
        stack.enter_context(_looked_at(observed.cluster))
        for number in range(options.turns):
            for each in (plain, observed) if number % 2 else (observed, plain):
                rate(each, "burst", Burst(each.load.broadcasts, each.load.in_flight))
                awaited(each)
    print("| | without, deliveries a CPU second | with | ratio, median | lowest | highest |")
    print("|---|---:|---:|---:|---:|---:|")
    for measure in ("burst", "awaited"):
        without, with_all = (_values(each, measure) for each in (plain, observed))
        ratios = sorted(b / a for a, b in zip(without, with_all, strict=True))
        middle = [statistics.median(values) for values in (without, with_all, ratios)]
        print(
            f"| {measure} | {middle[0]:,.0f} | {middle[1]:,.0f} | {middle[2]:.3f} "
            f"| {ratios[0]:.3f} | {ratios[-1]:.3f} |"
        )
    return 0


def _session(server: RedisServer, system: Ours, stack: ExitStack) -> Session:
    cluster = system.start(Stage(server.url, f"observed-{system.name}"), stack)
    load = replace(LOADS["full"], sample_cpu_s=CPU_S)
    clients, client = stack.enter_context(Clients()), stack.enter_context(server.client())
    session = Session(system, cluster, clients, client, load, 1)
    session.connect(load.clients)
    session.settle()
    return session


def _values(session: Session, measure: str) -> list[float]:
    samples = [sample for sample in session.samples if sample.measure == measure]
    assert all(sample.is_valid for sample in samples), "messages were lost"
    return [sample.values["per_cpu_s"] for sample in samples]


@contextmanager
def _looked_at(cluster: Cluster) -> Iterator[None]:
    """Ask each replica for its metrics and for the overview until the block ends."""
    is_over, answers = threading.Event(), dict.fromkeys(EACH_S, 0)

    def ask(port: int, path: str, each_s: float) -> None:
        while not is_over.is_set():
            began_s = time.monotonic()
            with suppress(OSError):  # a replica that is in a burst answers later
                get(port, path)
                answers[path] += 1
            is_over.wait(max(0.0, each_s - (time.monotonic() - began_s)))

    askers = [
        threading.Thread(target=ask, args=(port, path, each_s))
        for port in cluster.ports
        for path, each_s in EACH_S.items()
    ]
    for asker in askers:
        asker.start()
    try:
        yield
    finally:
        is_over.set()
        for asker in askers:
            asker.join()
        print("answers:", answers, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
