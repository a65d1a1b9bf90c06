"""Each end of a connection has exactly one cause, whoever ended it and whichever server holds the socket."""

import pytest

from tests.support.waiting import eventually
from tests.wire.raw import Frame, Op, RawClient, close, text
from tests.wire.servers import ASYNCIO, GRANIAN, HYPERCORN, STOCK_ROW, UVLOOP, Fleet, Row, Server

KEPT = ["storing-parked", "storing-served", "storing-loop", "storing-classic"]


@pytest.fixture(
    params=[
        UVLOOP,
        STOCK_ROW,
        *(pytest.param(row, marks=pytest.mark.later) for row in (ASYNCIO, HYPERCORN, GRANIAN)),
    ],
    ids=lambda row: str(row.name),
)
def any_server(fleet: Fleet, request: pytest.FixtureRequest) -> Server:
    """Also servers that call nothing of this library."""
    row: Row = request.param
    return fleet.get(row)


async def why(server: Server, client_id: str) -> str:
    """Return the cause and the code of the only end of a client's connections."""

    async def ends() -> list[str]:
        found: list[str] = await server.ask("GET", f"ends/{client_id}")
        return found

    await eventually(ends, what="the end is known")
    (end,) = await ends()
    return end


async def registered(server: Server, client: RawClient, client_id: str) -> RawClient:
    await eventually(lambda: server.is_registered(client_id), what="the client is registered")
    return client


@pytest.mark.parametrize("kept", KEPT)
async def test_client_that_closes(any_server: Server, client_id: str, kept: str) -> None:
    async with any_server.connected(f"{kept}/{client_id}") as client:
        await registered(any_server, client, client_id)
        client.send(close(4002, b"done"))
        await client.rest()
    # hypercorn has no code of a client's close frame, only 1006
    assert await why(any_server, client_id) == (
        "peer_gone 1006" if any_server.row.name == HYPERCORN.name else "peer_closed 4002"
    )


@pytest.mark.parametrize("kept", KEPT)
async def test_client_that_vanishes(any_server: Server, client_id: str, kept: str) -> None:
    async with any_server.connected(f"{kept}/{client_id}") as client:
        await registered(any_server, client, client_id)
        client.reset()
    tells_no_difference = any_server.row.name in (
        STOCK_ROW.name,
        GRANIAN.name,
    )  # to a close frame without a code
    expected = "peer_closed 1005" if tells_no_difference else "peer_gone 1006"
    assert await why(any_server, client_id) == expected


@pytest.mark.parametrize("kept", KEPT)
async def test_client_that_is_disconnected(any_server: Server, client_id: str, kept: str) -> None:
    async with any_server.connected(f"{kept}/{client_id}") as client:
        await registered(any_server, client, client_id)
        await any_server.disconnect(client_id)
        await client.rest()
    assert await why(any_server, client_id) == "kicked 4321"


@pytest.mark.parametrize("kept", KEPT)
async def test_client_that_opens_another_socket(any_server: Server, client_id: str, kept: str) -> None:
    async with any_server.connected(f"{kept}/{client_id}") as client:
        await registered(any_server, client, client_id)
        async with any_server.connected(f"{kept}/{client_id}"):
            await client.rest()
            assert await why(any_server, client_id) == "replaced 1000"


@pytest.mark.parametrize("kept", KEPT)
async def test_client_that_sends_too_much_at_once(any_server: Server, client_id: str, kept: str) -> None:
    async with any_server.connected(f"{kept}/{client_id}") as client:
        await registered(any_server, client, client_id)
        client.send(Frame(Op.TEXT, b"x" * 600_000, fin=False), Frame(Op.CONT, b"y" * 600_000))
        await client.rest()
    assert await why(any_server, client_id) == "too_large 1009"


@pytest.mark.parametrize("kept", ["parked", "loop", "storing-classic"])
async def test_client_that_breaks_the_protocol(server: Server, client_id: str, kept: str) -> None:
    """Other servers end such a connection without a word to the application: there, the client has vanished."""
    async with server.connected(f"{kept}/{client_id}") as client:
        await registered(server, client, client_id)
        client.send(text("\x00", rsv=7))
        await client.rest()
    assert await why(server, client_id) == "protocol_error 1002"


@pytest.mark.parametrize("route", ["raising", "raising-classic"])
async def test_handler_that_raises(any_server: Server, client_id: str, route: str) -> None:
    async with any_server.connected(f"{route}/{client_id}") as client:
        await registered(any_server, client, client_id)
        client.send_text(client_id)
        await client.rest()
    assert (await why(any_server, client_id)).split()[0] == "handler_error"
    expected = f"asked for by '{client_id}'"
    await eventually(lambda: expected in any_server.process.output, what="the error is in the log")
    any_server.forgive(expected)


async def test_handler_that_returns(any_server: Server, client_id: str) -> None:
    async with any_server.connected(f"returning/{client_id}") as client:
        await registered(any_server, client, client_id)
        client.send_text("enough")
        await client.rest()
    assert await why(any_server, client_id) == "released 1000"


async def test_handler_that_closes_through_starlette(any_server: Server, client_id: str) -> None:
    async with any_server.connected(f"closing-itself/{client_id}") as client:
        await registered(any_server, client, client_id)
        client.send_text("bye")
        await client.rest()
    assert await why(any_server, client_id) == "released 4002"


async def test_causes_add_up_to_all_ends(any_server: Server) -> None:
    async def is_exact() -> bool:
        statistics = await any_server.statistics()
        counters = statistics["counters"]
        assert sum(statistics["closed"].values()) == counters["connections_closed"]
        return bool(
            counters["connections_opened"] - counters["connections_closed"] == statistics["connections"]
        )

    await eventually(is_exact, what="each connection that was opened is open, or has one end")
