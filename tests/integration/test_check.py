"""``stabilizer check`` and ``stabilizer nodes``: each fault is found by its own rule, and by no other."""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from fastapi_websocket_stabilizer import WebSocketConfig, WebSocketConnectionManager
from fastapi_websocket_stabilizer.cli.check import look
from fastapi_websocket_stabilizer.cli.operator import Operator
from fastapi_websocket_stabilizer.observe import rules
from fastapi_websocket_stabilizer.observe.look import Look
from fastapi_websocket_stabilizer.observe.rules import problems
from fastapi_websocket_stabilizer.runtime.loops import running_loop
from fastapi_websocket_stabilizer.testing import RedisServer
from tests.integration.cluster import Managers, StalledSocket, counter, join, register
from tests.support.waiting import eventually

KEY = "a key of the registry, of 32 bytes"
Fault = Callable[[WebSocketConnectionManager, RedisServer], Awaitable[None]]


async def no_fault(node: WebSocketConnectionManager, server: RedisServer) -> None:
    for name in ("ann", "bob"):
        await join(node, name, "room")
    await node.broadcast("hello", room="room")
    await node.disconnect("bob")


async def hook_that_raises(node: WebSocketConnectionManager, server: RedisServer) -> None:
    def fail(_: Any) -> None:
        raise ValueError("asked for")

    node.on_connect(fail)
    await register(node, "ann")


async def bus_connections_killed(node: WebSocketConnectionManager, server: RedisServer) -> None:
    before = counter(node, "bus_gaps")
    server.client().client_kill_filter(_type="pubsub")
    await eventually(lambda: counter(node, "bus_gaps") > before, what="the bus is back")


async def lease_deleted(node: WebSocketConnectionManager, server: RedisServer) -> None:
    before = counter(node, "leases_refused")
    (key,) = server.client().scan_iter("*:leases")
    server.client().zrem(key, node.statistics().node_id)
    await eventually(lambda: counter(node, "leases_refused") > before, what="the node has registered again")


async def stranger_in_the_channels(node: WebSocketConnectionManager, server: RedisServer) -> None:
    namespace = node.config.namespace
    other = WebSocketConnectionManager(
        WebSocketConfig(redis_url=server.url, namespace=namespace, log_level="CRITICAL")
    )
    async with other:
        await other.broadcast("not signed")
    await eventually(lambda: counter(node, "bus_unsigned") > 0, what="the envelope was dropped")


async def client_that_does_not_read(node: WebSocketConnectionManager, server: RedisServer) -> None:
    connection = await register(node, "ann", StalledSocket())
    for _ in range(4):
        asyncio.get_running_loop().create_task(node.send_to_client("ann", "x" * 400_000))
    await eventually(lambda: connection.ended is not None, what="the client is closed")


async def handler_that_raises(node: WebSocketConnectionManager, server: RedisServer) -> None:
    connection = await register(node, "ann")
    connection.abandoned()
    await eventually(lambda: node.statistics().closed["handler_error"] == 1, what="the end is counted")


async def drained_and_not_restarted(node: WebSocketConnectionManager, server: RedisServer) -> None:
    await register(node, "ann")
    await node.drain(0.1)


async def values_deleted(node: WebSocketConnectionManager, server: RedisServer) -> None:
    server.client().delete(*server.client().scan_iter("*:workers:*"))


FAULTS: dict[str, tuple[Fault, set[str]]] = {
    "none": (no_fault, set()),
    "hook": (hook_that_raises, {"HookFailing"}),
    "bus": (bus_connections_killed, {"BusLost"}),
    "lease": (lease_deleted, {"LeaseLost"}),
    "forged": (stranger_in_the_channels, {"EnvelopesForged"}),
    "slow": (client_that_does_not_read, {"SlowConsumers"}),
    "drained": (drained_and_not_restarted, {"DrainStuck"}),
    "missing": (values_deleted, {"ScrapeIncomplete"}),
    "handler": (handler_that_raises, {"ClosedByTrouble"}),
}


@pytest.mark.parametrize("name", FAULTS)
async def test_fault_is_found_by_its_rule_and_by_no_other(
    own_managers: Managers, server: RedisServer, name: str
) -> None:
    fault, expected = FAULTS[name]
    keys = (KEY,) if name == "forged" else ()
    node = await own_managers.start(envelope_keys=keys, log_level="CRITICAL")
    async with Operator(node.config) as operator:
        await node._registry.telemetry.publish()
        before, began_s = await operator.samples(), running_loop().time()
        await fault(node, server)
        if name != "missing":
            await node._registry.telemetry.publish()
        seconds = max(3.0, running_loop().time() - began_s)
        now = await operator.scrape()
        found = problems(Look(before, now.samples, seconds, now.missing))
    # A machine that is busy with other tests may keep the event loop from its work.
    assert {problem.rule.name for problem in found} - {"LoopLag", "BusLag"} == expected


