"""Opening and closing one connection; errors are still redis-py's here."""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from redis.asyncio import Connection

from .urls import make_connection


async def open_connection(options: Mapping[str, Any], timeout_s: float) -> Connection:
    """Return a connection that is authenticated and ready, within ``timeout_s``."""
    connection = make_connection({**options, "socket_connect_timeout": timeout_s})
    try:
        async with asyncio.timeout(timeout_s):
            await connection.connect()  # type: ignore[no-untyped-call]  # redis-py
    except BaseException:
        await close(connection)
        raise
    return connection


async def close(connection: Connection) -> None:
    """Close without waiting for the peer."""
    with suppress(Exception):  # nothing about a connection that is given up is of interest
        await connection.disconnect(nowait=True)


def abort(connection: Connection) -> None:
    """Cut a connection that somebody reads, who will find it lost; also when the peer takes no byte any more."""
    writer = getattr(connection, "_writer", None)
    if writer is not None:
        writer.transport.abort()
