"""What a client sent before it left reaches the application, in order, and its own close code the hook."""

import pytest

from tests.support.waiting import eventually
from tests.wire.raw import Frame, Op, close, text
from tests.wire.servers import ASYNCIO, GRANIAN, HYPERCORN, STOCK_ROW, UVLOOP, Fleet, Row, Server

WORDS = [f"word {number}" for number in range(25)]
KEPT = ["parked", "served", "loop", "classic"]


@pytest.fixture(params=[UVLOOP, ASYNCIO, STOCK_ROW, STOCK_ROW.but("asyncio", loop="asyncio", http="h11")])
def any_server(fleet: Fleet, request: pytest.FixtureRequest) -> Server:
    """Also uvicorn's own class. The application has more time than on busy cores to read what came before a close."""
    row: Row = request.param
    return fleet.get(row.but("patient", environment={**row.environment, "WS_CLOSE_TIMEOUT_S": "30"}))


@pytest.mark.parametrize("kept", KEPT)
@pytest.mark.parametrize(
    ("row", "left"), [(HYPERCORN, "1006"), (GRANIAN, "4002")], ids=["hypercorn", "granian"]
)
async def test_other_servers_hand_over_all_that_came_before_a_close(
    fleet: Fleet, row: Row, left: str, client_id: str, kept: str
) -> None:
    """Neither has the reason of the close; hypercorn has no code either."""
    server = fleet.get(row)
    async with server.connected(f"storing-{kept}/{client_id}") as client:
        client.send(*map(text, WORDS), close(4002, b"done"))
        await client.rest()
    assert await server.left(client_id) == [left]
    assert await server.ask("GET", f"stored/{client_id}") == WORDS


async def has_stored(server: Server, client_id: str, count: int) -> bool:
    return len(await server.ask("GET", f"stored/{client_id}")) >= count


@pytest.mark.parametrize("kept", KEPT)
async def test_all_that_came_before_a_close_is_handled_though_the_handler_writes_to_the_client(
    any_server: Server, client_id: str, kept: str
) -> None:
    """The handler writes to the client after each message, and the client's close has arrived already."""
    failures = await any_server.counter("hooks_failed")
    async with any_server.connected(f"storing-{kept}/{client_id}") as client:
        client.send(*map(text, WORDS), close(4002, b"done"))
        await client.rest()
    assert (await any_server.left(client_id)) == ["4002 done"]
    assert await any_server.ask("GET", f"stored/{client_id}") == WORDS
    assert await any_server.counter("hooks_failed") == failures


@pytest.mark.parametrize("kept", KEPT)
async def test_all_that_came_before_a_client_hung_up_is_handled(
    any_server: Server, client_id: str, kept: str
) -> None:
    """The client closes its TCP connection too, and what the handler writes meets nobody."""
    async with any_server.connected(f"storing-{kept}/{client_id}") as client:
        client.send(*map(text, WORDS), close(4002, b"done"))
        client.writer.write_eof()
        await client.drain()
    await eventually(lambda: has_stored(any_server, client_id, len(WORDS)), what="all messages are handled")
    assert await any_server.ask("GET", f"stored/{client_id}") == WORDS
    assert (await any_server.left(client_id)) == ["4002 done"]


async def test_client_that_is_gone_leaves_the_registry_while_its_message_is_handled(
    server: Server, client_id: str
) -> None:
    async with server.connected(f"storing-classic/{client_id}") as client:
        await eventually(lambda: server.is_registered(client_id), what="the client is registered")
        client.send_text("take your time")
        await client.drain()
        client.reset()
    await eventually(lambda: is_gone(server, client_id), what="nobody is shown who is gone")
    await server.ask("PUT", f"gates/{client_id}")
    await eventually(lambda: has_stored(server, client_id, 1), what="the first message is handled")


async def is_gone(server: Server, client_id: str) -> bool:
    return not await server.is_registered(client_id)


async def test_handler_that_was_ended_by_an_error_leaves_no_ghost(server: Server, client_id: str) -> None:
    """``receive_text`` raises ``KeyError`` for a binary message, past ``except WebSocketDisconnect``."""
    async with server.connected(f"storing-classic/{client_id}") as client:
        await eventually(lambda: server.is_registered(client_id), what="the client is registered")
        client.send(Frame(Op.BINARY, b"\xff"))
        await client.rest()
    await eventually(lambda: is_gone(server, client_id), what="the socket is gone, and so is its entry")
    server.forgive("KeyError: 'text'")
    assert len(await server.left(client_id)) == 1


async def test_close_by_the_application_ends_its_own_receive(any_server: Server, client_id: str) -> None:
    """Starlette's ``websocket.close()``, and the next turn of ``async for``."""
    async with any_server.connected(f"closing-itself/{client_id}") as client:
        client.send_text("enough")
        assert await client.frame() == Frame(Op.CLOSE, close(4002, b"enough").payload, mask=None)
        await eventually(lambda: is_gone(any_server, client_id), what="the handler has ended")
        client.send(close(4002))
    assert len(await any_server.left(client_id)) == 1
