"""``GET /metrics`` for Prometheus, and the collector for an endpoint of the application."""

import asyncio
import hmac
import threading
from concurrent.futures import TimeoutError as TooLate
from typing import Literal, get_args

from fastapi import APIRouter, HTTPException, Request, Response

from ..exceptions import LOSSES, ConfigurationError
from ..observe import prometheus
from ..observe.prometheus import Collector, Exposition, Page
from ..registry.registry import Registry
from ..registry.statistics import limits_of
from ..registry.telemetry import Scrape

Scope = Literal["host", "node", "cluster"]
PROXIED = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")
"""Headers of a request that came through a proxy, and so perhaps from outside."""
FORWARDED = (
    "metrics are not shown through a proxy: scrape this process directly, or set metrics_secret "
    "(WS_METRICS_SECRET) and send it as Authorization: Bearer <metrics_secret>"
)
WRONG_SECRET = "metrics_secret is set: send it as Authorization: Bearer <metrics_secret>"


def metrics_router(registry: Registry) -> APIRouter:
    """Return the route of ``manager.metrics_router()``.

    Raises:
        ConfigurationError: ``prometheus_client`` is not installed.
    """
    prometheus.check_installed()
    router, page = APIRouter(), Page()

    @router.get("/metrics", include_in_schema=False)
    async def metrics(request: Request) -> Response:
        _check_caller(request, registry.state.config.metrics_secret)
        scrape = await registry.telemetry.of_host()
        text, content_type = page.render(scrape, _exposition(registry), request.headers.get("accept", ""))
        return Response(text, headers={"Content-Type": content_type, "Cache-Control": "no-store"})

    return router


def _check_caller(request: Request, secret: str | None) -> None:
    """Allow callers that send the secret, and without one those that come directly.

    Raises:
        HTTPException: 403 for any other.
    """
    if secret is None:
        if any(name in request.headers for name in PROXIED):
            raise HTTPException(403, FORWARDED)
        return
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not hmac.compare_digest(
        given.strip().encode("latin-1"), secret.encode()
    ):
        raise HTTPException(403, WRONG_SECRET)


def _exposition(registry: Registry, *, by_node: bool = False) -> Exposition:
    config = registry.state.config
    return Exposition(config.namespace, limits_of(config), by_node=by_node)


def collector(registry: Registry, scope: Scope) -> Collector:
    """Return what ``manager.prometheus_collector()`` returns.

    Raises:
        ConfigurationError: ``scope`` is unknown, or ``prometheus_client`` is not installed.
    """
    if scope not in get_args(Scope):
        raise ConfigurationError(f"scope must be one of {', '.join(get_args(Scope))}, got {scope!r:.80}")
    prometheus.check_installed()
    reader = _Reader(registry, scope)
    return Collector(reader.read, lambda: _exposition(registry, by_node=scope == "cluster"))


class _Reader:
    """Reads what a collector shows, from any thread. Collectors are synchronous."""

    def __init__(self, registry: Registry, scope: Scope) -> None:
        self._registry, self._scope = registry, scope

    def read(self) -> Scrape:
        telemetry, state = self._registry.telemetry, self._registry.state
        if self._scope == "node" or state.loop is None:
            return Scrape([telemetry.own()], 0)
        if threading.get_ident() == state.thread:
            raise RuntimeError(
                "a collector with scope='host' or 'cluster' asks Redis and would block the event loop here: include "
                "manager.metrics_router(), or collect in another thread, as a `def` endpoint does"
            )
        read = telemetry.of_host() if self._scope == "host" else telemetry.of_cluster()
        asked = asyncio.run_coroutine_threadsafe(read, state.loop)
        try:
            return asked.result(2 * state.config.redis_timeout_s)
        except (TooLate, *LOSSES):
            asked.cancel()
            return Scrape([telemetry.own()], 1)
