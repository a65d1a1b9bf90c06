"""How many replicas, how much memory and how much Redis a load needs: ``python -m benchmarks.capacity``.

The costs are those measured for ``docs/benchmarks.md``; the formulae are explained in ``docs/capacity.md``.
"""

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

DEFAULT_SIZES = (10_000, 100_000, 1_000_000, 10_000_000)


@dataclass(frozen=True, slots=True)
class Costs:
    """What one unit costs; CPU of one core in microseconds. Put your own measurements here."""

    connection_kib: float = 6.5
    """Resident memory of a parked connection with its registration."""
    replica_mib: float = 65.0
    """Resident memory of a replica before its first connection."""
    connect_us: float = 480.0
    idle_us: float = 1.2
    """Each second, for each connection: heartbeat pings and their answers."""
    delivery_us: float = 5.1
    """One message written to one socket, when messages come one at a time."""
    bus_message_us: float = 35.0
    """One message read from the bus by one replica."""
    publish_us: float = 30.0
    """One broadcast, for the replica that sends it."""
    send_us: float = 18.6
    """One direct send, both replicas together."""
    redis_delivery_us: float = 1.5
    """One published message handed to one replica: 650,000 a second at most, by Centrifugo's measurement."""
    redis_publish_us: float = 3.0
    redis_claim_us: float = 48.0
    """Registering and releasing one connection."""
    redis_connection_bytes: float = 250.0


@dataclass(frozen=True, slots=True)
class Load:
    """What the application does."""

    connections: int
    broadcasts: float = 1.0
    """To everybody, each second."""
    room_messages: float = 0.05
    """To a room, each second, by each connection."""
    room_size: float = 10.0
    direct_messages: float = 0.05
    """To a client, each second, by each connection."""
    reconnects: float = 0.001
    """Share of the connections that come anew each second; a deploy is 1 divided by its seconds."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """How full a replica and a Redis may be."""

    connections_per_replica: int = 50_000
    cpu_share: float = 0.6
    """Of a core, at most: what is left serves bursts and reconnects."""
    redis_share: float = 0.6


@dataclass(frozen=True, slots=True)
class Plan:
    """What a load needs.

    Attributes:
        cpu_share: Of one core, for each replica.
        replica_mib: Memory of each replica.
        redis_share: Of one Redis' core; above ``Bounds.redis_share`` it takes ``primaries``.
        deliveries: Messages written to sockets, each second.
    """

    replicas: int
    cpu_share: float
    replica_mib: float
    redis_share: float
    redis_mib: float
    primaries: int
    deliveries: float


def replicas_with_members(replicas: int, room_size: float) -> float:
    """Return how many replicas hold at least one of ``room_size`` members that are spread at random."""
    return replicas * (1 - math.pow(1 - 1 / replicas, room_size))


def cpu_us(load: Load, replicas: int, costs: Costs) -> float:
    """Return what all replicas together compute each second."""
    connections = load.connections
    room_messages = load.room_messages * connections
    heard = load.broadcasts * replicas + room_messages * replicas_with_members(replicas, load.room_size)
    return (
        connections * (costs.idle_us + load.reconnects * costs.connect_us)
        + deliveries(load) * costs.delivery_us
        + heard * costs.bus_message_us
        + (load.broadcasts + room_messages) * costs.publish_us
        + load.direct_messages * connections * costs.send_us
    )


def deliveries(load: Load) -> float:
    """Return how many messages are written to sockets each second, direct ones apart."""
    return load.connections * (load.broadcasts + load.room_messages * load.room_size)


def redis_us(load: Load, replicas: int, costs: Costs) -> float:
    """Return what Redis computes each second."""
    room_messages = load.room_messages * load.connections
    heard = load.broadcasts * replicas + room_messages * replicas_with_members(replicas, load.room_size)
    direct = load.direct_messages * load.connections
    return (
        (heard + direct) * costs.redis_delivery_us
        + (load.broadcasts + room_messages + direct) * costs.redis_publish_us
        + load.connections * load.reconnects * costs.redis_claim_us
    )


def plan(load: Load, costs: Costs, bounds: Bounds) -> Plan:
    """Return the smallest number of replicas that stay within the bounds, and what they need of Redis.

    Raises:
        ValueError: No number of replicas is enough: what each of them hears alone fills a core.
    """
    replicas = max(1, math.ceil(load.connections / bounds.connections_per_replica))
    while (share := cpu_us(load, replicas, costs) / replicas / 1e6) > bounds.cpu_share:
        if load.broadcasts * costs.bus_message_us / 1e6 > bounds.cpu_share:
            raise ValueError(f"{load.broadcasts:g} broadcasts a second fill a core of every replica")
        replicas = max(replicas + 1, math.ceil(replicas * share / bounds.cpu_share))
    redis_share = redis_us(load, replicas, costs) / 1e6
    return Plan(
        replicas=replicas,
        cpu_share=share,
        replica_mib=costs.replica_mib + load.connections / replicas * costs.connection_kib / 1024,
        redis_share=redis_share,
        redis_mib=load.connections * costs.redis_connection_bytes / 2**20,
        primaries=max(1, math.ceil(redis_share / bounds.redis_share)),
        deliveries=deliveries(load),
    )


def table(sizes: Sequence[int], load: Load, costs: Costs, bounds: Bounds) -> str:
    """Return a Markdown table with a row for each size."""
    lines = [
        "| connections | deliveries/s | replicas | CPU each | memory each | Redis CPU | Redis memory | primaries |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for size in sizes:
        values = {each.name: getattr(load, each.name) for each in fields(load)} | {"connections": size}
        p = plan(Load(**values), costs, bounds)
        lines.append(
            f"| {size:,} | {p.deliveries:,.0f} | {p.replicas:,} | {p.cpu_share:.0%} | {p.replica_mib:,.0f} MiB "
            f"| {p.redis_share:.0%} | {p.redis_mib:,.0f} MiB | {p.primaries} |"
        )
    return "\n".join(lines)


def _add(parser: argparse.ArgumentParser, group: str, kind: type[Costs] | type[Load] | type[Bounds]) -> None:
    options = parser.add_argument_group(group)
    for each in fields(kind):
        if each.name != "connections":
            options.add_argument(
                f"--{each.name.replace('_', '-')}", type=type(each.default), default=each.default, metavar="N",
                help=f"default {each.default:g}",
            )  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table for the sizes and rates on the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.capacity", description=__doc__)
    parser.add_argument("connections", type=int, nargs="*", default=DEFAULT_SIZES)
    for group, kind in (("load", Load), ("bounds", Bounds), ("costs", Costs)):
        _add(parser, group, kind)
    given = vars(parser.parse_args(arguments))

    def of(kind: type[Costs] | type[Load] | type[Bounds]) -> dict[str, float]:
        return {each.name: given[each.name] for each in fields(kind) if each.name != "connections"}

    bounds = Bounds(**of(Bounds))  # type: ignore[arg-type]  # argparse has made an int of the int
    print(table(given["connections"], Load(connections=0, **of(Load)), Costs(**of(Costs)), bounds))


if __name__ == "__main__":
    main()
