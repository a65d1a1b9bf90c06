"""URLs of the registry's Redis: one server, a service behind Sentinels, or a cluster.

- ``redis://[user:password@]host[:port][/db]``
- ``unix://[user:password@]/path[?db=0]``
- ``redis+sentinel://[user:password@]host[:port],…/service[/db]``
- ``redis+cluster://[user:password@]host[:port],…``

With TLS they are ``rediss://``, ``rediss+sentinel://`` and ``rediss+cluster://``.
User and password are those of the Redis servers. The query has redis-py's options, and the user and password of the
Sentinels as ``sentinel_username`` and ``sentinel_password``.
"""

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from inspect import signature
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import parse_qs, urlsplit

from redis.asyncio import Connection, SSLConnection
from redis.asyncio.connection import AbstractConnection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from ...config import mask_password
from ...exceptions import ConfigurationError

REDIS_PORT = 6379
SENTINEL_PORT = 26379
_FILES = "ssl_ca_certs", "ssl_certfile", "ssl_keyfile"
_SENTINEL_OPTIONS = "sentinel_username", "sentinel_password"
_NAMES = signature(AbstractConnection.__init__).parameters.keys() & {"driver_info", "lib_name", "lib_version"}
UNNAMED: Mapping[str, Any] = dict.fromkeys(_NAMES & {"driver_info"} or _NAMES)  # the former names would warn
"""Options that stop redis-py from sending its name, since that needs a permission and Redis logs each refusal."""


