"""Every way a registered socket can end, or its handler can fail, leaves nothing behind and hurts nobody else."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
from fastapi import FastAPI, WebSocket, WebSocketDisconnect

from fastapi_websocket_stabilizer import (
    BroadcastFailedError,
    Connection,
    WebSocketConfig,
    WebSocketConnectionManager,
)
from tests.support.waiting import eventually
from tests.wire.inprocess import Served, serving
from tests.wire.raw import Frame, Op, RawClient, close, deflated, text

Handle = Callable[[Connection, str | bytes], Awaitable[None]]
QUICK: dict[str, Any] = {"write_timeout_s": 0.3, "close_timeout_s": 0.3}
both_ways = pytest.mark.parametrize("park", [True, False], ids=["parked", "loop"])


def application(
    manager: WebSocketConnectionManager, handle: Handle | None = None, *, park: bool = True
) -> FastAPI:
    app = FastAPI(lifespan=manager.lifespan)

    @app.websocket("/{client_id}")
    async def serve(websocket: WebSocket, client_id: str) -> None:
        await manager.serve(websocket, client_id, on_message=handle, park=park)

    return app


async def fill(manager: WebSocketConnectionManager, client_id: str) -> None:
    """Send until the socket takes no more."""
    while not manager.statistics().counters["sockets_paused"]:
        await manager.send_to_client(client_id, b"x" * 100_000)


@both_ways
async def test_end_of_stream_behind_a_full_buffer_is_the_end(park: bool) -> None:
    """The peer has half closed, and reads nothing: neither it nor the server's shutdown may wait for ever."""
    manager = WebSocketConnectionManager(WebSocketConfig(**QUICK))
    async with serving(application(manager, park=park)) as served, served.connected("a") as client:
        await eventually(lambda: manager.get_connection_count() == 1)
        client.stop_reading()
        await fill(manager, "a")
        client.writer.write_eof()
        await eventually(lambda: not manager.get_connection_count())
        await eventually(lambda: not served.open_sockets)


async def test_socket_that_was_full_before_it_was_registered_is_a_slow_one() -> None:
    """Nobody else is cancelled for it: the deadline is its own writer's."""
    manager = WebSocketConnectionManager(WebSocketConfig(**QUICK))
    app, release = FastAPI(lifespan=manager.lifespan), asyncio.Event()

    @app.websocket("/{client_id}")
    async def serve(websocket: WebSocket, client_id: str) -> None:
        await websocket.accept()
        sending = asyncio.create_task(websocket.send_bytes(b"x" * 16_000_000))
        await sending
        await manager.connect(client_id, websocket)
        with suppress(WebSocketDisconnect):
            await websocket.receive()
        release.set()

    async with serving(app) as served, served.connected("a") as client:
        client.stop_reading()
        await eventually(lambda: manager.get_connection_count() == 1)
        assert (await manager.broadcast("hello")).succeeded == 1
        await eventually(lambda: manager.statistics().counters["slow_consumers"] == 1)
        await asyncio.wait_for(release.wait(), 5)


@both_ways
async def test_cancellation_of_something_the_handler_waited_for_is_a_failed_message(park: bool) -> None:
    heard: list[str | bytes] = []

    async def handle(connection: Connection, message: str | bytes) -> None:
        heard.append(message)
        if message == "boom":
            other = asyncio.create_task(asyncio.sleep(10))
            other.cancel()
            await other

    manager = WebSocketConnectionManager()
    async with serving(application(manager, handle, park=park)) as served:
        async with served.connected("a") as client:
            for message in ("one", "boom", "two"):
                client.send_text(message)
            await eventually(lambda: heard == ["one", "boom", "two"])
            assert manager.statistics().counters["hooks_failed"] == 1
        await eventually(lambda: not manager.get_connection_count())


@both_ways
async def test_client_that_was_sent_away_gives_no_more_orders(park: bool) -> None:
    heard: list[str | bytes] = []

    async def handle(connection: Connection, message: str | bytes) -> None:
        heard.append(message)
        await connection.close(4003, "signed out")

    manager = WebSocketConnectionManager()
    async with serving(application(manager, handle, park=park)) as served, served.connected("a") as client:
        client.send(text("1"), text("2"), text("3"))
        assert await client.ending() == (4003, "signed out")
    assert heard == ["1"]


