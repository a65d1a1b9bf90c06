"""Open and close one connection. Errors are redis-py's; ``connection`` translates them."""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from redis import exceptions as redis_errors
from redis.asyncio import Connection

from .urls import TlsConnection, make_connection

REFUSAL_S = 0.5
"""Seconds to wait for the server's TLS alert after a failed handshake."""
_SPOKEN = "password", "db", "client_name"
"""Options that make redis-py send a command right after connecting."""


async def open_connection(options: Mapping[str, Any], timeout_s: float) -> Connection:
    """Return a connection that is authenticated and ready, within ``timeout_s``."""
    connection = make_connection({**options, "socket_connect_timeout": timeout_s})
    try:
        async with asyncio.timeout(timeout_s):
            try:
                await connection.connect()  # type: ignore[no-untyped-call]  # redis-py
                if not any(map(options.get, _SPOKEN)):
                    await _ping(connection)
            except redis_errors.ConnectionError as error:
                if isinstance(connection, TlsConnection) and isinstance(
                    error.__context__, ConnectionResetError
                ):
                    await _listen_for_refusal(connection)
                raise
    except BaseException:
        await close(connection)
        raise
    return connection


async def _ping(connection: Connection) -> None:
    """Send PING: the first reply shows whether the peer is Redis and accepts our credentials."""
    with suppress(redis_errors.ResponseError):
        await connection.send_command("PING")
        await connection.read_response()


async def _listen_for_refusal(connection: TlsConnection) -> None:
    """Raise the server's TLS alert about our certificate, if it sends one.

    The server checks the certificate after the handshake. The alert is lost if we write first, so only read.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(REFUSAL_S):
            reader, writer = await asyncio.open_connection(**connection._connection_arguments())
            try:
                await reader.read(1)
            finally:
                writer.transport.abort()


async def read_reply(connection: Connection) -> Any:
    """Return the next reply, in half the time of redis-py's ``read_response``, whose time limit is not used here.

    Raises:
        RedisError: The reply is an error, or there is no connection.
        OSError: The connection failed while this waited.
    """
    reply = await connection._parser.read_response()  # type: ignore[attr-defined]  # redis-py
    if isinstance(reply, redis_errors.ResponseError):
        raise reply
    return reply


async def close(connection: Connection) -> None:
    """Close without waiting for the peer."""
    with suppress(Exception):  # the connection is abandoned, so its errors do not matter
        await connection.disconnect(nowait=True)


def abort(connection: Connection) -> None:
    """Abort the connection. Its reader sees a lost connection. Works even if the peer has stopped reading."""
    writer = getattr(connection, "_writer", None)
    if writer is not None:
        writer.transport.abort()
