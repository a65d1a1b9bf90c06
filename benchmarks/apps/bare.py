"""A FastAPI WebSocket and nothing else: the reference for memory and the cost of connecting."""

from fastapi import FastAPI, WebSocket, WebSocketDisconnect

from benchmarks.apps.control import add_control

app = FastAPI()


async def unable(*_: object) -> None:
    """Refuse: a bare application knows none of its sockets."""
    raise RuntimeError("a bare application has nobody to send to")


add_control(app, unable, unable)


@app.websocket("/ws")
async def serve(websocket: WebSocket) -> None:
    """Accept, then receive until the client leaves; an answer is sent so that both directions were used."""
    await websocket.accept()
    try:
        while True:
            await websocket.send_text(await websocket.receive_text())
    except WebSocketDisconnect:
        pass
