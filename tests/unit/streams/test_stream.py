"""Streams on the timers of an event loop, with a network that the test opens and closes."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

from fastapi_websocket_stabilizer.exceptions import (
    BackendUnavailableError,
    MessageError,
    ShutdownError,
)
from fastapi_websocket_stabilizer.runtime.metrics import Counters
from fastapi_websocket_stabilizer.runtime.tasks import Tasks
from fastapi_websocket_stabilizer.streams.coalescer import INTERVAL_S, PART_BYTES
from fastapi_websocket_stabilizer.streams.stream import BACKLOG_BYTES, Stream, Streams
from tests.unit.fakes import Clock, turns

AWAY = BackendUnavailableError("Redis does not answer")


class CountedTasks(Tasks):
    """Counts the tasks that were started, and cancels them before their first step if ``are_cancelled``."""

    def __init__(self) -> None:
        super().__init__(logging.getLogger("tests"))
        self.spawned, self.are_cancelled = 0, False

    def spawn(self, *arguments: Any, **options: Any) -> "asyncio.Task[Any]":
        self.spawned += 1
        task = super().spawn(*arguments, **options)
        if self.are_cancelled:
            task.cancel()
        return task


class Network:
    """Keeps the messages that were sent. It delivers while it is open, and first raises ``errors``."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.is_open = asyncio.Event()
        self.is_open.set()
        self.errors: list[Exception] = []
        self.tasks, self.counters = CountedTasks(), Counters()
        self.streams = Streams(self.tasks, self.counters, lambda: 1 << 20)

    async def send(self, message: dict[str, Any]) -> None:
        await self.is_open.wait()
        if self.errors:
            raise self.errors.pop(0)
        self.sent.append(message)

    def stream(self, **options: Any) -> AbstractAsyncContextManager[Stream]:
        return self.streams.open(self.send, options.get("metadata"))

    @property
    def text(self) -> str:
        return "".join(message["text"] for message in self.sent)


@pytest.fixture
async def network() -> AsyncIterator[Network]:
    network = Network()
    yield network
    async with asyncio.timeout(5):
        await network.tasks.idle()


async def test_first_message_announces_the_stream_before_the_block_begins(network: Network) -> None:
    async with network.stream(metadata={"answers": 17}) as stream:
        assert network.sent == [{"stream": stream.id, "seq": 0, "text": "", "metadata": {"answers": 17}}]


async def test_text_of_50_ms_is_one_message_and_the_rest_leaves_with_the_end(network: Network) -> None:
    clock = Clock()
    async with network.stream() as stream:
        for token in ("a", "b", "c"):
            await stream.write(token)
        await turns()
        assert network.text == ""
        clock.advance(INTERVAL_S)
        await turns()
        assert network.text == "abc"
        await stream.write("d")
    assert [(m["seq"], m["text"], m.get("end")) for m in network.sent[1:]] == [
        (1, "abc", None),
        (2, "d", True),
    ]
    assert (network.counters.streams_opened, network.counters.stream_messages) == (1, 3)
    assert network.counters.streams_failed == 0


async def test_writes_start_no_tasks_of_their_own(network: Network) -> None:
    async with network.stream() as stream:
        for _ in range(2_000):
            await stream.write("t")
    assert network.text == "t" * 2_000
    assert network.tasks.spawned == len(network.sent) < 20


async def test_writer_that_never_waits_leaves_turns_to_others(network: Network) -> None:
    """A loop over the tokens of a list has no wait of its own."""
    turns_of_others = 0

    async def other() -> None:
        nonlocal turns_of_others
        while True:
            turns_of_others += 1
            await asyncio.sleep(0)

    running = asyncio.ensure_future(other())
    async with network.stream() as stream:
        turns_of_others = 0
        for _ in range(3):
            await stream.write("x" * PART_BYTES)
        assert turns_of_others >= 1
    running.cancel()


