"""``stabilizer doctor`` finds what is wrong with a real Redis, and nothing with one that is right."""

import re
from collections.abc import Iterator

import pytest
from typer.testing import CliRunner, Result

from fastapi_websocket_stabilizer.cli import app
from tests.integration.test_topologies import binary_of
from tests.support.clusters import RedisCluster
from tests.support.sentinels import PASSWORD, SENTINEL_PASSWORD, SentinelGroup
from tests.support.servers import RedisServer
from tests.support.topologies import allow_least

CHECKS = (
    "version",
    "role",
    "eviction",
    "output buffer",
    "idle timeout",
    "tcp-keepalive",
    "rights",
    "latency",
)


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer(binary_of("redis-7.0")) as server:
        yield server


def doctor(url: str, *options: str) -> Result:
    return CliRunner().invoke(app, ["doctor", url, *options], env={"COLUMNS": "200"})


def advice(result: Result) -> list[str]:
    return [line for line in result.output.splitlines() if re.match("must change|note", line)]


def test_a_good_server_needs_no_change_and_keeps_no_trace(server: RedisServer) -> None:
    result = doctor(server.url)
    assert (result.exit_code, advice(result)) == (0, [])
    assert all(check in result.output for check in CHECKS)
    with server.client() as client:
        assert client.dbsize() == 0


@pytest.mark.parametrize(
    ("setting", "value", "says"),
    [
        ("maxmemory-policy", "allkeys-lru", "noeviction"),
        ("client-output-buffer-limit", "pubsub 1mb 1mb 10", "client-output-buffer-limit"),
        ("timeout", "5", "CONFIG SET timeout"),
        ("tcp-keepalive", "0", "CONFIG SET tcp-keepalive"),
    ],
)
def test_a_setting_that_must_change_is_named(
    server: RedisServer, setting: str, value: str, says: str
) -> None:
    with server.client() as client:
        before = {name: client.config_get(name)[name] for name in (setting, "maxmemory")}
        client.config_set("maxmemory", "100mb")
        client.config_set(setting, value)
        result = doctor(server.url)
        for name, former in before.items():
            client.config_set(name, former)
    (line,) = advice(result)
    assert result.exit_code == 1
    assert line.startswith("must change")
    assert says in line


def test_a_user_with_the_documented_rights_needs_no_others(server: RedisServer) -> None:
    credentials = allow_least(server, "fws", "server")
    result = doctor(f"redis://{credentials}127.0.0.1:{server.port}")
    assert result.exit_code == 0
    assert [line for line in advice(result) if "may not ask" not in line] == []
    assert "of-app" not in result.output
    assert "fws-app" not in result.output


def test_missing_rights_are_named_with_the_rule_that_gives_them(server: RedisServer) -> None:
    credentials = allow_least(server, "fws", "server")
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "fws-app", "-hset", "resetchannels", "&fws:all")
    result = doctor(f"redis://{credentials}127.0.0.1:{server.port}")
    assert result.exit_code == 1
    assert re.search(r"refused now: hset, publish, subscribe fws:\{doctor", result.output)
    assert "resetkeys ~fws:* resetchannels &fws:* -@all +ping" in result.output


def test_another_namespace_is_refused_by_its_keys(server: RedisServer) -> None:
    credentials = allow_least(server, "fws", "server")
    result = doctor(f"redis://{credentials}127.0.0.1:{server.port}", "--namespace", "chat")
    assert result.exit_code == 1
    assert "key chat:{nodes}:leases" in result.output


def test_an_old_or_absent_server_is_a_finding(server: RedisServer) -> None:
    result = doctor("redis://127.0.0.1:1", "--timeout", "0.5")
    assert result.exit_code == 1
    assert "127.0.0.1:1" in result.output
    assert "must change: connection" in result.output


def test_a_wrong_url_is_refused_without_its_password() -> None:
    result = doctor("http://user:hunter2@host")
    assert result.exit_code == 1
    assert "hunter2" not in result.output


def test_a_cluster_is_looked_at_as_a_whole_and_server_by_server() -> None:
    with RedisCluster(binary_of("redis-7.0"), arguments=("--maxmemory", "100mb")) as cluster:
        good = doctor(cluster.url)
        slot_of_first = 0
        cluster.ask(cluster.servers[0], "CLUSTER DELSLOTS", slot_of_first)
        with cluster.servers[0].client() as client:
            client.config_set("maxmemory-policy", "volatile-lru")
        bad = doctor(cluster.url)
    assert (good.exit_code, bad.exit_code) == (0, 1)
    assert advice(good) == ["note: replicas: add a replica to each: without one its slots end with it"]
    assert "16383 of 16384 slots" in bad.output
    assert f"must change: eviction 127.0.0.1:{cluster.servers[0].port}" in bad.output
    assert all(f"127.0.0.1:{server.port}" in good.output for server in cluster.servers)


def test_a_service_of_sentinels_is_looked_at_where_its_primary_is() -> None:
    with SentinelGroup(binary_of("redis-7.0")) as group:
        good, bad = doctor(group.url), doctor(group.url.replace("/main/", "/other/"))
    assert (good.exit_code, bad.exit_code) == (0, 1)
    assert "'other'" in bad.output
    assert PASSWORD not in bad.output + good.output
    assert SENTINEL_PASSWORD not in bad.output + good.output
