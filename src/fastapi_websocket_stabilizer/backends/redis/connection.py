"""Connections to Redis, and the translation of redis-py's errors, which is only in this file."""

import asyncio
import logging
import random
import re
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import copy

from redis import exceptions as redis_errors
from redis.asyncio import Connection

from ...config import mask_password
from ...exceptions import BackendUnavailableError, ConfigurationError
from ...runtime.logs import Occasionally
from .sentinels import Sentinels, UnknownServiceError
from .sockets import open_connection
from .urls import Address, Location, parse

OLDEST_VERSION = (6, 2)
"""The first Redis version with GETDEL; every Valkey is newer."""
KEEPS_EVERYTHING = "noeviction"
EVICTS = (
    "Redis at {} evicts keys (maxmemory-policy {}, maxmemory {}): leases, presence and tokens may go; "
    "CONFIG SET maxmemory-policy noeviction"
)
_evicting = Occasionally(logging.getLogger(__name__))

_PHRASES = {
    "DB index": "the database number",
    "cluster support disabled": "the scheme (redis://)",
    "unknown command": "scheme, host and port",
}
"""Error phrases from Redis, and the part of the URL that usually causes them."""


class WrongTypeError(BackendUnavailableError):
    """A key of the registry has a value of another type, which another program wrote."""


class NotPermittedError(ConfigurationError):
    """The ACL of the Redis user lacks a command, a key or a channel."""


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
    """Opens connections to the server at ``location``. The caller owns and closes each connection.

    Behind Sentinels it is the current primary.
    """

    def __init__(self, location: Location | str, timeout_s: float) -> None:
        self._location = parse(location) if isinstance(location, str) else location
        self.address: str = self._location.shown
        self.timeout_s = timeout_s
        self.is_in_cluster: bool = False
        self.sentinels: Sentinels | None = None
        if self._location.kind == "sentinel":
            self.sentinels = Sentinels(self._location, timeout_s)

    async def connect(self) -> Connection:
        """Return a connection that is authenticated and ready.

        Raises:
            BackendUnavailableError: No server answered within ``timeout_s``.
            ConfigurationError: Wrong password, user, database or certificate.
        """
        with self.translated("connect"):
            try:
                async with asyncio.timeout(self.timeout_s):
                    if self.sentinels is not None:
                        return await self.sentinels.connect()
                    return await open_connection(self._location.options, self.timeout_s)
            except redis_errors.InvalidResponse as error:
                raise ConfigurationError(
                    f"Redis at {self.address}: {error}: that is no Redis; check host and port in redis_url"
                ) from None

    def within(self, timeout_s: float) -> "ConnectionFactory":
        """Return a factory for the same server, with the same Sentinels and another time limit."""
        other = copy(self)
        other.timeout_s = timeout_s
        return other

    def at(self, address: Address) -> "ConnectionFactory":
        """Return a factory for the server at ``address``, with the options of this location."""
        other = ConnectionFactory(self._location.at(address), self.timeout_s)
        other.is_in_cluster = self._location.kind == "cluster"
        return other

    @contextmanager
    def translated(self, operation: str, *, outcome_unknown: bool = False) -> Iterator[None]:
        """Translate redis-py's errors into those of this library, with the address but never the password."""
        try:
            yield
        except (redis_errors.RedisError, OSError, TimeoutError, asyncio.IncompleteReadError) as error:
            ours = self.translate(operation, error, outcome_unknown=outcome_unknown)
            # Redis' text contains the user name, which a traceback would show as the cause.
            raise ours from (None if isinstance(ours, ConfigurationError) else error)

    def translate(self, operation: str, error: BaseException, *, outcome_unknown: bool = False) -> Exception:
        """Return this library's error for one of redis-py's."""
        if isinstance(error, BackendUnavailableError | ConfigurationError):
            return error
        if isinstance(error, TimeoutError | redis_errors.TimeoutError):
            why = f"no answer within {self.timeout_s:g} s"
            if operation == "connect" and self.address.startswith("rediss"):
                why += "; a server without TLS does not answer either: then the scheme is redis://"
        else:
            # Redis' text contains the user name.
            why = re.sub(r"\bUser \S+", "User ***", mask_password(str(error))) or type(error).__name__
        text = f"Redis at {self.address}: {operation}: {why}"
        if (advice := _advice(error)) is not None:
            is_denied = isinstance(error, redis_errors.NoPermissionError)
            ours = NotPermittedError if is_denied else ConfigurationError
            return ours(f"{text}; check {advice} in redis_url")
        if isinstance(error, redis_errors.ResponseError) and why.startswith("WRONGTYPE"):
            return WrongTypeError(text)
        return BackendUnavailableError(text, outcome_unknown=outcome_unknown)


