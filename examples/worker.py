"""A script without sockets and without an event loop, that reaches the clients of examples/rooms.py.

WS_REDIS_URL=redis://localhost python -m examples.worker ada lobby
"""

import sys

from fastapi_websocket_stabilizer import SyncPublisher, WebSocketConfig


def main(client_id: str, room: str) -> None:
    config = WebSocketConfig.from_env()
    with SyncPublisher(config.redis_url or "redis://localhost", namespace=config.namespace) as publisher:
        is_connected = publisher.send_to_client(client_id, {"job": "your report is ready"})
        replicas = publisher.broadcast({"job": "the room's report is ready"}, room=room)
        publisher.broadcast({"job": "all reports are ready"})
    print(
        f"{client_id} is {'connected' if is_connected else 'away'}; {room} has members on {replicas} replicas"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
