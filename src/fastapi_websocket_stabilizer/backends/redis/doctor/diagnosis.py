"""Findings about a registry's Redis, derived from the facts that ``examination`` collects. Pure."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from statistics import median
from typing import Any

from ....exceptions import ConfigurationError
from ....wire.envelopes import MAX_ENVELOPE_BYTES
from ...policies import Policy, stored_by
from ..cluster.slots import SLOTS
from ..connection import OLDEST_VERSION, server_mode
from .rights import KEPT

LEAST_BUFFER_BYTES = 2 * MAX_ENVELOPE_BYTES
"""Minimum output buffer of a subscriber in bytes. The largest envelope must fit behind others."""
LEAST_IDLE_S = 60
"""Minimum idle timeout in seconds: several beats, so that Redis does not close idle connections between two."""
LONGEST_KEEPALIVE_S = 300
LARGEST_CLOCK_DIFFERENCE_S = 1.0
SLOW_S = 0.05
"""Maximum median round trip in seconds. A send to another node needs one, a claim in a cluster two."""
FULL = 0.9
"""Fraction of ``maxmemory`` above which a burst of clients may fill it, and Redis rejects every write."""
LEAST_LOGS = 100
"""Full logs that the rest of ``maxmemory`` should hold. Each active room with a history has one."""
CROWDED = 0.8
"""Fraction of ``maxclients`` above which a restart of all nodes may exceed it."""


NO_LOGS = Policy()


class Level(Enum):
    """The severity of a finding."""

    OK = "ok"
    NOTE = "note"
    CHANGE = "must change"


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check.

    Attributes:
        server: The name of the server; "" for all together.
        advice: The recommended action; "" if the level is OK.
    """

    check: str
    server: str
    found: str
    advice: str = ""
    level: Level = Level.OK


@dataclass(frozen=True, slots=True)
class Facts:
    """The facts about one server.

    Attributes:
        info: All fields of INFO.
        settings: CONFIG GET by name; None without permission.
        clock_difference_s: Seconds by which its clock is ahead of the local one.
        round_trips_s: Seconds of several PINGs.
        refused: Commands, keys and channels that the user may not use.
        rule: The ACL rule that allows them.
        kind: The kind of location in the URL.
        is_replica: Whether it was found as a replica.
        policy: The messages that the registry stores.
    """

    server: str
    info: Mapping[str, str]
    settings: Mapping[str, str] | None
    clock_difference_s: float
    round_trips_s: list[float]
    refused: list[str]
    rule: str
    kind: str = "server"
    is_replica: bool = False
    policy: Policy = NO_LOGS


def diagnose(facts: Facts) -> list[Finding]:
    """Return one finding for each check of one server."""
    of_server = [_version, _mode, _role, _eviction, _memory, _buffers, _idle, _keepalive, _clients]
    of_logs = [_logs] if facts.policy else []
    return [check(facts) for check in (*of_server, *of_logs, _rights, _clock, _latency)]


def diagnose_slots(ranges: Iterable[list[Any]]) -> list[Finding]:
    """Return the findings about a CLUSTER SLOTS reply: unassigned slots, and primaries without replicas."""
    ranges = list(ranges)
    missing = SLOTS - sum(last - first + 1 for first, last, *_ in ranges)
    alone = {tuple(primary[:3]) for _, _, primary, *replicas in ranges if not replicas}
    slots = f"{SLOTS - missing} of {SLOTS} slots have an owner"
    lone = f"{len(alone)} of {len({tuple(row[2][:3]) for row in ranges})} primaries have no replica"
    return [
        _finding("slots", "", slots, missing, "bring the primaries of the others back, or assign the slots"),
        _finding(
            "replicas",
            "",
            lone,
            alone,
            "add a replica to each: without one its slots end with it",
            Level.NOTE,
        ),
    ]


def diagnose_replicas(count: int) -> Finding:
    """Return the finding about the number of replicas of a primary behind Sentinels."""
    advice = "add a replica: without one the Sentinels have nobody to promote"
    return _finding("replicas", "", f"{count} replicas", not count, advice, Level.NOTE)


