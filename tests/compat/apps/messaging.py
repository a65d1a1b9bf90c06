# mypy: ignore-errors
# ruff: noqa: I001
# fmt: off
# Patterns 1 and 2 of release 1.1's documentation inside the endpoints that a user would put them in.
import json
from contextlib import asynccontextmanager
from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from fastapi_websocket_stabilizer import WebSocketConnectionManager

ws_manager = WebSocketConnectionManager()

@asynccontextmanager
async def lifespan(app: FastAPI):
    await ws_manager.start()
    yield
    await ws_manager.graceful_shutdown()

app = FastAPI(lifespan=lifespan)

@app.websocket("/ws/{client_id}")
async def websocket_endpoint(websocket: WebSocket, client_id: str):
    await websocket.accept()
    await ws_manager.connect(client_id, websocket)
    try:
        while True:
            await websocket.receive_text()
    except WebSocketDisconnect:
        await ws_manager.disconnect(client_id)

@app.post("/announce")
async def announce():
    # Send message to all clients
    await ws_manager.broadcast("System message")

@app.post("/chat/{sender_id}")
async def chat(sender_id: str):
    # Send to all except sender
    await ws_manager.broadcast(
        json.dumps({"message": "chat"}),
        exclude_client=sender_id
    )

@app.post("/direct/{client_id}")
async def direct(client_id: str):
    # Send to specific client
    success = await ws_manager.send_to_client(client_id, "Direct message")

    if not success:
        print(f"Client {client_id} is no longer connected")
    return {"success": success}
