"""What clients that flood one replica cost it and the calm clients beside them: ``python -m benchmarks.floods``.

One replica holds a thousand calm clients that are echoed once a second; another one looks at who is online. Floods of
each kind come from 1, 3 and 20 connections, registered ones and such that were not accepted yet.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import statistics
import struct
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import cast

import uvloop
from tests.support.process import ChildProcess, free_port
from tests.support.servers import Missing, RedisServer, find_row

from .processes import raise_file_limit, rss_bytes, tree
from .systems.base import PROJECT, Stage, environment, get

CALM = 1000
COUNTS = (1, 3, 20)
PATHS = {"/flood": "registered", "/door": "not accepted"}
LOOPS = {"uvloop": "httptools", "asyncio": "h11"}
*OTHERS, LAST = sorted(os.sched_getaffinity(0))
OWN_CORE, OTHER_CORES = {LAST}, set(OTHERS) or {LAST}
"""The core of the flooded replica, and those of all else. Otherwise the clients take its time while a flood runs."""
MASK = b"\0\0\0\0"
CHUNK_BYTES = 65_536


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, compressed: bool = False) -> bytes:
    """Return one frame of a client."""
    first = (0x80 if fin else 0) | (0x40 if compressed else 0) | opcode
    head = (
        bytes((first, 0x80 | len(payload)))
        if len(payload) < 126
        else struct.pack("!BBH", first, 254, len(payload))
    )
    return head + MASK + payload


def repeated(piece: bytes) -> bytes:
    """Return a chunk that consists of whole pieces."""
    return piece * max(1, CHUNK_BYTES // len(piece))


def bomb() -> bytes:
    """Return a message of 1 MiB in about 1 KiB."""
    pack = zlib.compressobj(wbits=-12)
    data = pack.compress(bytes(2**20)) + pack.flush(zlib.Z_SYNC_FLUSH)
    return frame(2, data.removesuffix(b"\0\0\xff\xff"), compressed=True)


KINDS: dict[str, Callable[[], bytes]] = {
    "pings": lambda: repeated(frame(9)),
    "pongs": lambda: repeated(frame(10)),
    "empty texts": lambda: repeated(frame(1)),
    "fragments": lambda: frame(1, fin=False) + frame(0, fin=False) * 10_000 + frame(0),
    "deflate": lambda: repeated(bomb()),
}


def handshake(path: str, client_id: str) -> bytes:
    """Return the request of a client."""
    lines = [
        f"GET {path}?client_id={client_id} HTTP/1.1",
        "Host: 127.0.0.1",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==",
        "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits",
    ]
    return "\r\n".join([*lines, "", ""]).encode()


class Flood(asyncio.Protocol):
    """Writes chunk after chunk, as fast as they are taken, and reads all answers."""

    def __init__(self, path: str, client_id: str, chunk: bytes) -> None:
        self._hello, self._chunk = handshake(path, client_id), chunk
        self._is_early = path == "/door"
        self._may_write = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Shake hands; who is never accepted does not wait for that."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(self._hello)
        if self._is_early:
            asyncio.get_running_loop().call_later(0.1, self._go_on)

    def data_received(self, data: bytes) -> None:
        """Begin when the answer has come."""
        if not self._is_early and data.startswith(b"HTTP/1.1 101"):
            self._go_on()

    def pause_writing(self) -> None:
        """The replica reads no more."""
        self._may_write = False

    def resume_writing(self) -> None:
        """The replica has read."""
        self._may_write = True
        self._go_on()

    def _go_on(self) -> None:
        if self._may_write and not self._transport.is_closing():
            self._transport.write(self._chunk)
            asyncio.get_running_loop().call_soon(self._go_on)


def flood(port: int, kind: str, count: int, path: str) -> None:
    """Flood until the process is ended."""

    async def run() -> None:
        chunk, loop = KINDS[kind](), asyncio.get_running_loop()
        for number in range(count):
            await loop.create_connection(partial(Flood, path, f"flood-{number}", chunk), "127.0.0.1", port)
        await asyncio.sleep(300)

    os.sched_setscheduler(
        0, os.SCHED_IDLE, os.sched_param(0)
    )  # it takes only CPU time that nothing else wants
    uvloop.run(run())


@contextmanager
def first() -> Iterator[None]:
    """Let this process run before all others, so that latencies are the replica's."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(1))
    except PermissionError:
        print("latencies include waiting for a core: run as root", file=sys.stderr)
        yield
        return
    try:
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


class Calm(asyncio.Protocol):
    """Sends the time once a second, and measures until it comes back."""

    def __init__(self, client_id: str, first_s: float, latencies_s: list[float]) -> None:
        self._client_id, self._first_s, self._latencies_s = client_id, first_s, latencies_s
        self.accepted = asyncio.get_running_loop().create_future()
        self._sent_at_s = self._due_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Shake hands."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(handshake("/calm", self._client_id))

    def data_received(self, data: bytes) -> None:
        """Note how long it took."""
        if not self.accepted.done():
            self.accepted.set_result(None)
            self._due_s = asyncio.get_running_loop().time() + self._first_s
            asyncio.get_running_loop().call_at(self._due_s, self._send)
        elif self._sent_at_s:
            self._latencies_s.append(time.perf_counter() - self._sent_at_s)
            self._sent_at_s = 0.0

    def _send(self) -> None:
        if not self._sent_at_s:  # else it still waits, and that is measured
            self._sent_at_s = time.perf_counter()
            self._transport.write(frame(1, b"calm"))
        # Not one second from now: after a pause, all that were late would send together from then on.
        self._due_s += 1.0
        asyncio.get_running_loop().call_at(self._due_s, self._send)