def diagnose_history(policy: str, infos: Iterable[bytes | None]) -> Finding:
    """Return the finding about stored messages: the policy, and the nodes that do not follow it.

    Args:
        policy: The text in Redis; "" if there is none.
        infos: The descriptions of the live nodes.
    """
    try:
        found = Policy.read(policy)
    except ConfigurationError as error:
        return Finding("history", "", str(error), "stabilizer policy --reset", Level.CHANGE)
    others = [f"{name} stores {what}" for name, what in map(stored_by, infos) if what != found.stored]
    if others:
        advice = (
            f"give all replicas the same history, history_for_all and mailbox; different: {'; '.join(others)}"
        )
        return Finding("history", "", f"stores {found.stored}", advice, Level.CHANGE)
    advice = "deploy the replicas with the new settings: the next one that starts decides"
    return _finding("history", "", f"stores {found.stored}", found.is_open, advice, Level.NOTE)


def _finding(
    check: str, server: str, found: str, is_wrong: object, advice: str, level: Level = Level.CHANGE
) -> Finding:
    return Finding(check, server, found, advice, level) if is_wrong else Finding(check, server, found)


def _version(facts: Facts) -> Finding:
    redis = facts.info.get("redis_version", "0.0")
    found = f"Valkey {facts.info['valkey_version']}" if "valkey_version" in facts.info else f"Redis {redis}"
    major, minor = (int(part) for part in redis.split(".")[:2])
    oldest = ".".join(map(str, OLDEST_VERSION))
    return _finding("version", facts.server, found, (major, minor) < OLDEST_VERSION, f"use {oldest} or newer")


def _mode(facts: Facts) -> Finding:
    mode, wanted = server_mode(facts.info), "cluster" if facts.kind == "cluster" else "standalone"
    scheme = "redis" if mode == "standalone" else f"redis+{mode}"
    return _finding("mode", facts.server, mode, mode != wanted, f"the URL must begin with {scheme}://")


def _role(facts: Facts) -> Finding:
    role, link = facts.info.get("role", "unknown"), facts.info.get("master_link_status", "up")
    if facts.is_replica:
        found = role if link == "up" else f"{role}, master_link_status {link}"
        advice = "it does not copy its primary: its log says why (masterauth, masteruser, network)"
        return _finding("role", facts.server, found, link != "up", advice)
    advice = "a replica takes no writes: name the primary in the URL, or Sentinels or a cluster"
    return _finding("role", facts.server, role, role != "master", advice)


def _eviction(facts: Facts) -> Finding:
    policy, limit = facts.info.get("maxmemory_policy", "unknown"), facts.info.get("maxmemory", "0")
    found = f"{policy}, maxmemory {limit}"
    advice = f"CONFIG SET maxmemory-policy noeviction: {_evicted(policy)}"
    if facts.policy:
        advice += "; clients that return to a quiet room are told of a loss, also before anything is evicted"
    level = Level.CHANGE if limit != "0" else Level.NOTE
    return _finding("eviction", facts.server, found, policy != "noeviction", advice, level)


def _evicted(policy: str) -> str:
    """Return what a policy evicts of the library's keys."""
    if policy.startswith("volatile"):
        return "it evicts stored messages (log, top, box), sessions, tokens and descriptions of replicas"
    return "it evicts any key: leases, presence, rooms, stored messages, sessions, tokens"


def _logs(facts: Facts) -> Finding:
    """Compare the size of full logs with the memory that is left. The number of rooms and clients is not known."""
    sizes = {json.dumps(prefix): bounds.most_bytes for prefix, bounds in facts.policy.rooms.items()}
    if facts.policy.everybody is not None:
        sizes["everybody"] = facts.policy.everybody.most_bytes
    if facts.policy.mailbox is not None:
        sizes["a mailbox"] = facts.policy.mailbox.most_bytes
    used, limit = (int(facts.info.get(name, "0")) for name in ("used_memory", "maxmemory"))
    fit = max(0, limit - used) // max(sizes.values())
    full = ", ".join(f"{size} bytes for {name}" for name, size in sizes.items())
    room = f"{fit} of the largest fit into the rest of maxmemory" if limit else "no maxmemory"
    advice = "raise maxmemory, or lower bytes of the histories: at the limit, stored messages raise errors"
    level = Level.NOTE if fit else Level.CHANGE
    return _finding(
        "log memory", facts.server, f"up to {full}; {room}", limit and fit < LEAST_LOGS, advice, level
    )