class Address(NamedTuple):
    """The address of one server."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Location:
    """The Redis of a registry, read from a URL.

    Attributes:
        shown: The URL without user and password.
        options: Arguments of redis-py's connection class.
        seeds: The Sentinels, or the nodes of the cluster to query first.
        service: The name of the service on the Sentinels.
        sentinel: Arguments of connections to Sentinels.
    """

    kind: Literal["server", "sentinel", "cluster"]
    shown: str
    options: Mapping[str, Any] = field(repr=False)
    seeds: tuple[Address, ...] = ()
    service: str = ""
    sentinel: Mapping[str, Any] | None = field(default=None, repr=False)

    def at(self, address: Address) -> "Location":
        """Return the location of the server at ``address``, with the options of this location."""
        options = {**self.options, "host": address.host, "port": address.port}
        shown = f"{self.shown} ({address.host}:{address.port})"
        return replace(self, kind="server", shown=shown, options=options)


def parse(url: str) -> Location:
    """Return the location in ``url``.

    Raises:
        ConfigurationError: The URL cannot work; the message has no password.
    """
    if "://" not in url:  # so its beginning, shown in an error, may be a password
        raise ConfigurationError("redis_url must be valid: it has no scheme, such as redis://")
    shown = mask_password(url)
    try:
        location = _server(url, shown) if "+" not in url.partition(":")[0] else _several(url, shown)
        _probe(location)
    except (ValueError, TypeError) as error:
        raise ConfigurationError(f"redis_url must be valid, got {shown}: {_reason(error)}") from None
    return location


def _reason(error: Exception) -> str:
    text = str(error)
    if text.startswith("Port "):  # its quote may be the beginning of a password
        return "the port must be a number, and special characters in user and password percent-encoded"
    return mask_password(text)


def _server(url: str, shown: str) -> Location:
    if not url.startswith("unix:"):
        _database(urlsplit(url).path.strip("/") or "0")
    return Location("server", shown, _options(url))


def _database(text: str) -> int:
    if "@" in text:  # the rest of a password with an unencoded slash
        raise ValueError("special characters in user and password must be percent-encoded")
    if not text.isdecimal():  # redis-py would take 0
        raise ValueError(f"{text!r} is no number of a database")
    return int(text)


def _options(url: str) -> dict[str, Any]:
    options: dict[str, Any] = dict(parse_url(url))
    options.pop("max_connections", None)  # an option of redis-py's pool, which is not used
    if not url.startswith("unix:"):
        options.setdefault("port", REDIS_PORT)
        options["socket_keepalive"] = True
    # Fix the defaults of redis-py, which differ by version. Since 8.0 it would time out reads after 5 s, use
    # RESP3, and retry ten times, which would repeat commands whose outcome is unknown.
    return {
        **options,
        **UNNAMED,
        "protocol": 2,
        "retry": Retry(NoBackoff(), 0),
        "retry_on_timeout": False,
        "socket_timeout": None,
        "health_check_interval": 0,
        "decode_responses": False,
    }


def _several(url: str, shown: str) -> Location:
    schemes, _, rest = url.partition("://")
    scheme, kind = schemes.lower().split("+")
    netloc = re.split("[/?#]", rest, maxsplit=1)[0]
    # Newer releases of urlsplit accept brackets only around the whole host, and not in one of several.
    parts = urlsplit(f"{scheme}://hosts{rest.removeprefix(netloc)}")
    credentials, _, hosts = netloc.rpartition("@")
    path = [piece for piece in parts.path.split("/") if piece]
    query = "&".join(
        pair for pair in parts.query.split("&") if pair and pair.partition("=")[0] not in _SENTINEL_OPTIONS
    )
    user = f"{credentials}@" if credentials else ""
    if kind == "cluster":
        if path not in ([], ["0"]):
            raise ValueError("a cluster has database 0 only")
        seeds = _addresses(hosts, REDIS_PORT)
        return Location("cluster", shown, _options(f"{scheme}://{user}{hosts.split(',')[0]}?{query}"), seeds)
    if not 1 <= len(path) <= 2:
        raise ValueError("the path must be /service or /service/db")
    seeds, database = _addresses(hosts, SENTINEL_PORT), path[1] if path[1:] else "0"
    options = _options(f"{scheme}://{user}{hosts.split(',')[0]}/{_database(database)}?{query}")
    given = {name: values[0] for name, values in parse_qs(parts.query).items() if name in _SENTINEL_OPTIONS}
    return Location("sentinel", shown, options, seeds, path[0], _sentinel_options(options, given))


def _sentinel_options(options: Mapping[str, Any], given: Mapping[str, str]) -> dict[str, Any]:
    """Return the options of the servers, with the user and password of the Sentinels and without a database."""
    kept = {name: value for name, value in options.items() if name not in ("username", "password", "db")}
    return kept | {name.removeprefix("sentinel_"): value for name, value in given.items()}


def _addresses(hosts: str, port: int) -> tuple[Address, ...]:
    found = []
    for host in hosts.split(","):
        parts = urlsplit(f"//{host}")
        if not parts.hostname:
            raise ValueError("each of the hosts must be host or host:port")
        found.append(Address(parts.hostname, parts.port or port))
    return tuple(found)


def _probe(location: Location) -> None:
    """Raise now what each connect would raise: an unknown option, or a certificate file that does not exist."""
    make_connection(location.options)
    for name in _FILES:
        path = location.options.get(name)
        if path is not None and not Path(path).is_file():
            raise ValueError(f"{name} must be a file, got {path}")


class TlsConnection(SSLConnection):
    """A TLS connection that closes at once, even if redis-py closes it because its reader was cancelled."""

    async def disconnect(self, *args: Any, **kwargs: Any) -> None:
        writer = self._writer
        await super().disconnect(*args, **kwargs)
        if writer is not None:
            # Else it stays open until the peer's TLS close. The first releases of Python 3.11 raise here if it is
            # already closed.
            with suppress(AttributeError):
                writer.transport.abort()


def make_connection(options: Mapping[str, Any]) -> Connection:
    """Return a connection that is not connected yet."""
    arguments = {**options}
    made: type[Connection] = arguments.pop("connection_class", Connection)
    return (TlsConnection if made is SSLConnection else made)(**arguments)
