"""Only users who are signed in get a WebSocket; others get an HTTP 401 instead.

uvicorn examples.authenticated:app                              (WS_REDIS_URL=redis://localhost for replicas)
curl -X POST -H "Authorization: Bearer ada-secret" http://127.0.0.1:8000/reconnect-token
python -m websockets "ws://127.0.0.1:8000/ws?token=..."         (what curl printed)

A browser cannot set headers on a WebSocket: it fetches a reconnect token first, and connects with that.
Then send {"to": "bob", "text": "hello"}.
"""

from typing import Annotated

from fastapi import Depends, FastAPI, Header, HTTPException
from pydantic import BaseModel, ValidationError

from fastapi_websocket_stabilizer import (
    Connection,
    Identity,
    InvalidTokenError,
    TokenExpiredError,
    WebSocketConfig,
    WebSocketConnectionManager,
)

USERS = {"ada-secret": "ada", "bob-secret": "bob"}  # yours are in a database

config = WebSocketConfig.from_env()
config.max_connections_per_client = 5  # a client here is a user, who has tabs and devices
manager = WebSocketConnectionManager(config)
app = FastAPI(lifespan=manager.lifespan)


def refusal(why: str) -> HTTPException:
    return HTTPException(401, why, headers={"WWW-Authenticate": "Bearer"})


def signed_in(authorization: Annotated[str, Header()] = "") -> str:
    user = USERS.get(authorization.removeprefix("Bearer "))
    if user is None:
        raise refusal("bearer token missing or unknown")
    return user


async def signed_in_or_back(token: str = "", authorization: Annotated[str, Header()] = "") -> str:
    """Redeem a reconnect token; without one, ask for the bearer token."""
    if not token:
        return signed_in(authorization)
    try:
        return await manager.validate_reconnect_token(token)
    except (InvalidTokenError, TokenExpiredError) as error:
        raise refusal(str(error)) from error


class Letter(BaseModel):
    """What a client sends."""

    to: str
    text: str


async def deliver(connection: Connection, message: str | bytes) -> None:
    try:
        letter = Letter.model_validate_json(message)
    except ValidationError:
        await connection.send({"error": 'send {"to": …, "text": …}'})
        return
    sent = await manager.send_to_client(letter.to, {"from": connection.client_id, "text": letter.text})
    await connection.send({"to": letter.to, "sent": sent})


@manager.websocket(app, "/ws", on_message=deliver)
async def identify(user: Annotated[str, Depends(signed_in_or_back)]) -> Identity:
    return Identity(user)


@app.post("/reconnect-token")
async def reconnect_token(user: Annotated[str, Depends(signed_in)]) -> dict[str, str]:
    return {"token": await manager.issue_reconnect_token(user)}
