"""``POST /drain``: for a preStop hook, a deploy script, or an operator on this machine."""

import hmac
from dataclasses import asdict
from ipaddress import ip_address
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query, Request

from .cluster.registry import Registry
from .exceptions import WebSocketStabilizerError

FORWARDED = ("x-forwarded-", "forwarded", "x-real-ip", "via", "origin")
"""A header that begins so came through a proxy, or from a web page: the caller may be anywhere."""


def add_drain_route(router: APIRouter, registry: Registry) -> None:
    """Add the route. It answers when the drain is over."""

    @router.post("/drain", include_in_schema=False)
    async def drain(
        request: Request, over: Annotated[float | None, Query(gt=0, allow_inf_nan=False)] = None
    ) -> dict[str, Any]:
        config = registry.context.config
        _check_caller(request, config.drain_secret)
        try:
            registry.check_usable()
        except WebSocketStabilizerError as error:
            raise HTTPException(503, str(error)) from error
        report = await registry.drain.run(config.drain_over_s if over is None else over)
        return {"status": "drained", "node_id": registry.context.node_id, **asdict(report)}


def _check_caller(request: Request, secret: str | None) -> None:
    """Obey who knows the secret; without one, who is on this machine.

    Uvicorn takes the client's address from X-Forwarded-For if the proxy that sent it is trusted, so an address
    counts only when nobody has forwarded the request.

    Raises:
        HTTPException: 403.
    """
    if secret is not None:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(
            given.strip().encode("latin-1"), secret.encode()
        ):
            raise HTTPException(403, "drain_secret is set: send it as Authorization: Bearer <drain_secret>")
        return
    if any(name.lower().startswith(FORWARDED) for name in request.headers):
        raise HTTPException(403, "the request was forwarded: set drain_secret, and send it along")
    if request.client is None or not _is_loopback(request.client.host):
        raise HTTPException(403, "only from this machine: set drain_secret to drain from elsewhere")


def _is_loopback(host: str) -> bool:
    try:
        address = ip_address(host)
    except ValueError:
        return False
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback
