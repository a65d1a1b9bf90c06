"""Without a history a node sends the commands, and the bytes, of a registry that knows no logs."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastapi_websocket_stabilizer import History, Publisher, WebSocketConnectionManager
from tests.integration.cluster import Managers, Socket, register
from tests.support.servers import RedisServer
from tests.support.waiting import eventually

VECTORS = Path(__file__).parents[1] / "vectors" / "commands_without_history.json"
QUIET: dict[str, Any] = {"lease_ttl_s": 600.0, "renew_interval_s": 200.0}
"""No beat falls into the test."""


RANDOM = {
    r"EVAL .*? (\d+) (?=<namespace>)": r"EVAL <source> \1 ",
    r"\b[0-9a-f]{40}\b": "<sha>",
    r'"(started|since)":[\d.]+': r'"\1":<time>',
    r'"group":"[^"]*",': "",
    r"(?<=:secret ).*": "<secret>",
}
NAMESPACE = "golden-ns"
"""Its length is part of the commands."""
ASKS = "GET <namespace>:{nodes}:policy"
"""The only new command: a publisher at its first call, and a node at its start, ask what the registry stores."""


@contextmanager
def monitored(server: RedisServer) -> Iterator[list[str]]:
    """Note the commands that the server executes, without those of scripts, which no node sends."""
    with server.client() as client, client.monitor() as monitor:
        seen: list[str] = []
        yield seen
        client.echo("the end")
        for entry in monitor.listen():
            if entry["command"] == "ECHO the end":
                return
            if entry["client_type"] != "lua":
                seen.append(str(entry["command"]).replace("\n", " "))


def named(commands: list[str], namespace: str) -> list[str]:
    """Return the commands with fixed names for everything that is random, and nothing about the test's own."""
    joined = "\n".join(commands).replace(namespace, "<namespace>")
    for number, name in enumerate(dict.fromkeys(re.findall(r"\b[0-9a-f]{16}\b", joined))):
        joined = joined.replace(name, f"<{number}>")
    for pattern, fixed in RANDOM.items():
        joined = re.sub(pattern, fixed, joined)
    found = [text for text in joined.split("\n") if not text.startswith(("HELLO", "CLIENT SETINFO"))]
    return [
        text for text in found if "{nodes}:workers:" not in text
    ]  # what metrics show, with and without a log


def in_order(commands: list[str]) -> list[str]:
    """Return the commands with what ends subscriptions at the end.

    A node ends them on the connection of the bus while it leaves on another one, so Redis may execute either first.
    """
    return sorted(commands, key=lambda command: command.startswith("UNSUBSCRIBE"))


async def day(manager: WebSocketConnectionManager, publisher: Publisher) -> None:
    """Do one of each."""
    await manager.start()
    socket = Socket()
    ann = await register(manager, "ann", socket)
    for room in ("chat:1", "chat:2"):
        await ann.join(room)
    await manager.broadcast("to a room", room="chat:1")
    await manager.broadcast("to rooms", room=["chat:1", "chat:2"], exclude_client="bob")
    await manager.broadcast({"to": "all"})
    await manager.send_to_client("ann", "to ann")
    await manager.send_to_client("nobody", "to nobody")
    await publisher.broadcast("published", room="chat:1")
    await publisher.send_to_client("ann", "published to ann")
    await eventually(lambda: len(socket.received) == 6, what="all messages")
    await ann.leave("chat:2")
    await ann.close()
    await publisher.close()
    await manager.graceful_shutdown(1.0)


async def commands_of(server: RedisServer, namespace: str, **settings: Any) -> list[str]:
    managers = Managers(server.url, namespace)
    with monitored(server) as seen:
        manager = managers.make(**QUIET, node_name="node", **settings)
        await day(manager, Publisher(server.url, namespace=namespace))
    return named(seen, namespace)


async def test_commands_are_those_of_a_registry_that_knows_no_logs(server: RedisServer) -> None:
    found = await commands_of(server, NAMESPACE)
    assert found.count(ASKS) == 2
    expected = json.loads(VECTORS.read_text())
    assert in_order([text for text in found if text != ASKS]) == in_order(expected)


async def test_commands_with_a_history_are_others(server: RedisServer) -> None:
    """Otherwise the test above could not fail."""
    found = await commands_of(server, NAMESPACE, history={"chat:": History()})
    assert any(":log:chat:1" in command for command in found)
    assert found != json.loads(VECTORS.read_text())
