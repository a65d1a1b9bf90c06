"""What is measured of whom. Systems take turns in each run, so that a machine that drifts drifts for all."""

from collections.abc import Callable, Container, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace

from tests.support.servers import RedisServer

from . import measures, rooms
from .crowd import Clients
from .loads import Load
from .measures import Session
from .results import Results, Sample
from .systems import ALL, Stage

Script = Callable[[Session], None]
SENDING = [system.name for system in ALL.values() if system.can_send]
JSON_SIZES = (1024, 16_384)
LARGE = ("ours", "1.1+glue", "socket.io", "nchan", "centrifugo")
DEFLATING = ("ours", "ours-block", "ours-stock", "1.1+glue", "socket.io", "nchan", "bare")


@dataclass(frozen=True, slots=True)
class Part:
    """Measures that share one start of one system."""

    system: str
    letters: str
    """The measures' letters; the part is left out when none of them was asked for."""
    script: Script
    replicas: int = 2
    is_compressed: bool = False
    beside: tuple[str, ...] = ()
    """Systems that run at the same time and take turns."""

    def of(self, systems: Container[str]) -> "Part":
        """Return the part with only these systems beside."""
        return replace(self, beside=tuple(name for name in self.beside if name in systems))


def parts(load: Load) -> Iterator[Part]:
    """Yield everything there is to measure, once."""
    for name in (name for name, system in ALL.items() if not system.has_rooms):
        yield Part(name, "abcdef" if name in SENDING else "ef", standard)
    for name in DEFLATING:
        yield Part(name, "ei", compressed, is_compressed=True)
    for name in LARGE:
        yield from large(name, load)
    yield Part("ours", "j", long_turns, replicas=1)
    for replicas in load.growth_replicas:
        if replicas != 2:
            yield Part("ours", "h", growth(load.clients), replicas)
    yield Part("ours-rooms", "k", rooms.bursts, beside=("ours-off", "ours-before", "ours-v1", "centrifugo"))
    yield Part("ours-v1", "l", rooms.storm, beside=("ours-rooms",))
    yield Part("ours-v1", "m", rooms.memory)
    yield Part("ours-v1", "n", rooms.away, beside=("centrifugo",))


def standard(session: Session) -> None:
    """Memory and connecting, then all ways of sending to the clients of one size."""
    load, clients = session.load, session.clients
    measures.memory_and_connect(session, offers_deflate=False)
    clients.close()
    if not session.system.can_send or session.system.name == "ours-block":
        return
    session.connect(load.clients)
    for measure in (measures.burst, measures.awaited, measures.paced):
        measure(session)
    if session.system.name == "ours":
        measures.stalled(session)
        measures.chat(session)
    clients.close()
    session.connect(load.direct_clients, by_id=True)
    measures.direct(session)


def compressed(session: Session) -> None:
    """Memory with compression, then JSON that is compressed."""
    extensions = measures.memory_and_connect(session, offers_deflate=True)
    if not session.system.can_send or session.system.name == "ours-block":
        return
    session.clients.close()
    session.connect(session.load.clients, offers_deflate=True)
    for size in JSON_SIZES:
        measures.json_burst(session, size, is_granted="permessage-deflate" in extensions)


def large(name: str, load: Load) -> Iterator[Part]:
    """Yield the parts with many clients; for ours all sizes of the growth, with (c) and (g)."""
    if name != "ours":
        yield Part(name, "a", crowded)
        return
    for size in sorted({*load.growth_clients, load.large_clients}):
        yield Part(name, "agh" if size == load.large_clients else "gh", growth(size))


def crowded(session: Session) -> None:
    """(a) with many clients."""
    session.connect(session.load.large_clients)
    measures.burst(session, session.load.large_broadcasts, "burst_large")


def long_turns(session: Session) -> None:
    """(j) with many clients on one replica."""
    session.connect(session.load.large_clients)
    measures.turns(session)


def growth(clients: int) -> Script:
    """Return (a), (c) and (g) with this many clients."""

    def script(session: Session) -> None:
        session.connect(clients)
        load = session.load
        is_large = clients == load.large_clients
        if session.run == 1 or is_large:
            measures.idle(session)  # half a minute each: the smaller sizes are measured once
        measures.burst(session, load.large_broadcasts if clients > load.clients else None, "growth_burst")
        if is_large:
            session.samples.append(replace(session.samples[-1], measure="burst_large"))
        measures.paced(session)
        session.samples[-1].measure = "growth_paced"

    return script


def perform(part: Part, load: Load, run: int, valkey: RedisServer) -> list[Sample]:
    """Start a system, and those beside it; measure and end them. What fails is a sample too."""
    with ExitStack() as stack, valkey.client() as client:
        client.flushall()
        samples: list[Sample] = []

        def session(name: str) -> Session:
            stage = Stage(valkey.url, f"benchmarks-{name}-{run}", part.replicas, part.is_compressed)
            cluster = ALL[name].start(stage, stack)
            clients = stack.enter_context(Clients())
            return Session(ALL[name], cluster, clients, client, load, run, samples)

        try:
            main = session(part.system)
            main.beside += [session(name) for name in part.beside]
            part.script(main)
        except (RuntimeError, OSError) as error:
            samples.append(_failure(part, run, str(error)))
        return samples


def _failure(part: Part, run: int, error: str) -> Sample:
    return Sample(part.system, f"of {part.letters}", 0, part.replicas, run, error=error[:2000])


def run_all(
    results: Results, chosen: list[Part], load: Load, valkey: RedisServer, keep: Callable[[], None]
) -> None:
    """Measure everything, ``load.runs`` times; ``keep`` is called whenever there is more."""
    for run in range(1, load.runs + 1):
        for part in chosen:
            samples = perform(part, load, run, valkey)
            results.samples += samples
            keep()
            for sample in samples:
                print(_line(sample), flush=True)


def _line(sample: Sample) -> str:
    where = (
        f"{sample.system:16} {sample.measure:15} {sample.connections:6} x{sample.replicas} run {sample.run}"
    )
    shown = "  ".join(f"{name}={value:,.5g}" for name, value in sample.values.items())
    trouble = "" if sample.is_valid else f"  FAILED: lost {sample.lost}, wrong {sample.wrong} {sample.error}"
    return f"{where}  {shown}{trouble}"
