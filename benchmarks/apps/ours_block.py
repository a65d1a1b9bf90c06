"""This library with an endpoint that holds its connection in a block, so that it is never parked."""

from fastapi import FastAPI, WebSocket

from benchmarks.apps.control import add_control
from benchmarks.apps.environment import NAMESPACE, REDIS_URL
from fastapi_websocket_stabilizer import WebSocketConfig, WebSocketConnectionManager

manager = WebSocketConnectionManager(WebSocketConfig(redis_url=REDIS_URL, namespace=NAMESPACE))
app = FastAPI(lifespan=manager.lifespan)
app.include_router(manager.router)
add_control(app, manager.broadcast, manager.send_to_client)


@app.websocket("/ws")
async def serve(websocket: WebSocket, client_id: str) -> None:
    """Read until the client leaves."""
    async with manager.connection(websocket, client_id) as connection:
        async for _ in connection:
            pass
