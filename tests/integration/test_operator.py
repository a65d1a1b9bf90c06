"""The commands of operators against real nodes: what they show, whom they close, and what they say of silence."""

import asyncio
import json
import sys
from typing import Any

import pytest

from fastapi_websocket_stabilizer import WebSocketConfig, WebSocketConnectionManager
from fastapi_websocket_stabilizer.cli.operator import Operator, RemoteError
from fastapi_websocket_stabilizer.observe.explaining import Explained
from fastapi_websocket_stabilizer.observe.looking import Shown, explain, look
from fastapi_websocket_stabilizer.registry.views import OfClosed, OfConnections
from fastapi_websocket_stabilizer.testing import RedisServer
from tests.integration.cluster import Managers, join, register
from tests.support.waiting import eventually

KEY = "a key of the registry, of 32 bytes"


class Commands:
    """``stabilizer`` in processes of its own, on one registry."""

    def __init__(self, url: str, namespace: str) -> None:
        self._where = "--redis-url", url, "--namespace", namespace

    async def start(self, *words: str) -> "asyncio.subprocess.Process":
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "fastapi_websocket_stabilizer.cli", *words, *self._where,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip

    async def run(self, *words: str) -> tuple[int, str, str]:
        """Return exit code, output and errors of a command."""
        process = await self.start(*words)
        output, errors = await process.communicate()
        return process.returncode or 0, output.decode(), errors.decode()

    async def json(self, *words: str) -> Any:
        code, output, errors = await self.run(*words, "--json")
        assert (code, errors) == (0, ""), (output, errors)
        return json.loads(output)


async def connections(config: WebSocketConfig) -> Shown:
    async with Operator(config) as operator:
        return await look(operator, OfConnections(), lambda view: view.open_s)


async def explained(config: WebSocketConfig, client_id: str) -> Explained:
    async with Operator(config) as operator:
        return await explain(operator, client_id)


@pytest.fixture
def commands(server: RedisServer, namespace: str) -> Commands:
    return Commands(server.url, namespace)


@pytest.fixture
async def nodes(own_managers: Managers) -> list[WebSocketConnectionManager]:
    return await own_managers.start_many(2, log_level="CRITICAL")


async def test_connections_of_all_nodes_are_listed(
    nodes: list[WebSocketConnectionManager], commands: Commands
) -> None:
    await join(nodes[0], "ada", "lobby")
    await join(nodes[1], "bob", "lobby", "den")
    nodes[0]._state.shards.of_client("ada")[0].opened_at_s -= 60
    found = await commands.json("conns")
    assert {row["client_id"]: (row["node"], row["rooms"]) for row in found["rows"]} == {
        "ada": (nodes[0]._state.node_id, ["lobby"]),
        "bob": (nodes[1]._state.node_id, ["den", "lobby"]),
    }
    assert (found["count"], found["silent"]) == (2, {})
    assert [row["client_id"] for row in (await commands.json("conns", "--room", "den"))["rows"]] == ["bob"]
    node = nodes[0]._state.node_id
    assert [row["client_id"] for row in (await commands.json("conns", "--node", node))["rows"]] == ["ada"]
    code, output, errors = await commands.run("conns", "--limit", "1")
    head, row = output.splitlines()
    assert head.split() == [
        "CLIENT",
        "CONNECTION",
        "NODE",
        "OPEN",
        "HEARD",
        "PING",
        "OUTBOX",
        "ROOMS",
        "STATE",
    ]
    assert (code, row.split()[0], errors) == (0, "ada", "1 of 2 are shown: see --limit\n")


async def test_rooms_are_counted_over_all_nodes(
    nodes: list[WebSocketConnectionManager], commands: Commands
) -> None:
    await join(nodes[0], "ada", "lobby", "den")
    await join(nodes[1], "bob", "lobby")
    await join(nodes[1], "cyd", "lobby")
    rows = (await commands.json("rooms"))["rows"]
    assert rows == [
        {"room": "lobby", "connections": 3, "nodes": 2},
        {"room": "den", "connections": 1, "nodes": 1},
    ]
    code, output, errors = await commands.run("rooms", "--limit", "1")
    assert (code, output.split()) == (0, ["ROOM", "CONNS", "NODES", "lobby", "3", "2"])
    assert errors == "1 of 2 are shown: see --limit\n"


