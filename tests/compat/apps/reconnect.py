# mypy: ignore-errors
# ruff: noqa: I001, RUF013
# fmt: off
# Pattern 3 of release 1.1's documentation; the receive loop under it is the quick start's.
from datetime import timedelta
from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from fastapi_websocket_stabilizer import TokenExpiredError, WebSocketConfig, WebSocketConnectionManager

ws_config = WebSocketConfig(reconnect_token_ttl=timedelta(hours=1))
ws_manager = WebSocketConnectionManager(ws_config)
restored = []

app = FastAPI()

@app.post("/reconnect-token/{client_id}")
async def get_reconnect_token(client_id: str):
    """Get a token before intentional disconnection."""
    token = ws_manager.generate_reconnect_token(client_id)
    return {"token": token}

@app.post("/sync-token/{client_id}")
def get_token_in_a_thread(client_id: str):
    return {"token": ws_manager.generate_reconnect_token(client_id)}

@app.websocket("/ws/{client_id}")
async def websocket_endpoint(websocket: WebSocket, client_id: str, token: str = None):
    await websocket.accept()

    # Restore session if token provided
    if token:
        try:
            restored_id = await ws_manager.validate_reconnect_token(token)
            # Continue with restored session
            restored.append(restored_id)
        except TokenExpiredError:
            await websocket.close(code=1008, reason="Token expired")
            return

    await ws_manager.connect(client_id, websocket)
    try:
        while True:
            await websocket.send_text(await websocket.receive_text())
    except WebSocketDisconnect:
        await ws_manager.disconnect(client_id)
