"""``GET /livez`` and ``GET /readyz`` for load balancers, ``POST /drain`` for deploy scripts and operators."""

import hmac
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query, Request, Response

from ..exceptions import WebSocketStabilizerError
from ..registry.registry import Registry

NO_SECRET = (
    "POST /drain is off: set drain_secret (WS_DRAIN_SECRET) and send it as Authorization: Bearer <drain_secret>. "
    "Without it, drain with SIGTERM, stabilizer drain or manager.drain()"
)
WRONG_SECRET = "drain_secret is set: send it as Authorization: Bearer <drain_secret>"


def health_router(registry: Registry) -> APIRouter:
    """Return the routes of ``manager.router``."""
    router = APIRouter()

    @router.get("/livez", include_in_schema=False)
    async def livez() -> dict[str, str]:
        return {"status": "alive"}

    @router.get("/readyz", include_in_schema=False)
    async def readyz(response: Response) -> dict[str, str | int | None]:
        reason = registry.unready()
        if reason is not None:
            response.status_code = 503
            return {"status": "not ready", "reason": reason}
        state = registry.state
        status: dict[str, str | int | None] = {
            "status": "ready",
            "mode": "redis" if state.is_distributed else "memory",
            "namespace": state.config.namespace,
            "node": state.name,
            "node_id": state.node_id,
            "protocol": state.served.protocol,
            "workers": state.served.workers,
        }
        lacking = state.degraded()
        return status if lacking is None else {**status, "degraded": lacking}

    _add_drain_route(router, registry)
    return router


def _add_drain_route(router: APIRouter, registry: Registry) -> None:
    """Add ``POST /drain``, which responds when the drain is complete."""

    @router.post("/drain", include_in_schema=False)
    async def drain(
        request: Request, over: Annotated[float | None, Query(gt=0, allow_inf_nan=False)] = None
    ) -> dict[str, Any]:
        config = registry.state.config
        _check_caller(request.headers.get("authorization", ""), config.drain_secret)
        try:
            registry.check_usable()
        except WebSocketStabilizerError as error:
            raise HTTPException(503, str(error)) from error
        report = await registry.drain.run(config.drain_over_s if over is None else over)
        return {"status": "drained", "node_id": registry.state.node_id, **asdict(report)}


def _check_caller(authorization: str, secret: str | None) -> None:
    """Allow callers that send the secret.

    An address does not identify a caller. Behind a proxy or TCP relay on this machine, every caller has a loopback
    address.

    Raises:
        HTTPException: 403, if no secret is configured or the caller did not send it.
    """
    if secret is None:
        raise HTTPException(403, NO_SECRET)
    scheme, _, given = authorization.partition(" ")
    if scheme.lower() != "bearer" or not hmac.compare_digest(
        given.strip().encode("latin-1"), secret.encode()
    ):
        raise HTTPException(403, WRONG_SECRET)
