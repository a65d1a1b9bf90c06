"""Commands that wait for a connection: fields of one key share a command, and stay in order with its removals."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from fastapi_websocket_stabilizer import BackendUnavailableError
from fastapi_websocket_stabilizer.backends.redis.command import Command
from fastapi_websocket_stabilizer.backends.redis.pipeline import (
    GROWS_TO_BYTES,
    WATCHES,
    Pipeline,
    no_earlier_sends,
)
from fastapi_websocket_stabilizer.backends.redis.stores import IndexLine
from fastapi_websocket_stabilizer.runtime.metrics import Counters

TIMEOUT_S = 60.0


class NoServer:
    """A ``ConnectionFactory`` that never gets a connection."""

    timeout_s = TIMEOUT_S

    async def connect(self) -> Any:
        await asyncio.Event().wait()

    def translate(self, operation: str, error: BaseException, *, outcome_unknown: bool = False) -> Exception:
        return BackendUnavailableError(operation)


@pytest.fixture
async def pipeline() -> AsyncIterator[Pipeline]:
    made = Pipeline(NoServer(), Counters(), "test", no_earlier_sends)  # type: ignore[arg-type]
    made.serve()
    yield made
    for command in made.take():
        command.reject(BackendUnavailableError("over"))
    await made.stop()


def words(command: Command) -> list[str]:
    return command.packed.decode().split("\r\n")[1::2]


def queued(pipeline: Pipeline) -> list[list[str]]:
    """Return the queued commands, and queue them again."""
    commands = pipeline.take()
    assert pipeline.queued_bytes == 0
    for command in commands:
        assert command.count == len(words(command))
        pipeline.submit(command)
    return [words(command) for command in commands]


async def test_fields_of_one_key_share_a_queued_command(pipeline: Pipeline) -> None:
    first = pipeline.set_field("index", "a", "1")
    pipeline.send("PING", idempotent=True)
    other = pipeline.set_field("other", "a", "2")
    second = pipeline.set_field("index", "b", "3")

    assert queued(pipeline) == [["HSET", "index", "a", "1", "b", "3"], ["PING"], ["HSET", "other", "a", "2"]]
    assert first is second is not other


async def test_field_that_is_removed_and_set_again_is_set_last(pipeline: Pipeline) -> None:
    pipeline.set_field("index", "a", "1")
    pipeline.separate("index")
    pipeline.send("HDEL", "index", "b", idempotent=True)
    pipeline.set_field("index", "b", "2")
    pipeline.set_field("index", "c", "3")

    assert queued(pipeline) == [
        ["HSET", "index", "a", "1"], ["HDEL", "index", "b"], ["HSET", "index", "b", "2", "c", "3"],
    ]  # fmt: skip


async def test_nothing_is_added_to_a_command_that_has_left(pipeline: Pipeline) -> None:
    pipeline.set_field("index", "a", "1")
    (sent,) = pipeline.take()
    pipeline.set_field("index", "b", "2")

    assert words(sent) == ["HSET", "index", "a", "1"]
    assert queued(pipeline) == [["HSET", "index", "b", "2"]]
    sent.resolve(1)


async def test_shared_command_has_a_bound(pipeline: Pipeline) -> None:
    value = "x" * 1000
    for number in range(20):
        pipeline.set_field("index", str(number), value)

    sizes = [sum(map(len, each)) for each in queued(pipeline)]
    assert len(sizes) == 3
    assert max(sizes) < GROWS_TO_BYTES + 2 * len(value)


async def test_field_does_not_end_at_the_deadline_of_a_much_earlier_one(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline.set_field("index", "a", "1")
    loop = asyncio.get_running_loop()
    now_s = loop.time()
    monkeypatch.setattr(loop, "time", lambda: now_s + 2 * TIMEOUT_S / WATCHES)
    pipeline.set_field("index", "b", "2")
    monkeypatch.undo()

    assert queued(pipeline) == [["HSET", "index", "a", "1"], ["HSET", "index", "b", "2"]]


async def test_cancelled_caller_leaves_the_lines_of_others(pipeline: Pipeline) -> None:
    lines = [IndexLine(pipeline, "index", name, "1") for name in "ab"]
    waiting = [asyncio.ensure_future(line.is_written()) for line in lines]
    await asyncio.sleep(0)
    waiting[0].cancel()
    await asyncio.wait([waiting[0]])
    (command,) = pipeline.take()
    command.resolve(2)

    await waiting[1]
    assert waiting[0].cancelled()


async def test_error_of_a_shared_command_is_raised_for_each_line(pipeline: Pipeline) -> None:
    lines = [IndexLine(pipeline, "index", name, "1") for name in "ab"]
    (command,) = pipeline.take()
    command.reject(BackendUnavailableError("full"))

    for line in lines:
        with pytest.raises(BackendUnavailableError, match="full"):
            await line.is_written()