@dataclass(frozen=True, slots=True)
class Row:
    """What one flood did."""

    kind: str
    count: int
    where: str
    p99_ms: float
    calm_p99_ms: float
    longest_turn_ms: float
    mb_each: float
    online: int
    leases_refused: int

    @property
    def ratio(self) -> float:
        """p99 during the flood, beside p99 before it."""
        return self.p99_ms / self.calm_p99_ms

    def __str__(self) -> str:
        return (
            f"| {self.kind} | {self.count} | {self.where} | {self.calm_p99_ms:.1f} | {self.p99_ms:.1f} "
            f"| {self.ratio:.2f} | {self.longest_turn_ms:.1f} | {self.mb_each:.2f} "
            f"| {self.online} | {self.leases_refused} |"
        )


HEAD = """\
| flood | from | | p99 calm, ms | p99, ms | ratio | longest turn, CPU ms | MB each | shown | leases lost |
|---|---:|---|---:|---:|---:|---:|---:|---:|---:|"""


@contextmanager
def replicas(stack: ExitStack, loop: str) -> Iterator[tuple[int, int, ChildProcess]]:
    """Run two replicas on one Redis; yield their ports, and the process of the first."""
    valkey = find_row("valkey-9.1")
    if isinstance(valkey, Missing):
        raise SystemExit(valkey.reason)
    redis = stack.enter_context(RedisServer(valkey))
    told = environment(Stage(redis.url, f"floods-{loop}"), "")
    ports = free_port(), free_port()
    words = f"-m uvicorn benchmarks.apps.flooded:app --loop {loop} --http {LOOPS[loop]} --log-level warning"
    processes = []
    for port, core in zip(ports, (OWN_CORE, OTHER_CORES), strict=True):
        command = [sys.executable, *words.split(), "--port", str(port)]
        os.sched_setaffinity(0, core)
        process = ChildProcess(command, environment=told, directory=PROJECT)
        processes.append(stack.enter_context(process))
    deadline_s = time.monotonic() + 20
    for port in ports:
        while True:
            try:
                get(port, "/state")
                break
            except OSError:
                assert time.monotonic() < deadline_s, "a replica did not start"
                time.sleep(0.05)
    yield ports[0], ports[1], processes[0]


def p99_ms(latencies_s: list[float]) -> float:
    """Return the 99th percentile in milliseconds."""
    return statistics.quantiles(latencies_s, n=100)[98] * 1000


class Bench:
    """Calm clients of one replica, and a flood beside them."""

    def __init__(self, flooded: int, observer: int, process: ChildProcess, seconds: float) -> None:
        self._flooded, self._observer, self._pids = flooded, observer, tree(process.pid)
        self._seconds = seconds
        self._latencies_s: list[float] = []

    async def run(self, kind: str, count: int, path: str) -> Row:
        """Measure a flood; calm before it."""
        loop = asyncio.get_running_loop()
        for number in range(CALM):
            _, client = await loop.create_connection(
                partial(Calm, f"calm-{number}", number / CALM, self._latencies_s),
                "127.0.0.1",
                self._flooded,
            )
            await client.accepted
        await self._ask("/watch")
        return await self._measure(kind, count, path)

    async def _measure(self, kind: str, count: int, path: str) -> Row:
        calm_ms, _ = await self._listen()
        before, state = rss_bytes(self._pids), json.loads(await self._ask("/state"))
        attack = multiprocessing.Process(target=flood, args=(self._flooded, kind, count, path), daemon=True)
        attack.start()
        try:
            await asyncio.sleep(1.0)
            await self._ask("/state")  # the turn in which twenty connections were made does not count
            flooded_ms, shown = await self._listen()
            held = rss_bytes(self._pids)
            after = json.loads(await self._ask("/state"))
        finally:
            attack.kill()
            attack.join()
        return Row(
            kind, count, PATHS[path], flooded_ms, calm_ms, after["longest_turn_ms"], (held - before) / count / 1e6,
            shown, after["leases_refused"] - state["leases_refused"],
        )  # fmt: skip

    async def _listen(self) -> tuple[float, int]:
        """Return p99 of the echoes, and how many calm clients the other replica has shown at least."""
        self._latencies_s.clear()
        shown, end_s = [], time.monotonic() + self._seconds
        while time.monotonic() < end_s:
            await asyncio.sleep(0.5)
            shown.append(int(await asyncio.to_thread(get, self._observer, "/online?prefix=calm-")))
        return p99_ms(self._latencies_s), min(shown)

    async def _ask(self, path: str) -> str:
        return await asyncio.to_thread(get, self._flooded, path)


def measure(loop: str, kind: str, count: int, path: str, seconds: float) -> Row:
    """Measure a flood of replicas of its own: what a former flood has left in the kernel is still parsed."""
    with ExitStack() as stack, replicas(stack, loop) as (flooded, observer, process), first():
        return uvloop.run(Bench(flooded, observer, process, seconds).run(kind, count, path))


def main() -> None:
    """Print a table for each event loop."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--loop", choices=LOOPS, action="append")
    parser.add_argument("--kind", choices=KINDS, action="append")
    parser.add_argument("--connections", type=int, action="append")
    parser.add_argument("--seconds", type=float, default=6.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3, help="the one with the median ratio is shown")
    options = parser.parse_args()
    raise_file_limit(8192)
    for loop in options.loop or LOOPS:
        print(f"\n{loop}\n\n{HEAD}", flush=True)
        for kind, count, path in product(options.kind or KINDS, options.connections or COUNTS, PATHS):
            rounds = [measure(loop, kind, count, path, options.seconds) for _ in range(options.rounds)]
            print(sorted(rounds, key=lambda row: row.ratio)[options.rounds // 2], flush=True)


if __name__ == "__main__":
    main()
