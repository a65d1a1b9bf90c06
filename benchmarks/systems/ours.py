"""This library, three ways, and the bare FastAPI WebSocket that it is compared with."""

import json
from typing import ClassVar

from .base import Cluster, PythonSystem, get

PACKAGES = (
    "fastapi-websocket-stabilizer",
    "fastapi",
    "starlette",
    "uvicorn",
    "uvloop",
    "httptools",
    "redis",
    "hiredis",
)


class Ours(PythonSystem):
    """As the README writes it: the protocol class is installed and sockets are parked."""

    name = "ours"
    title = "**this library**"
    application = "ours"
    packages = PACKAGES


class OursBlock(PythonSystem):
    """An endpoint that stays: the protocol class without parking."""

    name = "ours-block"
    title = "this library, not parked"
    application = "ours_block"
    packages = PACKAGES


class OursStock(Ours):
    """On uvicorn's own WebSocket class."""

    name = "ours-stock"
    title = "this library, stock uvicorn"
    variant = "stock"


class OursObserved(Ours):
    """With everything that operators may switch on."""

    name = "ours-observed"
    title = "this library, observed"
    variant = "observed"


class Bare(PythonSystem):
    """FastAPI alone."""

    name = "bare"
    title = "bare FastAPI WebSocket"
    application = "bare"
    packages = ("fastapi", "starlette", "uvicorn")
    can_send: ClassVar[bool] = False


def sending_path(cluster: Cluster) -> str:
    """Return what a replica of ours says about the way its sockets are written, in one line."""
    try:
        answer = json.loads(get(cluster.ports[0], "/readyz"))
    except (RuntimeError, ValueError):
        return "unknown"
    return str(answer.get("protocol", "unknown"))
