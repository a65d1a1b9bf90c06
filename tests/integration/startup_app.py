"""An application as the README has it, whose lifespan and logging the tests choose."""

import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from fastapi_websocket_stabilizer import Connection, Identity, WebSocketConfig, WebSocketConnectionManager

if os.environ.get("STARTUP_LOGGING") == "own":
    logging.basicConfig(format="OWN %(levelname)s %(message)s", level="INFO")

manager = WebSocketConnectionManager(WebSocketConfig.from_env())


@asynccontextmanager
async def of_release_1_1(app: FastAPI) -> AsyncIterator[None]:
    await manager.start()
    yield
    await manager.graceful_shutdown()


LIFESPANS = {"none": None, "1.1": of_release_1_1}
app = FastAPI(lifespan=LIFESPANS.get(os.environ.get("STARTUP_LIFESPAN", ""), manager.lifespan))
app.include_router(manager.router)


async def fail(connection: Connection, message: str | bytes) -> None:
    raise RuntimeError("the hook's own trouble")


@manager.websocket(app, "/ws/{client_id}", on_message=fail)
def identify(client_id: str) -> Identity:
    return Identity(client_id)
