"""Findings from what servers say; ``tests/integration/test_doctor.py`` asks real ones."""

from dataclasses import replace
from typing import Any

import pytest

from fastapi_websocket_stabilizer.backends.log_ports import LogBounds
from fastapi_websocket_stabilizer.backends.policies import Policy
from fastapi_websocket_stabilizer.backends.redis.doctor.diagnosis import (
    Facts,
    Finding,
    Level,
    diagnose,
    diagnose_history,
    diagnose_replicas,
    diagnose_slots,
)

INFO = {
    "redis_version": "7.0.15",
    "role": "master",
    "maxmemory_policy": "noeviction",
    "maxmemory": "0",
    "connected_clients": "10",
    "maxclients": "10000",
}
SETTINGS = {
    "client-output-buffer-limit": "normal 0 0 0 slave 0 0 0 pubsub 33554432 8388608 60",
    "timeout": "0",
    "tcp-keepalive": "300",
}
GOOD = Facts("", INFO, SETTINGS, 0.0, [0.001], [], "the rule")


def wrong(facts: Facts) -> list[tuple[str, Level]]:
    return [(finding.check, finding.level) for finding in diagnose(facts) if finding.level is not Level.OK]


def test_a_good_server_needs_nothing() -> None:
    assert wrong(GOOD) == []
    assert all(not finding.advice for finding in diagnose(GOOD))


@pytest.mark.parametrize(
    ("info", "found"),
    [
        ({"redis_version": "6.0.16"}, ("version", Level.CHANGE)),
        ({"role": "slave"}, ("role", Level.CHANGE)),
        ({"redis_mode": "cluster"}, ("mode", Level.CHANGE)),
        ({"server_mode": "sentinel"}, ("mode", Level.CHANGE)),
        ({"used_memory": "95", "maxmemory": "100"}, ("memory", Level.CHANGE)),
        ({"maxmemory_policy": "volatile-ttl", "maxmemory": "1"}, ("eviction", Level.CHANGE)),
        ({"maxmemory_policy": "volatile-ttl"}, ("eviction", Level.NOTE)),
        ({"connected_clients": "8001"}, ("clients", Level.CHANGE)),
    ],
)
def test_what_info_says_is_judged(info: dict[str, str], found: tuple[str, Level]) -> None:
    assert wrong(replace(GOOD, info={**INFO, **info})) == [found]


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"clock_difference_s": -1.5}, ("clock", Level.NOTE)),
        ({"round_trips_s": [0.06, 0.06, 0.001]}, ("latency", Level.CHANGE)),
        ({"refused": ["hset"]}, ("rights", Level.CHANGE)),
        ({"refused": ["rpush", "hset"]}, ("rights", Level.CHANGE)),
        ({"refused": ["rpush", "pexpire"]}, ("rights", Level.NOTE)),
        ({"settings": {**SETTINGS, "timeout": "59"}}, ("idle timeout", Level.CHANGE)),
        ({"settings": {**SETTINGS, "tcp-keepalive": "301"}}, ("tcp-keepalive", Level.CHANGE)),
    ],
)
def test_what_was_measured_or_set_is_judged(change: dict[str, Any], found: tuple[str, Level]) -> None:
    assert wrong(replace(GOOD, **change)) == [found]


STORES = replace(GOOD, policy=Policy({"chat:": LogBounds(500, 80_000, 120)}, LogBounds(500, 40_000, 120)))


@pytest.mark.parametrize(
    ("info", "found"),
    [
        ({}, []),
        ({"used_memory": "5000000", "maxmemory": "15000000"}, []),
        ({"used_memory": "5000001", "maxmemory": "15000000"}, [("log memory", Level.NOTE)]),
        ({"used_memory": "850000", "maxmemory": "949999"}, [("log memory", Level.CHANGE)]),
        ({"maxmemory_policy": "volatile-ttl"}, [("eviction", Level.NOTE)]),
    ],
)
def test_memory_for_logs_is_compared_with_what_is_left(
    info: dict[str, str], found: list[tuple[str, Level]]
) -> None:
    assert wrong(replace(STORES, info={**INFO, **info})) == found