async def test_node_that_redis_does_not_answer_says_so(own_managers: Managers, server: RedisServer) -> None:
    node = await own_managers.start(log_level="CRITICAL")
    before = [node._registry.telemetry.own()]
    server.kill()
    await eventually(lambda: node._state.is_away, what="the node has noticed")
    names = [problem.rule.name for problem in problems(Look(before, [node._registry.telemetry.own()], 3.0))]
    assert [name for name in names if name not in ("LoopLag", "BusLag")] == ["RedisFailing"]


async def run(*words: str, url: str, namespace: str) -> tuple[int, str, str]:
    """Return exit code, output and errors of a command."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "fastapi_websocket_stabilizer.cli", *words,
        "--redis-url", url, "--namespace", namespace,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, errors = await process.communicate()
    return process.returncode or 0, output.decode(), errors.decode()


async def test_commands_show_nodes_and_problems(
    own_managers: Managers, server: RedisServer, namespace: str
) -> None:
    node, other = await own_managers.start_many(2)
    await join(node, "ann", "room")
    for each in (node, other):
        await each._registry.telemetry.publish()
    code, output, _ = await run("check", "--over", "0.2", url=server.url, namespace=namespace)
    assert (code, output) == (0, f"OK - {namespace}: 2 nodes, 1 connection, 0 problems\n")
    code, output, _ = await run("nodes", "--over", "0.2", "--json", url=server.url, namespace=namespace)
    shown = {each["node_id"]: each for each in json.loads(output)}
    assert (code, set(shown)) == (0, {each.statistics().node_id for each in (node, other)})
    mine = shown[node.statistics().node_id]
    assert (mine["connections"], mine["rooms"], mine["ready"], mine["draining"]) == (1, 1, True, False)
    code, output, _ = await run("nodes", "--over", "0.2", url=server.url, namespace=namespace)
    head, *rows = output.splitlines()
    assert head.split() == [
        "NODE", "NAME", "W", "VERSION", "CONNS", "LOAD", "ROOMS", "OPEN/S", "CLOSE/S", "OUT/S", "OUTBOX", "LOOP",
        "BUS", "STATE",
    ]  # fmt: skip
    assert {row.split()[0] for row in rows} == set(shown)


async def test_check_of_a_registry_without_nodes_is_critical(
    own_managers: Managers, server: RedisServer, namespace: str
) -> None:
    report = await look(own_managers.config(), 0.1)
    assert (report.exit_code, report.as_text()) == (
        2,
        f"CRITICAL - {namespace}: 0 nodes, 0 connections, 0 problems",
    )


async def test_check_without_redis_is_unknown(server: RedisServer, namespace: str) -> None:
    url = server.url
    server.kill()
    code, output, errors = await run("check", "--over", "0.2", url=url, namespace=namespace)
    assert (code, output) == (3, "")
    assert errors.startswith("stabilizer: ")


async def test_problem_is_printed_with_its_meaning_and_advice(
    own_managers: Managers, server: RedisServer
) -> None:
    node = await own_managers.start(log_level="CRITICAL")

    async def fail_meanwhile() -> None:
        await asyncio.sleep(0.2)
        await hook_that_raises(node, server)
        await node._registry.telemetry.publish()

    await node._registry.telemetry.publish()
    report, _ = await asyncio.gather(look(node.config, 1.0), fail_meanwhile())
    assert report.exit_code == 1
    text, where = report.as_text(), f"{node._state.name} ({node.statistics().node_id})"
    assert f"warn HookFailing on {where}: hooks of the application raised 1 exception\n" in text
    assert "The log of the node names the hook" in text
    shown = json.loads(json.dumps(report.as_dict()))["problems"]
    (problem,) = [each for each in shown if each["name"] == "HookFailing"]
    assert problem["severity"] == "warn"


async def test_files_for_prometheus_and_grafana_are_written(tmp_path: Path) -> None:
    code, output, _ = await export(tmp_path / "new" / "monitoring")
    written = sorted(str(path) for path in (tmp_path / "new" / "monitoring").iterdir())
    assert (code, sorted(output.split())) == (0, written)
    assert (tmp_path / "new" / "monitoring" / "prometheus-rules.yaml").read_text() == rules.as_yaml()


async def test_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, output, errors = await export(tmp_path / "file")
    assert (code, output, str(tmp_path / "file") in errors) == (1, "", True)


async def export(directory: Path) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "fastapi_websocket_stabilizer.cli", "dashboards", "export", str(directory),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, errors = await process.communicate()
    return process.returncode or 0, output.decode(), errors.decode()
