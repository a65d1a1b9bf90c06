"""The lifespan: installing the WebSocket class, the log line about the start, and a shutdown in time."""

import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from fastapi import FastAPI

from ..config import mask_password
from ..exceptions import ConfigurationError
from ..models import CompressionMode
from ..registry.registry import Registry
from ..registry.state import NodeState, Served
from ..uvicorn.sigterm import DEFAULT_SHUTDOWN_S, draining_on_sigterm, find_server

ALONE = (
    "%d workers and no redis_url: each is a registry of its own, and a message reaches only the clients of the "
    "worker that sends it; set redis_url (WS_REDIS_URL), or run one worker"
)


def install_protocol(state: NodeState, app: FastAPI) -> None:
    """Install the WebSocket class for fast broadcasts in uvicorn, and record which class serves the sockets."""
    reason = "uvicorn_protocol is off"
    if state.config.uvicorn_protocol:
        try:
            from ..uvicorn import protocol
        except (ImportError, ConfigurationError) as error:
            reason = str(error)
        else:
            reason = protocol.install(
                compress=state.config.compression is not CompressionMode.NONE,
                max_message_size=state.config.max_message_size,
            )
    state.served = Served("asgi" if reason else protocol.NAME, reason, application=application_of(app))


def application_of(app: FastAPI) -> str:
    """Return the application's title, else the import string that uvicorn was started with, else ""."""
    if app.title != FastAPI().title:
        return app.title
    imported = getattr(_server_config(), "app", None)
    return imported if isinstance(imported, str) else ""


def announce(state: NodeState) -> None:
    """Log the mode, namespace, node and WebSocket class of this process, and warnings about its settings."""
    config, log = state.config, state.log
    state.served = served = replace(state.served, workers=count_workers())
    where = f"Redis at {mask_password(config.redis_url)}" if config.redis_url else "one process in memory"
    log.info(
        'started: %s, namespace "%s", node %s (%s), %s; WebSockets go through %s',
        where,
        config.namespace,
        state.name,
        state.node_id,
        "workers unknown" if served.workers is None else f"workers {served.workers}",
        f"{served.protocol} ({served.reason})" if served.reason else served.protocol,
    )
    for doubt in config.doubts():
        log.warning(doubt)
    if not state.is_distributed and (served.workers or 1) > 1:
        log.warning(ALONE, served.workers)


def count_workers() -> int | None:
    """Return the number of worker processes of uvicorn or gunicorn, or None with another server."""
    gunicorn = sys.modules.get("gunicorn.workers.base")
    frame = sys._getframe() if gunicorn else None
    while frame is not None:  # the event loop was started by a method of the worker
        worker: Any = frame.f_locals.get("self")
        if gunicorn is not None and isinstance(worker, gunicorn.Worker):
            return int(worker.cfg.workers)
        frame = frame.f_back
    workers: int | None = getattr(_server_config(), "workers", None)
    return workers


def _server_config() -> Any:
    """Return the configuration of the uvicorn ``Server`` of this process, if any."""
    return getattr(find_server(), "config", None)


@asynccontextmanager
async def shut_down_in_time(
    registry: Registry, shut_down: Callable[[float], Awaitable[object]]
) -> AsyncIterator[None]:
    """Drain on SIGTERM during the block, and shut down after it in the seconds that the server has left."""
    sigterm = None
    try:
        with draining_on_sigterm(registry) as sigterm:
            yield
    finally:
        await shut_down(DEFAULT_SHUTDOWN_S if sigterm is None else sigterm.time_left_s())
