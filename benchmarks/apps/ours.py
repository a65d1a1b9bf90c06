"""This library, as its README writes it.

The variant ``stock`` leaves uvicorn's own protocol class in place, ``observed`` has everything for operators.
"""

import dataclasses
import os
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from benchmarks.apps.control import add_control
from benchmarks.apps.environment import NAMESPACE, REDIS_URL, VARIANT
from fastapi_websocket_stabilizer import Identity, WebSocketConfig, WebSocketConnectionManager

EXPORT_MS = 10_000
"""Six times as often as the default of the SDK."""
settings: dict[str, Any] = {"redis_url": REDIS_URL, "namespace": NAMESPACE}
if VARIANT == "stock" and "uvicorn_protocol" in {field.name for field in dataclasses.fields(WebSocketConfig)}:
    settings["uvicorn_protocol"] = False
if VARIANT == "observed":
    from opentelemetry import metrics
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import ConsoleMetricExporter, PeriodicExportingMetricReader

    exporter = ConsoleMetricExporter(Path(os.devnull).open("w"))  # noqa: SIM115 - open until the process ends
    readers = [PeriodicExportingMetricReader(exporter, export_interval_millis=EXPORT_MS)]
    metrics.set_meter_provider(MeterProvider(readers))
    settings |= {"enable_metrics": True, "enable_otel_metrics": True}

manager = WebSocketConnectionManager(WebSocketConfig(**settings))
app = FastAPI(lifespan=manager.lifespan)
app.include_router(manager.router)
if VARIANT == "observed":
    app.include_router(manager.metrics_router())
    app.include_router(manager.admin_router())
add_control(app, manager.broadcast, manager.send_to_client)


@app.get("/collections")
def collections() -> dict[str, float]:
    """Say how long the garbage collector's longest full collection took so far."""
    pauses = manager.statistics().garbage_collection_seconds
    return {"count": pauses.count, "longest_ms": pauses.max_s * 1000}


@manager.websocket(app, "/ws")
async def identify(client_id: str) -> Identity:
    """Say who connects; the library does the rest."""
    return Identity(client_id)
