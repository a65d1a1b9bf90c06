"""This library with rooms: messages to those whose name begins with ``re:`` are stored. Before history, none were."""

from fastapi import FastAPI

from benchmarks.apps.control import add_control
from benchmarks.apps.environment import NAMESPACE, REDIS_URL
from fastapi_websocket_stabilizer import Identity, WebSocketConfig, WebSocketConnectionManager

manager = WebSocketConnectionManager(WebSocketConfig(redis_url=REDIS_URL, namespace=NAMESPACE))
app = FastAPI(lifespan=manager.lifespan)
app.include_router(manager.router)
add_control(app, manager.broadcast, manager.send_to_client)


@manager.websocket(app, "/ws")
async def identify(client_id: str, rooms: str) -> Identity:
    """Join the rooms that the client names."""
    return Identity(client_id, rooms=rooms.split(","))
