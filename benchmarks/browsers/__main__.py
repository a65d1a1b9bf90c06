"""Measure all clients: ``python -m benchmarks.browsers [--sizes] [--rounds 3] [clients …]``."""

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from playwright.async_api import Browser
from tests.integration.demo_support import running_browser
from tests.support.servers import RedisServer

from ..systems.base import MissingError, output_of, variable
from ..systems.socketio_node import NODE_MODULES
from .faults import FAULTS, GIVE_UP_S, MESSAGES_PER_S, Outcome, measure, median
from .packages import CLIENTS, SERVERS, Packages
from .replicas import SYSTEMS, Centrifugo


def main() -> int:
    """Measure, and print the tables as Markdown."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.browsers", description=__doc__)
    parser.add_argument("clients", nargs="*", default=list(CLIENTS), help=", ".join(CLIENTS))
    parser.add_argument("--faults", nargs="+", default=list(FAULTS), choices=list(FAULTS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sizes", action="store_true", help="print sizes only")
    options = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory(prefix="benchmarks-browsers-") as folder:
            modules = variable(NODE_MODULES)
            packages = Packages(Path(modules)) if modules else Packages.install(Path(folder))
            print_sizes(packages, options.clients)
            if not options.sizes:
                asyncio.run(print_faults(packages, options.clients, options.faults, options.rounds))
    except MissingError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def print_sizes(packages: Packages, clients: list[str]) -> None:
    """Print the size of each client."""
    print("| client | version | minified, gzipped |")
    print("|---|---|---:|")
    for client in clients:
        name = CLIENTS[client].name
        version = "" if client == "ours" else packages.version(name)
        print(f"| {name} | {version} | {packages.size(client) / 1000:.1f} kB |", flush=True)
    print(", ".join(f"{name} {packages.version(name)}" for name in SERVERS))


async def print_faults(packages: Packages, clients: list[str], faults: list[str], rounds: int) -> None:
    """Measure all clients at the same time, each with servers of its own, and print a table of all faults."""
    if "centrifuge" in clients:
        print(output_of([Centrifugo.binary(), "version"], str.strip))
    print(f"{MESSAGES_PER_S} messages a second, median of {rounds} rounds\n")
    with RedisServer() as server:
        async with running_browser() as browser:
            rows = await asyncio.gather(
                *(_row(packages, client, server.url, browser, faults, rounds) for client in clients)
            )
    print(f"| client | {' | '.join(faults)} |")
    print(f"|---|{'---|' * len(faults)}")
    for client, row in zip(clients, rows, strict=True):
        print(f"| {CLIENTS[client].name} | {' | '.join(map(_cell, row))} |")


async def _row(
    packages: Packages, client: str, redis_url: str, browser: Browser, faults: list[str], rounds: int
) -> list[Outcome]:
    script = packages.page(client)
    outcomes: dict[str, list[Outcome]] = {fault: [] for fault in faults}
    async with SYSTEMS[client](redis_url, packages.modules) as replicas:
        for number in range(rounds):
            for fault in faults:
                outcome = await measure(replicas, browser, script, FAULTS[fault])
                outcomes[fault].append(outcome)
                print(f"{client}, {fault}, round {number + 1}: {_cell(outcome)}", file=sys.stderr, flush=True)
    return [median(found) for found in outcomes.values()]


def _cell(outcome: Outcome) -> str:
    if outcome.lost is None:
        return f"not back in {GIVE_UP_S:.0f} s"
    told = " (told)" if outcome.lost and outcome.was_told else ""
    doubled = f", {outcome.doubled} doubled" if outcome.doubled else ""
    return f"{outcome.lost} lost{told}{doubled}, {outcome.silence_s:.1f} s silent"


if __name__ == "__main__":
    sys.exit(main())