async def test_write_waits_while_64_kib_have_not_left(network: Network) -> None:
    async with network.stream() as stream:
        network.is_open.clear()
        for _ in range(BACKLOG_BYTES // PART_BYTES):
            await stream.write("x" * PART_BYTES)
        waiting = asyncio.ensure_future(stream.write("y"))
        await turns()
        assert (waiting.done(), network.counters.stream_writes_deferred) == (False, 1)
        network.is_open.set()
        await waiting
    assert network.text == "x" * BACKLOG_BYTES + "y"


async def test_text_of_a_cancelled_write_is_still_sent(network: Network) -> None:
    async with network.stream() as stream:
        network.is_open.clear()
        waiting = asyncio.ensure_future(stream.write("x" * (BACKLOG_BYTES + 1)))
        await turns()
        waiting.cancel()
        network.is_open.set()
        await stream.write("y")
    assert network.text == "x" * (BACKLOG_BYTES + 1) + "y"


async def test_concurrent_writes_keep_their_order(network: Network) -> None:
    texts = [f"{number:04} " * 300 for number in range(200)]
    async with network.stream() as stream:
        await asyncio.gather(*(stream.write(text) for text in texts))
    assert network.text == "".join(texts)


async def test_exception_in_the_block_ends_the_stream_and_tells_readers(network: Network) -> None:
    async def answer() -> None:
        async with network.stream() as stream:
            await stream.write("half a line")
            raise LookupError("the model is gone")

    with pytest.raises(LookupError):
        await answer()
    last = network.sent[-1]
    assert (last["seq"], last["text"], last["end"], last["error"]) == (1, "half a line", True, "failed")
    assert network.counters.streams_failed == 1


async def test_cancellation_ends_the_stream_without_waiting_for_the_network(network: Network) -> None:
    async def answer() -> None:
        async with network.stream() as stream:
            await stream.write("half")
            network.is_open.clear()
            await asyncio.Event().wait()

    answering = asyncio.ensure_future(answer())
    await turns()
    answering.cancel()
    await turns()
    assert answering.cancelled()
    network.is_open.set()
    await network.tasks.idle()
    last = network.sent[-1]
    assert (last["text"], last["end"], last["error"]) == ("half", True, "cancelled")
    assert network.counters.streams_failed == 1


async def test_stream_that_cannot_be_announced_does_not_begin(network: Network) -> None:
    network.errors = [AWAY, AWAY]
    with pytest.raises(BackendUnavailableError):
        await network.stream().__aenter__()
    assert (network.sent, network.counters.streams_failed) == ([], 1)


async def test_write_raises_why_an_earlier_text_was_not_sent(network: Network) -> None:
    clock = Clock()

    async def answer() -> None:
        async with network.stream() as stream:
            await stream.write("lost")
            network.errors = [AWAY]
            clock.advance(INTERVAL_S)
            await turns()
            await stream.write("after it")
            raise AssertionError("the second text must be refused")

    with pytest.raises(BackendUnavailableError):
        await answer()
    # The number of the lost message is missing, so that a reader knows of the hole.
    assert [(m["seq"], m["text"], m.get("error")) for m in network.sent] == [(0, "", None), (2, "", "failed")]
    assert network.counters.streams_failed == 1


async def test_loss_that_no_write_has_seen_ends_the_block_with_its_error(network: Network) -> None:
    async def answer() -> None:
        async with network.stream() as stream:
            network.errors = [AWAY]
            await stream.write("x" * (PART_BYTES + 1))

    with pytest.raises(BackendUnavailableError):
        await answer()
    assert [(m["seq"], m["text"], m.get("error")) for m in network.sent] == [(0, "", None), (2, "", "failed")]


async def test_text_that_is_lost_during_the_end_is_told_to_readers(network: Network) -> None:
    async def answer() -> None:
        async with network.stream() as stream:
            network.is_open.clear()
            await stream.write("x" * (PART_BYTES + 1))

    answering = asyncio.ensure_future(answer())
    await turns()  # until only the network keeps the block from its end
    network.errors = [AWAY]
    network.is_open.set()
    with pytest.raises(BackendUnavailableError):
        await answering
    assert [(m["seq"], m["text"], m.get("error")) for m in network.sent] == [(0, "", None), (2, "", "failed")]


async def test_end_that_cannot_be_sent_is_an_error_of_the_block(network: Network) -> None:
    async def answer() -> None:
        async with network.stream() as stream:
            await stream.write("all of it")
            network.errors = [AWAY]

    with pytest.raises(BackendUnavailableError):
        await answer()
    assert network.counters.streams_failed == 1


async def test_waiting_write_is_told_of_a_failure(network: Network) -> None:
    async def answer() -> None:
        async with network.stream() as stream:
            network.is_open.clear()
            await stream.write("x" * (BACKLOG_BYTES + 1))

    answering = asyncio.ensure_future(answer())
    await turns()
    network.errors = [AWAY]
    network.is_open.set()
    with pytest.raises(BackendUnavailableError):
        await answering
    assert network.counters.stream_writes_deferred == 1


async def test_shutdown_is_no_cancellation_of_the_writer(network: Network) -> None:
    async def answer() -> None:
        async with network.stream() as stream:
            network.is_open.clear()
            await stream.write("x" * PART_BYTES)
            await network.tasks.settle(0.0)
            network.is_open.set()
            await stream.write("y")

    with pytest.raises(ShutdownError):
        await answer()


async def test_message_that_is_cancelled_before_its_first_step_ends_the_stream(network: Network) -> None:
    async def answer() -> None:
        async with network.stream() as stream:
            network.tasks.are_cancelled = True
            await stream.write("x" * PART_BYTES)
            network.tasks.are_cancelled = False
            await stream.write("y")

    async with asyncio.timeout(5):
        with pytest.raises(ShutdownError):
            await answer()


async def test_shutdown_tells_readers_and_the_writer(network: Network) -> None:
    async def answer() -> None:
        async with network.stream() as stream:
            await stream.write("half")
            await network.streams.close(5)
            assert network.sent[-1]["error"] == "cancelled"
            await stream.write("y")

    with pytest.raises(ShutdownError):
        await answer()
    assert [(m["text"], m.get("error")) for m in network.sent] == [("", None), ("half", "cancelled")]
    assert network.counters.streams_failed == 1


async def test_shutdown_waits_for_streams_that_end_and_not_for_readers(network: Network) -> None:
    async def answer() -> None:
        async with network.stream() as stream:
            await stream.write("x" * (PART_BYTES + 1))
            network.is_open.clear()

    answering = asyncio.ensure_future(answer())
    await turns()
    await network.streams.close(0.01)  # the network does not answer
    closing = asyncio.ensure_future(network.streams.close(5))
    await turns()
    assert not closing.done()
    network.is_open.set()
    await closing
    await answering
    assert [message.get("error") for message in network.sent if message.get("end")] == [None]
    assert network.streams._open == set()


async def test_error_that_is_not_the_librarys_reaches_the_writer(network: Network) -> None:
    async def answer() -> None:
        async with network.stream() as stream:
            network.errors = [ZeroDivisionError()]
            await stream.write("x" * PART_BYTES)

    with pytest.raises(ZeroDivisionError):
        await answer()


async def test_write_refuses_what_is_no_text(network: Network) -> None:
    async with network.stream() as stream:
        with pytest.raises(MessageError, match="takes str, got bytes"):
            await stream.write(b"a")  # type: ignore[arg-type]  # what an application may do
        with pytest.raises(MessageError, match="not valid Unicode"):
            await stream.write("\ud800")
        await stream.write("")
    assert [message["seq"] for message in network.sent] == [0, 1]


async def test_write_behind_the_block_is_refused(network: Network) -> None:
    async with network.stream() as stream:
        pass
    with pytest.raises(MessageError, match="has ended"):
        await stream.write("late")


async def test_messages_fit_a_small_max_message_size() -> None:
    network = Network()
    streams = Streams(network.tasks, network.counters, lambda: 1024)
    async with streams.open(network.send, None) as stream:
        await stream.write("\x01" * 3_000)
    assert network.text == "\x01" * 3_000
    assert max(len(message["text"]) for message in network.sent) * 6 <= 1024


async def test_metadata_must_be_a_mapping(network: Network) -> None:
    with pytest.raises(MessageError, match="metadata must be a dict"):
        await network.stream(metadata=["a"]).__aenter__()
