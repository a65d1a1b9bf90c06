"""Opening and closing one connection; errors are still redis-py's here."""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from redis import exceptions as redis_errors
from redis.asyncio import Connection

from .urls import TlsConnection, make_connection

REFUSAL_S = 0.5
"""How long it is listened what a server has against our certificate."""
_SPOKEN = "password", "db", "client_name"
"""What has redis-py say something as soon as it is connected."""


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
    """Say something, since nothing was said yet: only then is it known whether this is Redis, and takes us."""
    with suppress(redis_errors.ResponseError):
        await connection.send_command("PING")
        await connection.read_response()


async def _listen_for_refusal(connection: TlsConnection) -> None:
    """Raise what the server says of our certificate, if it does.

    It looks at that after the handshake, and what it then says is lost if we have spoken meanwhile.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(REFUSAL_S):
            reader, writer = await asyncio.open_connection(**connection._connection_arguments())
            try:
                await reader.read(1)
            finally:
                writer.transport.abort()


async def close(connection: Connection) -> None:
    """Close without waiting for the peer."""
    with suppress(Exception):  # nothing about a connection that is given up is of interest
        await connection.disconnect(nowait=True)


def abort(connection: Connection) -> None:
    """Cut a connection that somebody reads, who will find it lost; also when the peer takes no byte any more."""
    writer = getattr(connection, "_writer", None)
    if writer is not None:
        writer.transport.abort()
