"""What the servers of these tests serve: sockets kept in each way, all echoing, and HTTP routes to steer them.

One manager with the settings of the environment (``WS_*``); no Redis.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Request, WebSocket, WebSocketDisconnect
from pydantic import BaseModel, Field

from fastapi_websocket_stabilizer import (
    BroadcastFailedError,
    Connection,
    ConnectionNotFoundError,
    Identity,
    RequestFailedError,
    WebSocketConfig,
    WebSocketConnectionManager,
    WebSocketStabilizerError,
)

CHAT = "chat.v2"
"""The subprotocol that every endpoint knows."""
BIG = 2048
"""Characters of a message that is long enough to be compressed."""

manager = WebSocketConnectionManager(WebSocketConfig.from_env())
diary: dict[str, list[str]] = {}
received: Counter[str] = Counter()
"""Messages that reached an on_message, by client."""
gates: dict[str, asyncio.Event] = {}


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with manager.lifespan(app):
        yield
    print("diary:", diary, flush=True)  # for those who ask when the process has ended


app = FastAPI(lifespan=lifespan)


@manager.on_disconnect
def left(connection: Connection, code: int, reason: str) -> None:
    diary.setdefault(connection.client_id, []).append(f"{code} {reason}".rstrip())


# The ways to hold a socket. Whatever a client says is said back to it.


def admit(websocket: WebSocket, client_id: str) -> str | None:
    """Refuse strangers; return the subprotocol that was agreed on."""
    if client_id.startswith("stranger"):
        raise HTTPException(401, "who are you?", headers={"WWW-Authenticate": "Bearer"})
    return CHAT if CHAT in websocket.scope["subprotocols"] else None


async def echo(connection: Connection, message: str | bytes) -> None:
    received[connection.client_id] += 1
    with suppress(ConnectionNotFoundError):  # it has closed meanwhile
        await connection.send(message)


async def gate(client_id: str) -> None:
    """Hold a client at the door for as long as its gate is shut."""
    await gates.setdefault(client_id, asyncio.Event()).wait()


@manager.websocket(app, "/door-parked/{client_id}", on_message=echo)
async def identify_at_the_door(client_id: str) -> Identity:
    await gate(client_id)
    return Identity(client_id)


@app.websocket("/door-loop/{client_id}")
async def loop_behind_the_door(websocket: WebSocket, client_id: str) -> None:
    await gate(client_id)
    async with manager.connection(websocket, client_id) as connection:
        async for message in connection:
            await echo(connection, message)


@manager.websocket(app, "/parked/{client_id}", on_message=echo)
async def identify(websocket: WebSocket, client_id: str) -> Identity:
    return Identity(client_id, subprotocol=admit(websocket, client_id))


@app.websocket("/served/{client_id}")
async def served(websocket: WebSocket, client_id: str) -> None:
    subprotocol = admit(websocket, client_id)
    await manager.serve(websocket, client_id, subprotocol=subprotocol, on_message=echo, park=True)
    diary.setdefault(client_id, []).append("handler ended")


@app.websocket("/greeted/{client_id}")
async def greeted(websocket: WebSocket, client_id: str) -> None:
    """Speak through ASGI before the socket is parked."""
    await websocket.accept()
    for number in range(20):
        await websocket.send_text(numbered(number))
    await manager.serve(websocket, client_id, on_message=echo, park=True)


@app.websocket("/loop/{client_id}")
async def loop(websocket: WebSocket, client_id: str) -> None:
    subprotocol = admit(websocket, client_id)
    async with manager.connection(websocket, client_id, subprotocol=subprotocol) as connection:
        async for message in connection:
            await echo(connection, message)


@app.websocket("/mixed/{client_id}")
async def mixed(websocket: WebSocket, client_id: str) -> None:
    """Answer a number with so many messages, each sent in another way than the one before."""
    async with manager.connection(websocket, client_id, rooms=[client_id]) as connection:
        async for message in connection:
            for number in range(int(message)):
                await send_somehow(number, websocket, connection)


async def send_somehow(number: int, websocket: WebSocket, connection: Connection) -> None:
    text = numbered(number)
    match number % 4:
        case 0:
            await websocket.send_text(text)
        case 1:
            await connection.send(text)
        case 2:
            await manager.broadcast(text, room=connection.client_id)
        case 3:
            await manager.send_to_client(connection.client_id, text)


def numbered(number: int) -> str:
    """Return a message that is compressed, or one that is not."""
    return f"{number} {'x' * (BIG if number % 3 == 0 else 10)}"


@app.websocket("/raw/{client_id}")
async def raw(websocket: WebSocket, client_id: str) -> None:
    """Serve without the manager."""
    await websocket.accept(admit(websocket, client_id))
    while (event := await websocket.receive())["type"] == "websocket.receive":
        with suppress(WebSocketDisconnect):  # it has closed
            await websocket.send(
                {"type": "websocket.send", **{key: event.get(key) for key in ("text", "bytes")}}
            )
    diary.setdefault(client_id, []).append(str(event["code"]))


@app.websocket("/raw-closing/{client_id}")
async def raw_closing(websocket: WebSocket, client_id: str) -> None:
    await websocket.accept()
    await websocket.send_text("bye")
    await websocket.close(4002, client_id)


async def answer_later(connection: Connection, message: str | bytes) -> None:
    await gate(connection.client_id)
    await connection.send(str(len(message)))


@manager.websocket(app, "/gated/{client_id}", on_message=answer_later)
async def identify_gated(client_id: str) -> Identity:
    return Identity(client_id)


@app.websocket("/gated-loop/{client_id}")
async def gated_loop(websocket: WebSocket, client_id: str) -> None:
    async with manager.connection(websocket, client_id) as connection:
        async for message in connection:
            await answer_later(connection, message)


async def count(connection: Connection, message: str | bytes) -> None:
    received[connection.client_id] += 1


@manager.websocket(app, "/sink-parked/{client_id}", on_message=count)
async def identify_sink(client_id: str) -> Identity:
    return Identity(client_id)


@app.websocket("/sink-loop/{client_id}")
async def sink_loop(websocket: WebSocket, client_id: str) -> None:
    async with manager.connection(websocket, client_id) as connection:
        async for message in connection:
            await count(connection, message)


async def fail(connection: Connection, message: str | bytes) -> None:
    if message == "fail":
        raise ValueError("asked for")
    await connection.send(message)


@manager.websocket(app, "/failing/{client_id}", on_message=fail)
async def identify_failing(client_id: str) -> Identity:
    return Identity(client_id)


# Handlers that store a message and then write to its sender, as a chat does.

stored: dict[str, list[str]] = {}


async def store(connection: Connection, message: str | bytes) -> None:
    stored.setdefault(connection.client_id, []).append(str(message))
    await asyncio.sleep(0)  # as long as a database is asked
    await manager.broadcast(message, room=connection.client_id)
    await connection.send("stored")


@manager.websocket(app, "/storing-parked/{client_id}", on_message=store)
async def identify_storing(client_id: str) -> Identity:
    return Identity(client_id, rooms=[client_id])


@app.websocket("/storing-served/{client_id}")
async def storing_served(websocket: WebSocket, client_id: str) -> None:
    await manager.serve(websocket, client_id, rooms=[client_id], on_message=store)


@app.websocket("/storing-loop/{client_id}")
async def storing_loop(websocket: WebSocket, client_id: str) -> None:
    async with manager.connection(websocket, client_id, rooms=[client_id]) as connection:
        async for message in connection:
            await store(connection, message)


@app.websocket("/storing-classic/{client_id}")
async def storing_classic(websocket: WebSocket, client_id: str) -> None:
    await websocket.accept()
    connection = await manager.connect(client_id, websocket)
    try:
        await manager.join(client_id, client_id)
    except ConnectionNotFoundError:
        return  # the client has left already
    try:
        while True:
            message = await websocket.receive_text()
            if message == "take your time":
                await gate(client_id)
            await store(connection, message)
    except WebSocketDisconnect:
        await manager.disconnect(client_id)


@app.websocket("/closing-itself/{client_id}")
async def closing_itself(websocket: WebSocket, client_id: str) -> None:
    """Close through Starlette, and read on."""
    async with manager.connection(websocket, client_id) as connection:
        async for message in connection:
            await websocket.close(4002, str(message))


# The controls


@app.get("/stored/{client_id}")
async def read_stored(client_id: str) -> list[str]:
    return stored.get(client_id, [])


@app.get("/clients")
async def clients() -> list[str]:
    return manager.get_active_connections()


class Sum(BaseModel):
    """A message with a type."""

    of: list[int]


async def add(connection: Connection, message: Sum) -> None:
    await connection.send({"sum": sum(message.of)})


@manager.websocket(app, "/typed-parked/{client_id}", on_message=add)
async def identify_typed(client_id: str) -> Identity:
    return Identity(client_id)


@app.websocket("/typed-loop/{client_id}")
async def serve_typed(websocket: WebSocket, client_id: str) -> None:
    await manager.serve(websocket, client_id, on_message=add)


# Requests of clients of stabilizer.v1


class Rename(BaseModel):
    name: Annotated[str, Field(max_length=20)]


class Renamed(BaseModel):
    name: str


class RenamedInside(Renamed):
    """What the function has, and the client must not see."""

    secret: str = "hunter2"


@manager.on_request("rename")
async def rename(connection: Connection, data: Rename) -> Renamed:
    return RenamedInside(name=data.name)


@manager.on_request("anything")
def anything(connection: Connection, data: Any) -> Any:
    return data


@manager.on_request("hold")
async def hold(connection: Connection, data: str) -> str:
    try:
        await gate(data)
    except asyncio.CancelledError:
        diary.setdefault(connection.client_id, []).append("cancelled")
        raise
    return "held"


@manager.on_request("refuse")
def refuse(connection: Connection, data: int) -> None:
    raise HTTPException(data, "because", headers={"X-Secret": "hunter2"})


@manager.on_request("fail")
def fail_a_request(connection: Connection, data: Any) -> None:
    raise ValueError("asked for, hunter2")


@manager.on_request("wrong")
def return_another_type(connection: Connection, data: Any) -> Renamed:
    return {"asked": "for"}  # type: ignore[return-value]  # what is reported


@manager.on_request("disconnect")
async def disconnect_itself(connection: Connection, data: Any) -> None:
    await manager.disconnect(connection.client_id, 4322, "asked for")
    diary.setdefault(connection.client_id, []).append("disconnected")


@manager.on_request("leave")
async def close_own_connection(connection: Connection, data: Any) -> None:
    await connection.close(4321, "asked for")
    diary.setdefault(connection.client_id, []).append("went on")


shut: set[str] = set()
"""Rooms that clients may no longer enter by themselves."""


@manager.on_join
async def may_join(connection: Connection, room: str) -> bool:
    if room == "broken":
        raise ValueError("asked for")
    if room == "gone":
        raise HTTPException(404, "there is no such room")
    return room.startswith("open") and room not in shut


@app.put("/shut/{room}")
async def shut_room(room: str) -> None:
    shut.add(room)


# Requests to clients

asked: dict[str, asyncio.Task[Any]] = {}
"""Requests that the tests have sent, by a name of their own."""


async def outcome_of(request: Coroutine[Any, Any, Any]) -> Any:
    try:
        return {"answer": await request}
    except RequestFailedError as error:
        return {
            "error": type(error).__name__,
            "code": error.code,
            "message": error.message,
            "retry": error.retry,
        }
    except WebSocketStabilizerError as error:
        return {"error": type(error).__name__}


@app.post("/requests/{number}")
async def send_request(request: Request, number: str, to: str, timeout: float = 10.0) -> None:
    """Send the body to a client as the data of a request "confirm"."""
    call = manager.request(to, "confirm", await request.json(), timeout=timeout)
    asked[number] = asyncio.create_task(outcome_of(call))


@app.get("/requests/{number}")
async def wait_for_outcome(number: str) -> Any:
    return await asked.pop(number)


@app.delete("/requests/{number}")
async def cancel_request(number: str) -> bool:
    asked[number].cancel()
    await asyncio.wait([asked[number]])
    return asked.pop(number).cancelled()


async def ask_back(connection: Connection, message: str | bytes) -> None:
    """Ask the client while its message is handled."""
    answer = await outcome_of(connection.request("more", message, timeout=5.0))
    await connection.send(answer)


@manager.websocket(app, "/asking-parked/{client_id}", on_message=ask_back)
async def identify_asked(client_id: str) -> Identity:
    return Identity(client_id)


@app.websocket("/asking-served/{client_id}")
async def serve_asked(websocket: WebSocket, client_id: str) -> None:
    await manager.serve(websocket, client_id, on_message=ask_back)


@app.websocket("/asking-loop/{client_id}")
async def loop_asked(websocket: WebSocket, client_id: str) -> None:
    async with manager.connection(websocket, client_id) as connection:
        async for message in connection:
            await ask_back(connection, message)


@app.get("/rooms/{client_id}")
async def rooms_of(client_id: str) -> list[str]:
    return [room for c in manager._state.shards.of_client(client_id) for room in sorted(c.rooms)]


async def answer_slowly(connection: Connection, message: str | bytes) -> None:
    """Hold the messages of a client up, until its gate opens."""
    await gate(f"slow-{connection.client_id}")
    await connection.send(message)


@manager.websocket(app, "/slow-parked/{client_id}", on_message=answer_slowly)
async def identify_slow(client_id: str) -> Identity:
    return Identity(client_id)


@app.websocket("/slow-loop/{client_id}")
async def serve_slowly(websocket: WebSocket, client_id: str) -> None:
    async with manager.connection(websocket, client_id) as connection:
        async for message in connection:
            await answer_slowly(connection, message)


@app.websocket("/slow-served/{client_id}")
async def serve_slowly_without_parking(websocket: WebSocket, client_id: str) -> None:
    await manager.serve(websocket, client_id, on_message=answer_slowly)


@app.get("/diary/{client_id}")
async def read_diary(client_id: str) -> list[str]:
    return diary.get(client_id, [])


@app.get("/received/{client_id}")
async def count_received(client_id: str) -> int:
    """Count what on_message was called with."""
    return received[client_id]


@app.get("/ends/{client_id}")
async def ends_of(client_id: str) -> list[str]:
    """Tell why the connections of a client ended, the newest first."""
    return [
        f"{each.cause.value} {each.code}" for each in manager.recently_closed() if each.client_id == client_id
    ]


@app.websocket("/raising/{client_id}")
async def raising(websocket: WebSocket, client_id: str) -> None:
    async with manager.connection(websocket, client_id) as connection:
        async for message in connection:
            raise ValueError(f"asked for by {message!r}")


@app.websocket("/raising-classic/{client_id}")
async def raising_classic(websocket: WebSocket, client_id: str) -> None:
    await websocket.accept()
    await manager.connect(client_id, websocket)
    raise ValueError(f"asked for by {await websocket.receive_text()!r}")


@app.websocket("/returning/{client_id}")
async def returning(websocket: WebSocket, client_id: str) -> None:
    async with manager.connection(websocket, client_id) as connection:
        async for _ in connection:
            break


@app.get("/statistics")
async def statistics() -> dict[str, Any]:
    return asdict(manager.statistics())


@app.get("/tasks")
async def tasks() -> list[str]:
    """Name every task, so that a parked socket can be seen to have none."""
    return [task.get_name() for task in asyncio.all_tasks()]


@app.post("/send")
async def send(request: Request, to: str | None = None) -> int:
    body = await request.body()
    message = body.decode() if request.headers["content-type"] == "text/plain" else body
    if to is not None:
        return await manager.send_to_client(to, message)
    try:
        return (await manager.broadcast(message)).succeeded
    except BroadcastFailedError:
        return 0


@app.post("/storm")
async def storm(count: int, size: int) -> None:
    """Broadcast so many messages, as fast as they are taken."""
    for number in range(count):
        with suppress(BroadcastFailedError):
            await manager.broadcast(f"{number} ".ljust(size, "s"))
        await asyncio.sleep(0)


@app.get("/gates")
async def waiting_at_gates() -> list[str]:
    """Name the clients whose handler has come to its gate."""
    return list(gates)


@app.put("/gates/{client_id}")
async def open_gate(client_id: str) -> None:
    gates.setdefault(client_id, asyncio.Event()).set()


@app.delete("/clients/{client_id}")
async def disconnect(client_id: str, code: int, reason: str) -> None:
    await manager.disconnect(client_id, code, reason)


@app.get("/ready")
async def ready() -> str:
    return "ready"
