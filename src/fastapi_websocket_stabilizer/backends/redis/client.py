"""Connections to Redis and what its errors mean here; the one file that translates redis-py's."""

import asyncio
import random
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from redis import exceptions as redis_errors
from redis.asyncio import Connection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from ...config import mask_password
from ...exceptions import BackendUnavailableError, ConfigurationError

OLDEST_VERSION = (6, 2)
"""The first Redis with GETDEL; every Valkey is newer."""


class WrongTypeError(BackendUnavailableError):
    """A key of ours holds a value of another type: somebody else wrote it."""


class Backoff:
    """Full jitter between attempts: a uniform delay below a bound that doubles up to ``LONGEST_S``."""

    LONGEST_S = 2.0
    __slots__ = ("_attempts", "delay_s")

    def __init__(self) -> None:
        self._attempts = 0
        self.delay_s: float = 0.0

    def reset(self) -> None:
        self._attempts, self.delay_s = 0, 0.0

    def grow(self) -> None:
        bound_s = min(self.LONGEST_S, 0.05 * 2**self._attempts)
        self._attempts = min(self._attempts + 1, 16)
        self.delay_s = random.uniform(0.001, bound_s)


class ConnectionFactory:
    """Opens connections to one Redis, each owned and closed by whoever asked for it."""

    def __init__(self, url: str, timeout_s: float) -> None:
        self.address: str = mask_password(url)
        self.timeout_s = timeout_s
        # Everything that redis-py decides by default is decided here: since 8.0 it would read with a time
        # limit of 5 s, speak RESP3 and retry ten times, replaying commands whose outcome is unknown.
        options = {} if url.startswith("unix:") else {"socket_keepalive": True}
        try:
            self._pool = ConnectionPool.from_url(
                url,
                protocol=2,
                retry=Retry(NoBackoff(), 0),
                retry_on_timeout=False,
                socket_connect_timeout=timeout_s,
                socket_timeout=None,
                health_check_interval=0,
                decode_responses=False,
                **options,
            )
        except ValueError as error:
            raise ConfigurationError(f"redis_url must be valid, got {self.address}: {error}") from None

    async def connect(self) -> Connection:
        """Return a connection that is authenticated and ready.

        Raises:
            BackendUnavailableError: Nobody answered within ``timeout_s``.
            ConfigurationError: Wrong password, user or database.
        """
        connection: Connection = self._pool.make_connection()  # type: ignore[no-untyped-call]  # redis-py
        with self.translated("connect"):
            try:
                async with asyncio.timeout(self.timeout_s):
                    await connection.connect()  # type: ignore[no-untyped-call]  # redis-py
            except redis_errors.InvalidResponse as error:
                await close(connection)
                raise ConfigurationError(
                    f"Redis at {self.address}: {error}: that is no Redis; check host and port in redis_url"
                ) from None
            except BaseException:
                await close(connection)
                raise
        return connection

    @contextmanager
    def translated(self, operation: str, *, outcome_unknown: bool = False) -> Iterator[None]:
        """Turn redis-py's errors into ours, with the address but never the password."""
        try:
            yield
        except (redis_errors.RedisError, OSError, TimeoutError, asyncio.IncompleteReadError) as error:
            raise self.translate(operation, error, outcome_unknown=outcome_unknown) from error

    def translate(self, operation: str, error: BaseException, *, outcome_unknown: bool = False) -> Exception:
        """Return our error for one of redis-py's."""
        if isinstance(error, BackendUnavailableError | ConfigurationError):
            return error
        if isinstance(error, TimeoutError | redis_errors.TimeoutError):
            why = f"no answer within {self.timeout_s:g} s"
        else:
            why = mask_password(str(error)) or type(error).__name__
        text = f"Redis at {self.address}: {operation}: {why}"
        if isinstance(error, redis_errors.AuthenticationError | redis_errors.NoPermissionError):
            return ConfigurationError(f"{text}; check user, password and ACL in redis_url")
        if isinstance(error, redis_errors.ResponseError) and "DB index" in str(error):
            return ConfigurationError(f"{text}; check the database number in redis_url")
        if isinstance(error, redis_errors.ResponseError) and why.startswith("WRONGTYPE"):
            return WrongTypeError(text)
        return BackendUnavailableError(text, outcome_unknown=outcome_unknown)


def is_lost(connection: Connection) -> bool:
    """Whether the server has closed an idle connection; known without asking it."""
    reader = getattr(connection, "_reader", None)
    return reader is not None and bool(reader.at_eof())


def count_bytes(connection: Connection, count: Callable[[int], None]) -> None:
    """Have ``count`` told how many bytes each read of the socket brought."""
    reader = connection._reader
    assert reader is not None  # it is connected
    feed = reader.feed_data

    def feed_data(data: bytes) -> None:
        count(len(data))
        feed(data)

    reader.feed_data = feed_data  # type: ignore[assignment,method-assign]  # redis-py tells nobody what it reads


async def close(connection: Connection) -> None:
    """Close without waiting for the peer."""
    with suppress(Exception):  # nothing about a connection that is given up is of interest
        await connection.disconnect(nowait=True)


async def check_server(connection: Connection, address: str) -> str:
    """Return the server's run_id.

    Raises:
        ConfigurationError: The server is older than ``OLDEST_VERSION``, or does not say what it is.
    """
    await connection.send_command("INFO", "server")
    lines = (await connection.read_response()).decode().splitlines()
    info = dict(line.split(":", 1) for line in lines if ":" in line)
    found, oldest = info.get("redis_version", "of unknown version"), ".".join(map(str, OLDEST_VERSION))
    numbers = re.match(r"(\d+)\.(\d+)", found)
    if numbers is None or (int(numbers[1]), int(numbers[2])) < OLDEST_VERSION:
        raise ConfigurationError(f"Redis at {address} is {found}; {oldest} or newer is needed")
    return str(info.get("run_id", ""))
