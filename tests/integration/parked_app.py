"""An application that asks in its hooks what they know of the handshake; set up by WS_* variables."""

from contextvars import ContextVar
from typing import Any

from fastapi import FastAPI, WebSocket
from starlette.types import ASGIApp, Receive, Scope, Send

from fastapi_websocket_stabilizer import Connection, Identity, WebSocketConfig, WebSocketConnectionManager

visitor: ContextVar[str] = ContextVar("visitor", default="nobody")
manager = WebSocketConnectionManager(WebSocketConfig.from_env())
app = FastAPI(lifespan=manager.lifespan)
app.state.motto = "hello"


class Visitors:
    """Middleware that keeps a header in a context variable, as a tracer keeps its span."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        name = dict(scope.get("headers", ())).get(b"x-visitor")
        if name is not None:
            visitor.set(name.decode())
        await self._app(scope, receive, send)


app.add_middleware(Visitors)


def known(connection: Connection) -> dict[str, Any]:
    request = connection.handshake
    return {
        "state": connection.state,
        "visitor": visitor.get(),
        "handshake": request
        and {
            "client": request.client and request.client.host,
            "agent": request.headers["user-agent"],
            "path": request.url.path,
            "query": dict(request.query_params),
            "parameters": request.path_params,
            "motto": request.app.state.motto,
        },
    }


async def tell(connection: Connection, message: str | bytes) -> None:
    await connection.send(known(connection))
    visitor.set("somebody else")  # is forgotten with the message


@manager.on_connect
async def welcome(connection: Connection) -> None:
    await connection.send(known(connection))


@manager.websocket(app, "/parked/{client_id}", on_message=tell)
async def identify(client_id: str) -> Identity:
    return Identity(client_id, state={"secret": 7})


@app.websocket("/served/{client_id}")
async def served(websocket: WebSocket, client_id: str) -> None:
    await manager.serve(websocket, client_id, state={"secret": 7}, on_message=tell)


@app.get("/presence/{client_id}")
async def presence(client_id: str) -> list[Any]:
    return [dict(entry.metadata) for entry in await manager.presence(client_id)]