def test_size_of_full_logs_is_said() -> None:
    (finding,) = [each for each in diagnose(STORES) if each.check == "log memory"]
    assert finding.found == 'up to 100000 bytes for "chat:", 50000 bytes for everybody; no maxmemory'
    limited = replace(STORES, info={**INFO, "used_memory": "1", "maxmemory": "100000001"})
    (finding,) = [each for each in diagnose(limited) if each.check == "log memory"]
    assert finding.found.endswith("; 1000 of the largest fit into the rest of maxmemory")


@pytest.mark.parametrize(
    ("policy", "keys"),
    [("volatile-lru", "stored messages (log, top, box)"), ("allkeys-lru", "any key: leases")],
)
def test_keys_that_may_be_evicted_are_named(policy: str, keys: str) -> None:
    for facts in (GOOD, STORES):
        evicting = replace(facts, info={**INFO, "maxmemory_policy": policy})
        (finding,) = [each for each in diagnose(evicting) if each.check == "eviction"]
        assert keys in finding.advice
        assert ("clients that return to a quiet room are told of a loss" in finding.advice) == bool(
            facts.policy
        )


def test_permissions_to_store_must_be_there_when_messages_are_stored() -> None:
    assert wrong(replace(STORES, refused=["rpush"])) == [("rights", Level.CHANGE)]


def test_policy_and_the_replicas_that_do_not_follow_it() -> None:
    text = STORES.policy.text
    same = b'{"name":"a","settings":{"stored":"\\"chat:\\", everybody"}}'
    assert diagnose_history(text, [same]) == Finding("history", "", 'stores "chat:", everybody')
    other = diagnose_history(text, [same, b'{"name":"b","settings":{}}', None])
    assert other.level is Level.CHANGE
    assert other.advice.endswith("different: b stores nothing; unknown stores nothing")
    switched_off = diagnose_history(Policy().text, [same])
    assert switched_off.advice.endswith('different: a stores "chat:", everybody')
    opened = diagnose_history(replace(STORES.policy, is_open=True).text, [same])
    assert (opened.level, "the next one that starts decides" in opened.advice) == (Level.NOTE, True)
    assert diagnose_history("{", []).advice == "stabilizer policy --reset"


def test_replica_is_no_trouble_where_one_is_expected_as_long_as_it_copies() -> None:
    replica = replace(GOOD, info={**INFO, "role": "slave", "master_link_status": "up"}, is_replica=True)
    assert wrong(replica) == []
    alone = replace(replica, info={**replica.info, "master_link_status": "down"})
    assert wrong(alone) == [("role", Level.CHANGE)]


def test_in_a_cluster_a_server_alone_is_none() -> None:
    assert wrong(replace(GOOD, kind="cluster")) == [("mode", Level.CHANGE)]
    assert wrong(replace(GOOD, kind="cluster", info={**INFO, "server_mode": "cluster"})) == []
    assert wrong(replace(GOOD, kind="sentinel")) == []


def test_service_without_a_replica_is_a_note() -> None:
    assert [diagnose_replicas(count).level for count in (0, 1)] == [Level.NOTE, Level.OK]


def test_bounds_themselves_are_good_enough() -> None:
    settings = {**SETTINGS, "timeout": "60", "client-output-buffer-limit": "pubsub 0 0 0"}
    info = {**INFO, "connected_clients": "8000", "redis_version": "6.2.0"}
    assert (
        wrong(replace(GOOD, settings=settings, info=info, round_trips_s=[0.05], clock_difference_s=1.0)) == []
    )


def test_what_may_not_be_asked_is_a_note() -> None:
    found = wrong(replace(GOOD, settings=None))
    assert found == [(check, Level.NOTE) for check in ("output buffer", "idle timeout", "tcp-keepalive")]


def test_valkey_is_called_by_its_own_version() -> None:
    facts = replace(GOOD, info={**INFO, "valkey_version": "9.1.2"})
    assert diagnose(facts)[0].found == "Valkey 9.1.2"


def test_slots_without_an_owner_and_primaries_without_a_replica_are_counted() -> None:
    one, two = [b"a", 1, b"id"], [b"b", 2, b"id"]
    slots, replicas = diagnose_slots([[0, 99, one, two], [200, 16383, two]])
    assert (slots.found, slots.level) == ("16284 of 16384 slots have an owner", Level.CHANGE)
    assert (replicas.found, replicas.level) == ("1 of 2 primaries have no replica", Level.NOTE)