async def test_ends_are_listed_with_their_causes(
    nodes: list[WebSocketConnectionManager], commands: Commands
) -> None:
    for node, name in zip(nodes, ("ada", "bob"), strict=True):
        await (await register(node, name)).close(4001, "\x1b[31mbye")
    code, output, _ = await commands.run("closed")
    head, *rows = output.splitlines()
    assert (code, head.split()[:5]) == (0, ["AT", "CLIENT", "NODE", "CAUSE", "CODE"])
    assert len(rows) == 2
    assert all(r"released" in row and r"\x1b[31mbye" in row for row in rows)
    found = await commands.json("closed", "--client", "bob", "--cause", "released")
    assert [(row["client_id"], row["cause"], row["code"]) for row in found["rows"]] == [
        ("bob", "released", 4001)
    ]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("conns", "--state", "tired"), "--state: "),
        (("conns", "--sort", "name"), "--sort: "),
        (("closed", "--cause", "bored"), "--cause: "),
        (("tail", "--kind", "sneezed"), "--kind is opened or closed, got 'sneezed'"),
    ],
)
async def test_value_that_an_option_cannot_have_is_named(
    commands: Commands, words: tuple[str, ...], text: str
) -> None:
    code, output, errors = await commands.run(*words)
    assert (code, output) == (2, "")
    assert errors.startswith(f"stabilizer: {text}")


async def test_client_is_explained_wherever_it_is(
    nodes: list[WebSocketConnectionManager], commands: Commands
) -> None:
    await (await register(nodes[0], "ada")).close()
    await join(nodes[1], "ada", "lobby")
    found = await commands.json("explain", "ada")
    assert [view["node"] for view in found["connections"]] == [nodes[1]._state.node_id]
    assert [end["node"] for end in found["closed"]] == [nodes[0]._state.node_id]
    assert found["ghosts"] == []
    assert found["verdict"][-1].endswith("The handler of the application returned, or closed it.")
    code, output, _ = await commands.run("explain", "nobody")
    assert (code, output.splitlines()[:2]) == (0, ["nobody: 0 connections", "It is not connected."])


async def test_connection_that_only_redis_knows_is_a_ghost(
    nodes: list[WebSocketConnectionManager], server: RedisServer
) -> None:
    connection = await register(nodes[0], "ada")
    nodes[0]._state.shards.remove(connection)
    found = await explained(nodes[1].config, "ada")
    assert (found.connections, found.ghosts) == ([], [connection.connection_id])
    nodes[0]._state.shards.add(connection)


async def test_client_is_closed_on_every_node(
    nodes: list[WebSocketConnectionManager], commands: Commands, own_managers: Managers
) -> None:
    ada, bob = await join(nodes[0], "ada"), await join(nodes[1], "bob")
    code, output, errors = await commands.run("kick", "ada")
    assert (code, output) == (2, "")
    assert "give --yes" in errors
    assert ada.is_open
    assert await commands.run("kick", "ada", "--yes", "--reason", "spam") == (0, "ada: 1 closed\n", "")
    assert (ada.closed_with, bob.is_open) == ((4510, "spam"), True)
    assert await commands.json("kick", "bob", "--yes", "--code", "4001") == {"client_id": "bob", "closed": 1}
    assert bob.closed_with == (4001, "closed by an operator")
    assert nodes[1].statistics().closed["kicked"] == 1
    code, _, errors = await commands.run("kick", "ada", "--yes")
    assert (code, errors) == (1, "stabilizer: client 'ada' is not connected\n")
    code, _, errors = await commands.run("kick", "a\tda", "--yes")
    assert (code, errors.startswith("stabilizer: client_id")) == (1, True)
    code, _, errors = await commands.run("kick", "ada", "--yes", "--code", "1005")
    assert (code, errors.startswith("stabilizer: ")) == (1, True)


async def test_one_connection_is_closed(own_managers: Managers, commands: Commands) -> None:
    node = await own_managers.start(max_connections_per_client=2)
    first, second = await register(node, "ada"), await register(node, "ada")
    words = "kick", "ada", "--yes", "--connection", first.connection_id
    assert await commands.run(*words) == (0, "ada: 1 closed\n", "")
    assert (first.ended is None, second.ended is None) == (False, True)


async def test_nobody_can_be_closed_without_a_node(commands: Commands, own_managers: Managers) -> None:
    assert await commands.run("kick", "ada", "--yes") == (
        1, "", "stabilizer: there is no live node that could disconnect a client\n",
    )  # fmt: skip


