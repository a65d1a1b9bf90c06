"""An application whose metrics a test scrapes."""

import os

from fastapi import FastAPI

from fastapi_websocket_stabilizer import Connection, Identity, WebSocketConfig, WebSocketConnectionManager

manager = WebSocketConnectionManager(WebSocketConfig.from_env())
app = FastAPI(lifespan=manager.lifespan)
app.include_router(manager.router)
app.include_router(manager.metrics_router())


async def echo(connection: Connection, message: str | bytes) -> None:
    await connection.join(str(message))
    await connection.send(message)


@manager.websocket(app, "/ws/{client_id:path}", on_message=echo)
def identify(client_id: str) -> Identity:
    return Identity(client_id)


@app.get("/who")
async def who() -> tuple[int, str]:
    """Return the pid and the node_id of the worker that answers."""
    return os.getpid(), manager.statistics().node_id