async def test_socket_under_two_ids_tells_both_of_its_end() -> None:
    may_end = asyncio.Event()
    manager = WebSocketConnectionManager()
    app = FastAPI(lifespan=manager.lifespan)

    @app.websocket("/{client_id}")
    async def serve(websocket: WebSocket, client_id: str) -> None:
        await websocket.accept()
        await manager.connect(client_id, websocket)
        if client_id == "user":
            await manager.connect("device", websocket)
        with suppress(WebSocketDisconnect):
            while True:
                await websocket.receive_text()
        await may_end.wait()

    async with serving(app) as served, served.connected("good") as good, served.connected("user") as client:
        await eventually(lambda: manager.get_connection_count() == 3)
        await manager.disconnect("device", 4000, "bye")
        await manager.broadcast("after the close")
        assert await client.ending() == (4000, "bye"), "and nothing behind it"
        assert await good.message() == "after the close"
        may_end.set()


async def test_close_by_the_application_of_a_parked_socket_is_its_last_word() -> None:
    busy, may_end = asyncio.Event(), asyncio.Event()

    async def handle(connection: Connection, message: str | bytes) -> None:
        busy.set()
        await may_end.wait()

    manager = WebSocketConnectionManager()
    app = FastAPI(lifespan=manager.lifespan)

    @app.websocket("/{client_id}")
    async def serve(websocket: WebSocket, client_id: str) -> None:
        await manager.serve(websocket, client_id, on_message=handle, park=True)
        await busy.wait()
        await websocket.close(4001)

    async with serving(app) as served, served.connected("a") as client:
        client.send_text("busy")
        await busy.wait()
        await asyncio.sleep(0)
        await eventually(lambda: served.server.server_state.tasks == set())
        with suppress(BroadcastFailedError):
            await manager.broadcast("after the close frame")
        assert await client.ending() == (4001, "")
        may_end.set()


async def test_shutdown_that_has_no_time_left_still_closes_parked_sockets() -> None:
    manager = WebSocketConnectionManager(WebSocketConfig(**QUICK))
    async with serving(application(manager)) as served, served.connected("a") as client:
        await eventually(lambda: manager.get_connection_count() == 1)
        await manager.graceful_shutdown(0)
        assert (await client.ending())[0] == 1001
        await eventually(lambda: not served.open_sockets)


async def test_reset_is_found_while_the_handler_is_busy() -> None:
    may_end = asyncio.Event()

    async def handle(connection: Connection, message: str | bytes) -> None:
        await may_end.wait()

    manager = WebSocketConnectionManager(
        WebSocketConfig(heartbeat_interval=0.1, heartbeat_timeout=0.2, **QUICK)
    )
    async with serving(application(manager, handle)) as served, served.connected("a") as client:
        client.send_text("work")
        await eventually(lambda: manager.get_connection_count() == 1)
        client.reset()
        await eventually(lambda: not manager.get_connection_count())
        may_end.set()


async def test_little_deflate_is_not_a_lot_of_messages_at_once() -> None:
    """200 messages of 100 KB in 20 KB: only those are inflated that the application takes."""
    taken, may_go = asyncio.Event(), asyncio.Event()
    heard: list[int] = []

    async def handle(connection: Connection, message: str | bytes) -> None:
        heard.append(len(message))
        taken.set()
        await may_go.wait()

    manager = WebSocketConnectionManager()
    bomb = Frame(Op.TEXT, deflated(b"x" * 100_000, 12), rsv=4).encode()
    offer = "permessage-deflate; client_max_window_bits"
    async with serving(application(manager, handle)) as served, served.connected("a", offer) as client:
        client.write(bomb * 200)
        await taken.wait()
        (protocol,) = served.server.server_state.connections
        waiting = len(protocol._reader.buffer)  # type: ignore[union-attr]  # ours
        may_go.set()  # whatever comes of it, or the server would wait for the handler
        assert waiting > 0, "the rest waits, compressed"
        await eventually(lambda: heard == [100_000] * 200)


@pytest.mark.parametrize("late", [False, True], ids=["at once", "after the socket is gone"])
async def test_classic_handler_does_not_wait_for_a_peer_that_has_left(late: bool) -> None:
    """``disconnect`` returns, and ``on_disconnect`` has run, long before ``close_timeout_s``."""
    manager = WebSocketConnectionManager(WebSocketConfig(close_timeout_s=60))
    app, diary = FastAPI(lifespan=manager.lifespan), list[str]()
    manager.on_disconnect(lambda connection, code, reason: diary.append(f"{code}"))

    @app.websocket("/{client_id}")
    async def classic(websocket: WebSocket, client_id: str) -> None:
        await websocket.accept()
        await manager.connect(client_id, websocket)
        try:
            while True:
                await websocket.receive_text()
        except WebSocketDisconnect:
            if late:
                await eventually(lambda: not manager.get_connection_count())
            await manager.disconnect(client_id)
            diary.append("handler")

    async with serving(app) as served, served.connected("a") as client:
        client.send(close(4001))
        await client.rest()
        await eventually(lambda: len(diary) == 2, what="the handler has ended")
    assert "4001" in diary