def _memory(facts: Facts) -> Finding:
    used, limit = (int(facts.info.get(name, "0")) for name in ("used_memory", "maxmemory"))
    advice = "raise maxmemory: when it is reached, Redis refuses every claim, join and token"
    found = f"{used} of {limit or 'any number of'} bytes"
    return _finding("memory", facts.server, found, limit and used > FULL * limit, advice)


def _unknown(check: str, facts: Facts, name: str) -> Finding:
    advice = f"this user may not ask: have an administrator look at CONFIG GET {name}"
    return Finding(check, facts.server, "not known", advice, Level.NOTE)


def _buffers(facts: Facts) -> Finding:
    name = "client-output-buffer-limit"
    words = (facts.settings or {}).get(name, "").split()
    if "pubsub" not in words:
        return _unknown("output buffer", facts, name)
    hard, soft, seconds = map(int, words[words.index("pubsub") + 1 :][:3])
    found = f"pubsub {hard} {soft} {seconds}"
    advice = f"CONFIG SET {name} 'pubsub {LEAST_BUFFER_BYTES} 8388608 60' or more: one large message cuts nodes off"
    return _finding("output buffer", facts.server, found, 0 < hard < LEAST_BUFFER_BYTES, advice)


def _idle(facts: Facts) -> Finding:
    seconds = (facts.settings or {}).get("timeout")
    if seconds is None:
        return _unknown("idle timeout", facts, "timeout")
    advice = (
        f"CONFIG SET timeout 0, or at least {LEAST_IDLE_S}: else it ends our connections between two beats"
    )
    return _finding("idle timeout", facts.server, f"{seconds} s", 0 < int(seconds) < LEAST_IDLE_S, advice)


def _keepalive(facts: Facts) -> Finding:
    seconds = (facts.settings or {}).get("tcp-keepalive")
    if seconds is None:
        return _unknown("tcp-keepalive", facts, "tcp-keepalive")
    advice = "CONFIG SET tcp-keepalive 60: else subscribers that vanished are kept, and their buffers grow"
    is_wrong = not 0 < int(seconds) <= LONGEST_KEEPALIVE_S
    return _finding("tcp-keepalive", facts.server, f"{seconds} s", is_wrong, advice)


def _clients(facts: Facts) -> Finding:
    connected, most = (int(facts.info.get(name, "0")) for name in ("connected_clients", "maxclients"))
    advice = "raise maxclients, and the limit of open files with it"
    is_wrong = most and connected > CROWDED * most
    return _finding("clients", facts.server, f"{connected} of {most}", is_wrong, advice)


def _rights(facts: Facts) -> Finding:
    found = f"{len(facts.refused)} refused" if facts.refused else "all that we need"
    advice = f"ACL SETUSER <user> {facts.rule} (refused now: {', '.join(facts.refused)})"
    if set(facts.refused) <= {*KEPT} and not facts.policy:
        advice = f"before messages are stored, or clients use stabilizer.v1: {advice}"
        return _finding("rights", facts.server, found, facts.refused, advice, Level.NOTE)
    return _finding("rights", facts.server, found, facts.refused, advice)


def _clock(facts: Facts) -> Finding:
    found = f"{facts.clock_difference_s:+.3f} s"
    advice = "synchronise the clocks (NTP): leases do not mind, but times shown to people differ"
    is_wrong = abs(facts.clock_difference_s) > LARGEST_CLOCK_DIFFERENCE_S
    return _finding("clock", facts.server, found, is_wrong, advice, Level.NOTE)


def _latency(facts: Facts) -> Finding:
    typical_s, worst_s = median(facts.round_trips_s), max(facts.round_trips_s)
    found = f"median {typical_s * 1000:.1f} ms, worst {worst_s * 1000:.1f} ms"
    advice = "run Redis nearer to the nodes, or find what keeps it busy (SLOWLOG GET, LATENCY DOCTOR)"
    return _finding("latency", facts.server, found, typical_s > SLOW_S, advice)
