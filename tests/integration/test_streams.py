"""Streams of text on real servers: to rooms with and without a history, to clients, and to one socket."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

from fastapi_websocket_stabilizer import (
    BackendUnavailableError,
    ConnectionNotFoundError,
    History,
    InvalidNameError,
    NotStartedError,
    ShutdownError,
    Stream,
    WebSocketConfig,
    WebSocketConnectionManager,
)
from tests.faults.verbs import frozen
from tests.integration.cluster import PROJECT, Managers, Socket, counter, join, register
from tests.integration.test_resume import Client, nodes
from tests.support.requirements import missing
from tests.support.servers import RedisServer
from tests.support.waiting import eventually

TOKENS = [f"token {number}, " for number in range(3_000)]


async def tokens() -> AsyncIterator[str]:
    """Yield tokens as a model does, faster than messages may leave."""
    for number, token in enumerate(TOKENS):
        if number % 10 == 0:
            await asyncio.sleep(0.001)
        yield token


async def answered(block: AbstractAsyncContextManager[Stream]) -> str:
    """Stream all tokens, and return the id of the stream."""
    async with block as stream:
        async for token in tokens():
            await stream.write(token)
    return stream.id


def parts_of(socket: Socket) -> list[dict[str, Any]]:
    return [json.loads(each) if isinstance(each, str) else each for each in socket.received]


async def reads(socket: Socket, stream_id: str) -> list[dict[str, Any]]:
    """Wait for the end of a stream that is all a socket receives, and return its messages."""
    await eventually(lambda: any(part.get("end") for part in parts_of(socket)), timeout_s=10)
    parts = parts_of(socket)
    assert {part["stream"] for part in parts} == {stream_id}
    assert [part["seq"] for part in parts] == list(range(len(parts)))
    assert [part for part in parts if part.get("end")] == parts[-1:]
    return parts


def text_of(parts: list[dict[str, Any]]) -> str:
    return "".join(part["text"] for part in parts)


async def test_members_on_every_replica_read_the_same_messages(managers: Managers) -> None:
    here, there = await managers.start_many(2)
    readers = [await join(here, "alice", "chat:1"), await join(there, "bob", "chat:1")]
    stream_id = await answered(here.stream("chat:1", metadata={"answers": 17}))
    found = [await reads(reader, stream_id) for reader in readers]
    assert found[0] == found[1]
    assert (found[0][0]["metadata"], text_of(found[0])) == ({"answers": 17}, "".join(TOKENS))
    assert "error" not in found[0][-1]
    assert counter(here, "stream_messages") == len(found[0]) < len(TOKENS) / 10


async def test_room_with_a_history_keeps_the_stream_in_few_entries(managers: Managers) -> None:
    (here,) = await managers.start_many(1, history={"chat:": History()})
    reader = await join(here, "alice", "chat:1")
    parts = await reads(reader, await answered(here.stream("chat:1")))
    assert text_of(parts) == "".join(TOKENS)
    assert counter(here, "history_appends") == len(parts)
    reader.received.clear()
    parts = await reads(reader, await answered(here.stream("chat:1", store=False)))
    assert counter(here, "history_appends") < counter(here, "stream_messages")


async def test_stream_reaches_a_client_on_another_replica(managers: Managers) -> None:
    here, there = await managers.start_many(2)
    reader = await join(there, "bob")
    parts = await reads(reader, await answered(here.stream_to_client("bob")))
    assert text_of(parts) == "".join(TOKENS)


async def test_stream_to_a_client_that_leaves_raises_so_that_the_model_can_stop(managers: Managers) -> None:
    (here,) = await managers.start_many(1)
    await join(here, "alice")

    async def answer() -> None:
        async with here.stream_to_client("alice") as stream:
            await here.disconnect("alice")
            async with asyncio.timeout(10):
                while True:
                    await stream.write("token ")
                    await asyncio.sleep(0.001)

    with pytest.raises(ConnectionNotFoundError, match="'alice' was not reached"):
        await answer()
    with pytest.raises(ConnectionNotFoundError):
        await answered(here.stream_to_client("nobody"))
    assert counter(here, "streams_failed") == 2


async def test_connection_streams_to_its_own_socket_in_order_with_other_messages(managers: Managers) -> None:
    (here,) = await managers.start_many(1, max_connections_per_client=2)
    socket, other = Socket(), await join(here, "alice")
    connection = await register(here, "alice", socket)
    await connection.send({"stream": "before"})
    await answered(connection.stream())
    await connection.send({"stream": "after"})
    await eventually(lambda: parts_of(socket)[-1] == {"stream": "after"})
    assert text_of(parts_of(socket)[1:-1]) == "".join(TOKENS)
    assert other.received == []


async def test_stream_to_a_room_without_readers_is_no_error(managers: Managers) -> None:
    (here,) = await managers.start_many(1)
    await answered(here.stream("empty"))
    assert counter(here, "streams_failed") == 0


async def test_reader_that_comes_back_on_another_replica_misses_no_part_of_an_answer(
    managers: Managers,
) -> None:
    async with nodes(managers) as (here, there):
        ann = await Client("ann").open(here)
        async with there.manager.stream("chat:1") as stream:
            await stream.write("before, ")
            await eventually(lambda: "before, " in text_of(ann.got))
            await ann.close()
            await stream.write("while she was away, ")
            await eventually(lambda: counter(there.manager, "stream_messages") == 3)
            await ann.open(there)
            await stream.write("after")
        await eventually(lambda: any(part.get("end") for part in ann.got))
    assert [part["seq"] for part in ann.got] == list(range(len(ann.got)))  # the end may be a part of its own
    assert text_of(ann.got) == "before, while she was away, after"
    assert ann.hi["re"] is True


async def test_reader_that_was_away_for_the_whole_answer_gets_its_begin_parts_and_end(
    managers: Managers,
) -> None:
    async with nodes(managers) as (here, there):
        ann = await Client("ann").open(here)
        await here.manager.broadcast({"before": 1}, room="chat:1")
        await eventually(lambda: ann.got == [{"before": 1}])
        await ann.close()
        await answered(there.manager.stream("chat:1", metadata={"answers": 17}))
        await ann.open(there)
        await eventually(lambda: ann.got[-1].get("end"))
    first, *parts = ann.got[1:]
    assert (first["seq"], first["metadata"]) == (0, {"answers": 17})
    assert [part["seq"] for part in parts] == list(range(1, len(parts) + 1))
    assert text_of(parts) == "".join(TOKENS)


async def test_readers_on_other_replicas_are_told_when_the_replica_of_the_model_shuts_down(
    managers: Managers,
) -> None:
    here, there = await managers.start_many(2)
    reader = await join(there, "bob", "chat:1")
    has_begun = asyncio.Event()

    async def answer() -> None:
        async with here.stream("chat:1") as stream:
            await stream.write("half an answer")
            has_begun.set()
            await eventually(lambda: here._state.is_closed)
            await stream.write("the other half")

    answering = asyncio.create_task(answer())
    await has_begun.wait()
    await here.graceful_shutdown(5)
    with pytest.raises(ShutdownError):
        await answering
    await eventually(lambda: parts_of(reader)[-1].get("error") == "cancelled")
    assert text_of(parts_of(reader)) == "half an answer"


async def test_stored_stream_ends_with_a_named_error_when_redis_goes_away(
    own_managers: Managers, server: RedisServer
) -> None:
    (here,) = await own_managers.start_many(1, history={"chat:": History()}, redis_timeout_s=0.5)
    reader = await join(here, "alice", "chat:1")

    async def answer() -> None:
        async with here.stream("chat:1") as stream, frozen(server), asyncio.timeout(20):
            while True:
                await stream.write("token ")
                await asyncio.sleep(0.001)

    with pytest.raises(BackendUnavailableError):
        await answer()
    assert counter(here, "streams_failed") == 1
    assert "end" not in parts_of(reader)[0]


async def test_stream_in_one_process_needs_no_start() -> None:
    manager = WebSocketConnectionManager(WebSocketConfig(log_level="ERROR"))
    reader = await join(manager, "alice", "chat:1")
    parts = await reads(reader, await answered(manager.stream("chat:1")))
    assert text_of(parts) == "".join(TOKENS)
    await manager.graceful_shutdown(1)


async def test_stream_is_refused_with_a_named_error() -> None:
    manager = WebSocketConnectionManager(WebSocketConfig(redis_url="redis://127.0.0.1:1"))
    with pytest.raises(NotStartedError):
        await answered(manager.stream("chat:1"))
    with pytest.raises(InvalidNameError):
        manager.stream("")
    with pytest.raises(InvalidNameError):
        manager.stream_to_client("\n")


# Clients

PAGE = (PROJECT / "docs/streams.md").read_text().split("```javascript\n")[1].split("```")[0]
SHOW = """
for (const message of JSON.parse(require("fs").readFileSync(0))) received(message);
console.log(JSON.stringify(Object.fromEntries(answers)));
"""


def part(number: int, text: str, **more: Any) -> dict[str, Any]:
    return {"stream": "s", "seq": number, "text": text, **more}


@pytest.mark.parametrize(
    ("messages", "shown"),
    [
        (
            [part(0, "", metadata={"answers": 17}), part(1, "a"), part(2, "b", end=True)],
            {"text": "ab", "next": 3, "answers": 17, "isDone": True},
        ),
        ([part(0, ""), part(2, "b")], {"text": "b", "isIncomplete": True}),
        (
            [part(0, ""), part(1, "a", end=True, error="failed")],
            {"text": "a", "next": 2, "isDone": True, "isIncomplete": True},
        ),
        ([part(1, "a"), part(2, "b", end=True)], None),
    ],
)
async def test_page_of_the_document_shows_whole_and_broken_answers(
    messages: list[dict[str, Any]], shown: dict[str, Any] | None
) -> None:
    if shutil.which("node") is None:
        missing("no node on PATH: apt-get install nodejs")
    process = await asyncio.create_subprocess_exec(
        "node", "-e", PAGE + SHOW, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate(json.dumps(messages).encode())
    answer = json.loads(output).get("s")
    assert (answer is None) == (shown is None)
    assert shown is None or {key: answer.get(key) for key in shown} == shown
    assert shown is None or "isIncomplete" not in answer or shown["isIncomplete"]