async def test_closes_that_cross_end_the_socket_at_once() -> None:
    """The peer's close frame lies behind messages that the busy handler has not taken."""
    manager = WebSocketConnectionManager(WebSocketConfig(close_timeout_s=60))
    busy, may_go = asyncio.Event(), asyncio.Event()

    async def handle(connection: Connection, message: str | bytes) -> None:
        busy.set()
        await may_go.wait()

    async with serving(application(manager, handle)) as served, served.connected("a") as client:
        client.send(text("one"), text("two"), close(4001))
        await busy.wait()
        closing = asyncio.create_task(manager.disconnect("a"))
        assert [frame.opcode for frame in await client.rest()] == [Op.CLOSE]
        may_go.set()
        await closing


async def test_application_that_has_closed_gets_no_more_of_a_peer_that_has_left() -> None:
    manager = WebSocketConnectionManager(WebSocketConfig(**QUICK))
    heard, may_go = list[str | bytes](), asyncio.Event()

    async def handle(connection: Connection, message: str | bytes) -> None:
        heard.append(message)
        await may_go.wait()
        await connection.close()

    async with serving(application(manager, handle)) as served:
        async with served.connected("a") as client:
            client.send(text("bye"))
            await eventually(lambda: heard)
            client.send(text("and more"))
            await client.drain()
        may_go.set()
        await eventually(lambda: not manager.get_connection_count())
    assert heard == ["bye"]


async def test_peer_that_leaves_while_it_is_registered_is_reported_behind_on_connect() -> None:
    manager = WebSocketConnectionManager(WebSocketConfig(**QUICK))
    app, diary, may_go = FastAPI(lifespan=manager.lifespan), list[str](), asyncio.Event()
    manager.on_disconnect(lambda connection, code, reason: diary.append("left"))

    @app.websocket("/{client_id}")
    async def late(websocket: WebSocket, client_id: str) -> None:
        await websocket.accept()
        await may_go.wait()
        await manager.connect(client_id, websocket)
        diary.append("connected")

    async with serving(app) as served:
        async with served.connected("a"):
            pass
        await eventually(lambda: served.open_sockets == 0, what="the socket is gone")
        may_go.set()
        await eventually(lambda: len(diary) == 2, what="the connection is released")
        assert (diary, manager.get_connection_count()) == (["connected", "left"], 0)


async def test_interval_of_weeks_is_no_trouble_for_the_kernel() -> None:
    manager = WebSocketConnectionManager(
        WebSocketConfig(heartbeat_interval=2_200_000, heartbeat_timeout=2_200_000)
    )

    async def echo(connection: Connection, message: str | bytes) -> None:
        await connection.send(message)

    async with serving(application(manager, echo)) as served, served.connected("a") as client:
        assert await client.say("hi") == "hi"


async def test_own_send_is_not_held_for_ever_behind_others() -> None:
    """A slow peer, steady broadcasts, and the application's own message in between."""
    manager = WebSocketConnectionManager(
        WebSocketConfig(outbox_policy="drop_oldest", outbox_size=300_000, **QUICK)
    )
    app, done = FastAPI(lifespan=manager.lifespan), asyncio.Event()

    @app.websocket("/{client_id}")
    async def serve(websocket: WebSocket, client_id: str) -> None:
        async with manager.connection(websocket, client_id) as connection:
            async for _ in connection:
                await websocket.send_text("mine")
                done.set()

    async with serving(app) as served, served.connected("a") as client:
        client.stop_reading()
        await fill(manager, "a")
        client.send_text("go")
        reading = asyncio.create_task(_read_slowly(client))
        async with asyncio.timeout(8):
            while not done.is_set():
                await manager.send_to_client("a", b"x" * 50_000)
                await asyncio.sleep(0.005)
        reading.cancel()


async def _read_slowly(client: RawClient) -> None:
    while True:
        client.read_on()
        await client.frame()
        client.stop_reading()
        await asyncio.sleep(0.01)


async def test_manager_of_a_served_application_starts_again() -> None:
    manager = WebSocketConnectionManager()

    async def echo(connection: Connection, message: str | bytes) -> None:
        await connection.send(message)

    for _ in range(2):
        async with serving(application(manager, echo)) as served, served.connected("a") as client:
            assert await client.say("hi") == "hi"
        assert isinstance(served, Served)
