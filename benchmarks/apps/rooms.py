"""This library with rooms: messages to those whose name begins with ``re:`` are stored.

None are with the variant ``off``, and with ``before``, which is a checkout without history.
"""

from typing import Any

from fastapi import FastAPI

from benchmarks.apps.control import add_control
from benchmarks.apps.environment import NAMESPACE, REDIS_URL, VARIANT
from fastapi_websocket_stabilizer import Identity, WebSocketConfig, WebSocketConnectionManager

settings: dict[str, Any] = {"redis_url": REDIS_URL, "namespace": NAMESPACE}
if VARIANT not in ("before", "off"):
    from fastapi_websocket_stabilizer import History

    settings["history"] = {"re:": History(messages=500, bytes=262_144, seconds=120)}

manager = WebSocketConnectionManager(WebSocketConfig(**settings))
app = FastAPI(lifespan=manager.lifespan)
app.include_router(manager.router)
add_control(app, manager.broadcast, manager.send_to_client)


@manager.websocket(app, "/ws")
async def identify(client_id: str, rooms: str) -> Identity:
    """Join the rooms that the client names."""
    return Identity(client_id, rooms=rooms.split(","))
