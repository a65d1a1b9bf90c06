"""Any bytes after the handshake: the server does what the RFC says, or at least ends the connection.

In memory against a model of the RFC, thousands of streams; over TCP, some hundreds. Each stream is completed in
the end, so that a frame that has begun cannot be an excuse for silence.
"""

import asyncio
import itertools
import logging
from collections.abc import Iterator
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from uvicorn.config import Config

from tests.wire import strategies
from tests.wire.app import manager
from tests.wire.harness import Conversation, Heard, Trouble, configured, until
from tests.wire.model import Expected, expected
from tests.wire.raw import Frame, Op, close
from tests.wire.servers import Fleet, Row, Server, settled

LIMIT = 1024 * 1024
SMALL_LIMIT = 65_536
PROBE = Frame(Op.TEXT, b"a probe")
ECHO_OF_PROBE = Frame(Op.TEXT, b"a probe", mask=None).encode()
END_OF_MESSAGE = Frame(Op.CONT)
MANY_PINGS = Frame(Op.PING).encode() * 20
"""More empty frames than one turn of the event loop may parse."""
DEFLATE = {"Sec-WebSocket-Extensions": "permessage-deflate"}
COMPLETION = bytes(SMALL_LIMIT + 16)
"""Completes whatever frame has begun; what then follows is unmasked, and must end the connection."""

in_memory = settings(
    max_examples=700, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)
live = settings(
    max_examples=100,
    deadline=None,
    database=None,
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,  # the server is the same for all examples
        HealthCheck.too_slow,  # it measures the machine
    ],
)
numbers = itertools.count()


class Bench:
    """One event loop for all examples, since hypothesis knows no async functions."""

    def __init__(self, runner: asyncio.Runner, trouble: Trouble) -> None:
        self._runner, self._trouble = runner, trouble
        self._config: Config = configured()

    def run(self, way: str, pieces: list[bytes]) -> None:
        self._runner.run(compare(self._config, way, pieces))
        self._trouble.check()

    def run_compressed(self, way: str, pieces: list[bytes]) -> None:
        self._runner.run(bring_to_an_end(self._config, way, pieces))
        self._trouble.check()

    def vanish(self, way: str, pieces: list[bytes]) -> None:
        self._runner.run(vanish(self._config, way, pieces))
        self._trouble.check()


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    trouble = Trouble()
    logging.getLogger().addHandler(trouble)
    with asyncio.Runner() as runner:
        runner.get_loop().set_exception_handler(trouble.handle_exception)
        runner.run(manager.start())
        yield Bench(runner, trouble)
        runner.run(manager.graceful_shutdown())
    logging.getLogger().removeHandler(trouble)


ways = pytest.mark.parametrize("way", ["parked", "loop"])


@ways
@example(pieces=[MANY_PINGS])
@given(pieces=strategies.pieces())
@in_memory
def test_server_does_what_the_rfc_says(bench: Bench, way: str, pieces: list[bytes]) -> None:
    bench.run(way, pieces)


@ways
@given(pieces=strategies.pieces(strategies.COMPRESSED_STREAMS))
@settings(in_memory, max_examples=300)
def test_server_survives_any_compressed_stream(bench: Bench, way: str, pieces: list[bytes]) -> None:
    bench.run_compressed(way, pieces)


@ways
@given(pieces=strategies.pieces())
@settings(in_memory, max_examples=200)
def test_client_may_vanish_after_any_stream(bench: Bench, way: str, pieces: list[bytes]) -> None:
    bench.vanish(way, pieces)


async def compare(config: Config, way: str, pieces: list[bytes]) -> None:
    assume(b"pong" not in b"".join(pieces))  # {"type": "pong"} answers a ping in JSON: no message
    conversation = Conversation(config, way, {})
    await conversation.accepted()
    stream, wanted = completed(b"".join(pieces))
    await conversation.feed([*pieces, stream[len(b"".join(pieces)) :]])
    if wanted.codes:
        await conversation.over()
        check_ended(await conversation.heard(), wanted)
    else:
        await conversation.feed([PROBE.encode()])
        await until(lambda: conversation.transport.written.endswith(ECHO_OF_PROBE), "echo of the probe")
        heard = await conversation.heard()
        assert (heard.messages, heard.pongs) == ([*wanted.messages, "a probe"], wanted.pongs)
        await conversation.feed([close(4000).encode()])
        await conversation.over()


def check_ended(heard: Heard, wanted: Expected) -> None:
    assert len(heard.closes) == 1
    assert heard.closes[0] in wanted.codes
    # The echo of a message that came just before the end may find the socket closed.
    assert heard.messages == wanted.messages[: len(heard.messages)]
    assert heard.pongs == wanted.pongs[: len(heard.pongs)]


def completed(stream: bytes) -> tuple[bytes, Expected]:
    """Add what a frame or a message that has begun lacks; return what must come of it all."""
    wanted = expected(stream, LIMIT)
    while wanted.missing or (wanted.is_within_a_message and not wanted.codes):
        stream += wanted.missing or END_OF_MESSAGE.encode()
        wanted = expected(stream, LIMIT)
    return stream, wanted


async def bring_to_an_end(config: Config, way: str, pieces: list[bytes]) -> None:
    conversation = Conversation(config, way, DEFLATE)
    await conversation.accepted()
    await conversation.feed([*pieces, *[COMPLETION] * (LIMIT // SMALL_LIMIT + 1)])
    await conversation.over()


async def vanish(config: Config, way: str, pieces: list[bytes]) -> None:
    conversation = Conversation(config, way, {})
    await conversation.accepted()
    await conversation.feed(pieces)
    await conversation.end_of_stream()
    await conversation.over()


# --- over TCP -----------------------------------------------------------------------------------------------


class LiveBench:
    """A server, and one event loop to talk to it."""

    def __init__(self, runner: asyncio.Runner, server: Server) -> None:
        self._runner, self._server = runner, server

    def run(self, way: str, headers: dict[str, str], pieces: list[bytes]) -> None:
        self._runner.run(self._bring_to_an_end(f"{way}/live-{next(numbers)}", headers, pieces))
        self._server.check_log()

    async def _bring_to_an_end(self, path: str, headers: dict[str, str], pieces: list[bytes]) -> None:
        async with self._server.connected(path, headers) as client:
            with suppress(ConnectionError):  # already ended
                await client.write_pieces([*pieces, COMPLETION])
            await client.rest()  # fails when the server does not end it

    def check_others(self, way: str) -> None:
        """Whatever happened to them, the next client is served, and none of them is kept."""
        self._runner.run(self._check_others(way))

    async def _check_others(self, way: str) -> None:
        async with self._server.connected(f"{way}/live-witness") as client:
            assert await client.say("still served") == "still served"
        await settled(self._server)


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture
def live_bench(fleet: Fleet, row: Row, way: str, runner: asyncio.Runner) -> Iterator[LiveBench]:
    small = row.but("small", environment={"WS_MAX_MESSAGE_SIZE": str(SMALL_LIMIT)})
    bench = LiveBench(runner, fleet.get(small))
    yield bench
    bench.check_others(way)


@given(pieces=strategies.pieces())
@live
def test_live_server_survives_any_stream(live_bench: LiveBench, way: str, pieces: list[bytes]) -> None:
    live_bench.run(way, {}, pieces)


@given(pieces=strategies.pieces(strategies.COMPRESSED_STREAMS))
@live
def test_live_server_survives_any_compressed_stream(
    live_bench: LiveBench, way: str, pieces: list[bytes]
) -> None:
    live_bench.run(way, DEFLATE, pieces)
