"""Cursors in the first frame, on a server that passes frames of any length."""

import json

from fastapi import FastAPI
from fastapi.testclient import TestClient

from fastapi_websocket_stabilizer import History, Identity, WebSocketConfig, WebSocketConnectionManager

LIMIT = 200


def test_cursor_over_max_message_size_has_unknown_positions() -> None:
    config = WebSocketConfig(max_message_size=LIMIT, history={"": History()}, log_level="CRITICAL")
    manager, app = WebSocketConnectionManager(config), FastAPI()

    @manager.websocket(app, "/ws")
    async def identify() -> Identity:
        return Identity("ann", rooms=["lobby"])

    offer = ["stabilizer.v1", "stabilizer.v1.resume.later"]
    with TestClient(app) as client, client.websocket_connect("/ws", subprotocols=offer) as socket:
        frame = json.dumps({"resume": {"s": "s1", "t": 1, "at": {"lobby": 0, "x" * LIMIT: 0}}})
        socket.send_text(frame)
        hi = socket.receive_json()["hi"]
        assert (hi["re"], hi["lost"]) == (False, [["lobby", 0, "unknown"]])
    assert manager.statistics().counters["cursors_unreadable"] == 1
