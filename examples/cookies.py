"""A session cookie for WebSockets, and the check of Origin that cookies need.

uvicorn examples.cookies:app
curl -i -X POST "http://127.0.0.1:8000/sign-in?user=ada"        (answers with Set-Cookie)

Browsers send cookies with a WebSocket that any web site opens. They also send Origin, the site of the page, which
the page cannot change. So a route that trusts a cookie has to compare Origin with the site's own address.
"""

import secrets
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Cookie, Depends, FastAPI, Header, HTTPException, Response

from fastapi_websocket_stabilizer import Connection, Identity, WebSocketConfig, WebSocketConnectionManager

manager = WebSocketConnectionManager(WebSocketConfig.from_env())
app = FastAPI(lifespan=manager.lifespan)
sessions: dict[str, str] = {}  # yours are in a database


def own_page(host: Annotated[str, Header()], origin: Annotated[str | None, Header()] = None) -> None:
    """Refuse pages of other sites. Without Origin the caller is no browser, and has no cookies of a user."""
    if origin is not None and urlsplit(origin).netloc != host:
        raise HTTPException(403, "opened by a page of another site")


async def say(connection: Connection, message: str | bytes) -> None:
    if isinstance(message, str):  # a binary frame comes as bytes
        await manager.broadcast({"from": connection.client_id, "text": message})


@manager.websocket(app, "/ws", on_message=say)
async def identify(_: Annotated[None, Depends(own_page)], session: Annotated[str, Cookie()] = "") -> Identity:
    if session not in sessions:
        raise HTTPException(401, "not signed in")
    return Identity(sessions[session])


@app.post("/sign-in")
async def sign_in(user: str, response: Response) -> None:
    session = secrets.token_urlsafe()
    sessions[session] = user
    response.set_cookie("session", session, httponly=True, samesite="strict")