async def test_tail_prints_what_happens_on_all_nodes(
    nodes: list[WebSocketConnectionManager], commands: Commands
) -> None:
    process = await commands.start("tail", "--json")
    try:
        await eventually(
            lambda: all(node._state.tail.watchers == 1 for node in nodes), what="both are watched"
        )
        await (await register(nodes[0], "ada")).close(4001)
        await register(nodes[1], "bob")
        assert process.stdout is not None
        lines = [json.loads(await asyncio.wait_for(process.stdout.readline(), 10)) for _ in range(3)]
        assert {(line["kind"], line["client_id"], line["node"]) for line in lines} == {
            ("opened", "ada", nodes[0]._state.node_id),
            ("closed", "ada", nodes[0]._state.node_id),
            ("opened", "bob", nodes[1]._state.node_id),
        }
    finally:
        process.kill()
        await process.wait()


async def test_node_that_does_not_answer_is_named(
    own_managers: Managers, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = await own_managers.start_many(2, redis_timeout_s=0.5)
    await join(nodes[0], "ada")
    monkeypatch.setattr(nodes[1]._registry.requests.views, "answer", _never)
    shown = await connections(nodes[0].config)
    assert [view.client_id for view in shown.rows] == ["ada"]
    assert shown.silent == {nodes[1]._state.node_id: "no answer within 0.5 s"}
    found = await explained(nodes[0].config, "ada")
    assert found.verdict[-1].endswith("(no answer within 0.5 s), so what it holds is not known.")


async def _never(_: Any) -> Any:
    await asyncio.sleep(60)


async def test_signed_registry_answers_an_operator_with_the_key_only(own_managers: Managers) -> None:
    node = await own_managers.start(envelope_keys=(KEY,), log_level="CRITICAL")
    await join(node, "ada")
    shown = await connections(node.config)
    assert ([view.client_id for view in shown.rows], shown.silent) == (["ada"], {})
    stranger = own_managers.config(redis_timeout_s=0.5)
    shown = await connections(stranger)
    assert (shown.rows, list(shown.silent)) == ([], [node._state.node_id])
    async with Operator(stranger) as operator:
        with pytest.raises(RemoteError, match="no node has answered"):
            await operator.disconnect("ada", 4510, "stranger")
    assert node._state.shards.has_client("ada")


async def test_client_of_a_deaf_node_is_noted_by_another(
    own_managers: Managers, monkeypatch: pytest.MonkeyPatch, server: RedisServer
) -> None:
    nodes = await own_managers.start_many(2, redis_timeout_s=0.5, log_level="CRITICAL")
    await join(nodes[0], "ada")
    monkeypatch.setattr(nodes[0]._registry.inbound, "receive", lambda *_: None)
    async with Operator(nodes[0].config) as operator:
        with pytest.raises(RemoteError, match=rf"no answer from \['{nodes[0]._state.node_id}'\]"):
            await operator.disconnect("ada", 4510, "spam")
    assert [*server.client().scan_iter("*revo*")]


async def test_values_of_strangers_do_not_break_the_commands(
    nodes: list[WebSocketConnectionManager], commands: Commands, server: RedisServer
) -> None:
    for node in nodes:
        await node._registry.telemetry.publish()
    client = server.client()
    keys: list[Any] = [*client.scan_iter("*:workers:*")]
    held: dict[Any, str] = {key: str(client.hget(key, "0")).partition(" ")[0] for key in keys}
    for body in ("[" * 5_000, '{"name": "\\ud800"}', "1e999", "null", "{}"):
        for key, holder in held.items():
            client.hset(key, "0", f"{holder} {body}")
        for words in (
            ("check", "--over", "0.1"),
            ("nodes", "--over", "0.1"),
            ("top", "--once", "--every", "0.5"),
        ):
            code, _, errors = await commands.run(*words)
            assert (code in (0, 1, 2), "Traceback" in errors) == (True, False), (words, body, errors)


async def test_answers_of_strangers_are_not_taken(own_managers: Managers) -> None:
    node = await own_managers.start(log_level="CRITICAL")
    async with Operator(node.config) as operator:
        await operator.ask(OfClosed(), [node._state.node_id])
        inbox = operator._outgoing.sender
        for body in ("not json", '{"rows": 1}', "[]", "null", "[[[[", '{"events": 1}'):
            envelope = node._state.outgoing.reply(body, 1)
            await node._state.backend.bus.publish_node(inbox, envelope)
        answered = await operator.ask(OfClosed(), [node._state.node_id])
        assert (list(answered.found), answered.silent) == ([node._state.node_id], {})
