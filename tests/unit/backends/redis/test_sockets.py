"""Replies are read from the parser of redis-py, with hiredis and without it."""

import asyncio
from collections.abc import AsyncIterator
from unittest.mock import Mock

import pytest
from redis import exceptions as redis_errors
from redis._parsers import _AsyncHiredisParser, _AsyncRESP2Parser
from redis.asyncio import Connection

from fastapi_websocket_stabilizer.backends.redis.sockets import read_reply


@pytest.fixture(params=[_AsyncHiredisParser, _AsyncRESP2Parser])
async def connection(request: pytest.FixtureRequest) -> AsyncIterator[Connection]:
    """A connection to a peer that sends what the test feeds to ``_reader``."""
    found = Connection(parser_class=request.param, protocol=2, socket_timeout=None)
    found._reader, found._writer = asyncio.StreamReader(), Mock()
    found._parser.on_connect(found)  # type: ignore[no-untyped-call]  # redis-py
    yield found
    found._writer = None


def feed(connection: Connection, data: bytes) -> None:
    assert connection._reader is not None
    connection._reader.feed_data(data)


async def test_replies_come_one_by_one(connection: Connection) -> None:
    feed(connection, b"*2\r\n$3\r\nabc\r\n:7\r\n+OK\r\n$-1\r\n")

    assert [await read_reply(connection) for _ in range(3)] == [[b"abc", 7], b"OK", None]


async def test_rest_of_a_reply_is_waited_for(connection: Connection) -> None:
    feed(connection, b"$6\r\nabc")
    reading = asyncio.ensure_future(read_reply(connection))
    await asyncio.sleep(0)
    feed(connection, b"def\r\n")

    assert await reading == b"abcdef"


async def test_error_is_raised_and_the_next_reply_is_read(connection: Connection) -> None:
    feed(connection, b"-WRONGTYPE not a hash\r\n-NOSCRIPT none\r\n:1\r\n")

    with pytest.raises(redis_errors.ResponseError, match="WRONGTYPE"):
        await read_reply(connection)
    with pytest.raises(redis_errors.NoScriptError):
        await read_reply(connection)
    assert await read_reply(connection) == 1


async def test_end_of_the_connection_is_an_error(connection: Connection) -> None:
    assert connection._reader is not None
    connection._reader.feed_eof()

    with pytest.raises(redis_errors.ConnectionError):
        await read_reply(connection)