def _advice(error: BaseException) -> str | None:
    """Return the part of the URL that must be wrong; None if the server may only be unavailable."""
    if isinstance(error, redis_errors.AuthenticationError | redis_errors.NoPermissionError):
        return "user, password and ACL"
    if isinstance(error, UnknownServiceError):
        return "scheme, service, sentinel_username and sentinel_password"
    if isinstance(error, redis_errors.MovedError):
        return "the scheme (redis+cluster://)"
    if _is_about_certificates(error):
        return "ssl_ca_certs, ssl_certfile and ssl_check_hostname"
    if isinstance(error, redis_errors.ResponseError):
        return next((advice for phrase, advice in _PHRASES.items() if phrase in str(error)), None)
    return None


def _is_about_certificates(error: BaseException | None) -> bool:
    """Whether either side rejected a certificate, which redis-py has only as the context of its error."""
    while error is not None:
        if isinstance(error, ssl.SSLError) and "CERTIFICATE" in (error.reason or ""):
            return True
        error = error.__context__
    return False


def is_lost(connection: Connection) -> bool:
    """Whether the server has closed an idle connection. Reads the local state and sends nothing."""
    reader = getattr(connection, "_reader", None)
    return reader is not None and bool(reader.at_eof())


def count_bytes(connection: Connection, count: Callable[[int], None]) -> None:
    """Call ``count`` with the number of bytes of each read of the socket."""
    reader = connection._reader
    assert reader is not None  # it is connected
    feed = reader.feed_data

    def feed_data(data: bytes) -> None:
        count(len(data))
        feed(data)

    reader.feed_data = feed_data  # type: ignore[assignment,method-assign]  # redis-py has no hook for it


async def server_info(connection: Connection, *section: str) -> dict[str, str]:
    """Return the fields of one section of INFO, or of its default sections."""
    await connection.send_command("INFO", *section)
    lines = (await connection.read_response()).decode().splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)


def server_mode(info: Mapping[str, str]) -> str:
    """Return "standalone", "cluster" or "sentinel"."""
    return info.get("redis_mode") or info.get("server_mode", "standalone")  # Valkey's name


async def check_server(
    connection: Connection, address: str, *, is_in_cluster: bool = False
) -> tuple[str, bool]:
    """Return the server's run_id, and whether it evicts no keys.

    Raises:
        ConfigurationError: The server is older than ``OLDEST_VERSION`` or has no version. Or it is a Sentinel or in
            a cluster, and the URL has another scheme.
    """
    info = await server_info(connection)
    mode, policy = server_mode(info), info.get("maxmemory_policy", KEEPS_EVERYTHING)
    if mode == "sentinel" or (mode == "cluster" and not is_in_cluster):
        raise ConfigurationError(
            f"Redis at {address} runs as {mode}; redis_url must begin with redis+{mode}://"
        )
    found, oldest = info.get("redis_version", "of unknown version"), ".".join(map(str, OLDEST_VERSION))
    numbers = re.match(r"(\d+)\.(\d+)", found)
    if numbers is None or (int(numbers[1]), int(numbers[2])) < OLDEST_VERSION:
        raise ConfigurationError(f"Redis at {address} is {found}; {oldest} or newer is needed")
    if policy != KEEPS_EVERYTHING:
        _evicting.log(EVICTS.format(address, policy, info.get("maxmemory", "0")))
    return str(info.get("run_id", "")), policy == KEEPS_EVERYTHING


async def fence_former_connection(connection: Connection, former: int) -> int:
    """Kill the previous connection on the server; return the client id of this one (0 without permission).

    Otherwise commands that the old connection still has buffered could be executed after newer ones.
    """
    try:
        if former:
            await connection.send_command("CLIENT", "KILL", "ID", former)
            await connection.read_response()
        await connection.send_command("CLIENT", "ID")
        return int(await connection.read_response())
    except redis_errors.NoPermissionError:
        return 0
