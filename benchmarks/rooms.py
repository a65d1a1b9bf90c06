"""What is measured of rooms: history, ``stabilizer.v1``, and clients that come back. All systems take turns."""

import time
from dataclasses import dataclass, replace
from typing import Any, Self

from .measures import WARM_UP_CLIENTS, Burst, Counted, Session, kib, rate, send
from .processes import cpu_ns

PLAIN, RECORDED = "plain", "re:lo"
"""Names of the same length. Messages to rooms whose name begins with ``re:`` are stored."""
THREE_ROOMS = ("re:a1", "re:b2", "re:c3")
MESSAGE_SIZE, HEADER_SIZE = 128, 4
"""Bytes of a message, and of the header of a frame with one."""
TURNS_SHARE = 3
"""Samples that share the CPU time of one, because many short turns are more alike than a few long ones."""
IDLE_TIMEOUT_S, LOOK_S = 60.0, 0.25
READING = ("lrange", "xrange", "xrevrange")
"""Commands that read entries."""


def bursts(session: Session) -> None:
    """(k) Bursts to a room that is not recorded, and to one that is, several messages in flight."""
    load, sessions = session.load, [session, *session.beside]
    for each in sessions:
        each.enter(load.clients, PLAIN, RECORDED)
        each.settle()
        each.load = replace(load, sample_cpu_s=load.sample_cpu_s / TURNS_SHARE)
    for _ in range(load.turns):
        for each in sessions:
            for measure, room in (("room", PLAIN), ("room_recorded", RECORDED)):
                if each.system.records or room == PLAIN:
                    rate(each, measure, Burst(load.broadcasts, load.in_flight, more={"room": room}))
    for each in sessions:
        if each.system.records:
            _bytes_around(each)


def _bytes_around(session: Session) -> None:
    """Record the bytes of a stored message beside the message, when each has a frame of its own."""
    counted, seen = Counted(), 0
    for _ in range(session.load.awaited):
        send(session, Burst(1, 1, more={"room": RECORDED}), counted)
        seen += session.clients.counters()["bytes"]
    each = seen / max(1, counted.received)
    session.record("room_bytes", {"around_bytes": each - MESSAGE_SIZE - HEADER_SIZE}, counted)


def memory(session: Session) -> None:
    """(m) Memory of an idle connection in three recorded rooms."""
    load, cluster = session.load, session.cluster
    session.enter(min(WARM_UP_CLIENTS, load.memory_clients), *THREE_ROOMS)
    session.clients.close()
    session.settle()
    before = cluster.rss_bytes()
    session.enter(load.memory_clients, *THREE_ROOMS)
    session.settle()
    session.record("memory_rooms", {"kib": kib(cluster.rss_bytes() - before, session.clients.count)})


def storm(session: Session) -> None:
    """(l) Many clients that come back at once to one room with a long log, and as many that only connect."""
    load = session.load
    for each in session.beside:
        each.enter(min(WARM_UP_CLIENTS, load.large_clients), PLAIN)
        each.clients.close()
        each.clients.expect(each.members(load.large_clients, PLAIN))
        _come_back(each, "storm", 0, 0)
        each.clients.close()
    _publish(session, load.log_entries, RECORDED)
    session.enter(load.large_clients, RECORDED)
    _come_back(session, "storm", load.storm_missed, _miss(session, load.storm_missed))


def away(session: Session) -> None:
    """(n) Clients that are away for some seconds, and are sent what they missed."""
    for each in (each for each in [session, *session.beside] if each.system.resumes):
        missed = each.load.missed
        _publish(each, missed, RECORDED)
        each.enter(each.load.clients, RECORDED)
        _come_back(each, "away", missed, _miss(each, missed))
        each.clients.close()


def _publish(session: Session, count: int, room: str) -> int:
    """Send messages to a room, and return the sum of their numbers."""
    first = session.numbers(count)
    session.cluster.order(count=count, in_flight=session.load.in_flight, first=first, room=room)
    return sum(range(first, first + count))


@dataclass(frozen=True, slots=True)
class _Usage:
    """What the servers and Redis have done so far."""

    server_ns: int
    redis_ns: int
    commands: int
    reads: int

    @classmethod
    def of(cls, session: Session) -> Self:
        """Ask the kernel and Redis."""
        commands: Any = session.valkey.info("commandstats")
        calls = {name.removeprefix("cmdstat_"): row["calls"] for name, row in commands.items()}
        pid = int(session.valkey.info("server")["process_id"])  # type: ignore[index,arg-type,unused-ignore]
        return cls(
            server_ns=session.cluster.cpu_ns(),
            redis_ns=cpu_ns([pid]),
            commands=sum(calls.values()) - calls.get("info", 0),
            reads=sum(calls.get(name, 0) for name in READING),
        )


def _miss(session: Session, count: int) -> int:
    """Have all clients leave and miss messages; return the sum of their numbers."""
    session.settle()
    session.clients.leave()
    _wait_until_idle(session)  # ten thousand releases would delay what is stored behind them
    time.sleep(session.load.away_s)
    return _publish(session, count, RECORDED)


def _wait_until_idle(session: Session) -> None:
    """Wait until the servers use less than a tenth of a core, a minute at most."""
    deadline_s = time.monotonic() + IDLE_TIMEOUT_S
    before_ns = session.cluster.cpu_ns()
    while time.monotonic() < deadline_s:
        time.sleep(LOOK_S)
        now_ns = session.cluster.cpu_ns()
        if now_ns - before_ns < LOOK_S * 1e9 / 10:
            return
        before_ns = now_ns


def _come_back(session: Session, measure: str, missed: int, sequences: int) -> None:
    """Have all clients come back together; each has missed so many messages with this sum of numbers."""
    session.clients.reset()
    count, before = session.clients.count, _Usage.of(session)
    whole_s = session.clients.come_back(missed * count)
    session.settle()
    after = _Usage.of(session)
    expected = missed * count
    counted = Counted(
        expected=expected,
        received=session.clients.counters()["messages"],
        wrong=session.clients.incomplete(missed, sequences),
    )
    values = {
        "cpu_us": (after.server_ns - before.server_ns) / 1e3 / count,
        "whole_ms": whole_s * 1e3,
        "redis_ms": (after.redis_ns - before.redis_ns) / 1e6,
        "commands": (after.commands - before.commands) / count,
        "reads": float(after.reads - before.reads),
    }
    session.record(measure, values, counted)
