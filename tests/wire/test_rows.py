"""Every event loop with every HTTP parser, with TLS and without; how the class is mounted, and when it is not."""

from collections.abc import Iterator

import pytest

from tests.support.waiting import eventually
from tests.wire.raw import RSV1, Frame, Op, close, deflated, text
from tests.wire.servers import ASYNCIO, BOTH_LOOPS, STOCK_ROW, UVLOOP, Fleet, Row, Server, running

MIB = 1024 * 1024
ROWS = [
    *BOTH_LOOPS,  # each with one of the two parsers
    ASYNCIO.but("httptools", http="httptools"),
    UVLOOP.but("h11", http="h11"),
    *(row.but("tls", tls=True) for row in BOTH_LOOPS),
    ASYNCIO.but("httptools-tls", http="httptools", tls=True),
    UVLOOP.but("h11-tls", http="h11", tls=True),
]
DEFLATE = {"Sec-WebSocket-Extensions": "permessage-deflate; client_max_window_bits"}
AUTOMATIC = Row("automatic", protocol="")


@pytest.fixture(scope="module", params=ROWS, ids=lambda row: row.name)
def any_server(request: pytest.FixtureRequest, fleet: Fleet) -> Iterator[Server]:
    if request.param in BOTH_LOOPS:
        yield fleet.get(request.param)
        return
    with running(request.param) as server:
        yield server


async def test_messages_come_back(any_server: Server, way: str, client_id: str) -> None:
    async with any_server.connected(f"{way}/{client_id}", DEFLATE) as client:
        for content in ("", "grüße", "x" * 5000, "y" * MIB):
            assert await client.say(content) == content
            client.send(Frame(Op.BINARY, deflated(content.encode(), 12), rsv=RSV1))
            assert await client.message() == content.encode()
        client.ping(b"")
        assert await client.frame() == Frame(Op.PONG, mask=None)
        client.send(close(4001, b"bye"))
        assert await client.ending() == (4001, "bye")
    assert await any_server.left(client_id) == ["4001 bye"]


async def test_broadcasts_arrive_in_order_with_echoes(any_server: Server, way: str, client_id: str) -> None:
    async with any_server.connected(f"{way}/{client_id}", DEFLATE) as client:
        for number in range(10):
            await any_server.send(f"{number} ".ljust(400 * number))
            assert str(await client.message()).startswith(f"{number} ")
            assert await client.say(f"echo {number}") == f"echo {number}"
        await any_server.disconnect(client_id)
        assert await client.ending() == (4321, "bye")


async def test_violation_and_reset_release_the_connection(
    any_server: Server, way: str, client_id: str
) -> None:
    async with any_server.connected(f"{way}/{client_id}-1") as client:
        client.send(text("x", mask=None))
        assert (await client.ending())[0] == 1002
    async with any_server.connected(f"{way}/{client_id}-2") as client:
        client.reset()
        await any_server.left(f"{client_id}-2")
    await any_server.left(f"{client_id}-1")


# --- how it is mounted --------------------------------------------------------------------------------------


async def agreed(server: Server, path: str = "parked/ada") -> dict[str, str] | None:
    """Return what was agreed on: only our class takes over no context unless it was asked to."""
    async with server.connected(path, DEFLATE) as client:
        assert await client.say("x" * 5000) == "x" * 5000
        return client.answer.deflate


def is_ours(parameters: dict[str, str] | None) -> bool:
    names = {"server_no_context_takeover", "client_no_context_takeover"}
    return parameters is not None and names <= parameters.keys()


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_lifespan_mounts_the_class(fleet: Fleet, loop: str) -> None:
    assert is_ours(await agreed(fleet.get(AUTOMATIC.but(loop, loop=loop))))


async def test_class_may_be_named_on_the_command_line(fleet: Fleet) -> None:
    assert is_ours(await agreed(fleet.get(UVLOOP)))


async def test_setting_keeps_uvicorns_own_class() -> None:
    with running(AUTOMATIC.but("opted-out", environment={"WS_UVICORN_PROTOCOL": "false"})) as server:
        assert not is_ours(await agreed(server))
        assert not is_ours(await agreed(server, "loop/ada"))


async def test_another_class_of_the_users_is_left_alone() -> None:
    with running(AUTOMATIC.but("wsproto", protocol="wsproto")) as server:
        assert not is_ours(await agreed(server))


@pytest.mark.parametrize("protocol", ["", UVLOOP.protocol], ids=["automatic", "named"])
async def test_compression_none_agrees_on_none(protocol: str) -> None:
    row = UVLOOP.but("plain", protocol=protocol, environment={"WS_COMPRESSION": "none"})
    with running(row) as server:
        assert await agreed(server) is None


async def test_uvicorns_own_switch_for_compression_is_respected() -> None:
    options = ("--ws-per-message-deflate", "false")
    with running(UVLOOP.but("no-deflate", options=options)) as server:
        assert await agreed(server) is None
        assert await agreed(server, "raw/ada") is None


async def test_several_workers_all_have_the_class() -> None:
    with running(AUTOMATIC.but("workers", options=("--workers", "2"))) as server:
        for number in range(8):
            assert is_ours(await agreed(server, f"loop/ada-{number}"))


# --- sockets that no manager knows --------------------------------------------------------------------------

CONVERSATIONS = {
    "messages": [text("one"), Frame(Op.BINARY, b"\xff"), text(""), text("x" * 5000), close(4001, b"bye")],
    "fragments": [Frame(Op.TEXT, b"a", fin=False), Frame(Op.PING, b"!"), Frame(Op.CONT, b"b"), close(1000)],
    "compressed": [Frame(Op.TEXT, deflated(b"z" * 3000), rsv=RSV1), close(1000)],
    "violation": [Frame(3)],
    "unmasked": [text("x", mask=None)],
    "close-without-code": [Frame(Op.CLOSE)],
    # The limit of the manager also holds for sockets that it does not register.
    "1-MiB": [Frame(Op.BINARY, bytes(MIB)), close(1000)],
}
LIMITS = ("--ws-max-size", "1000", "--ws-ping-interval", "0.2", "--ws-ping-timeout", "0.5")


@pytest.mark.parametrize("frames", CONVERSATIONS.values(), ids=CONVERSATIONS)
async def test_socket_without_a_manager_is_served_as_by_uvicorn(
    fleet: Fleet, row: Row, client_id: str, frames: list[Frame]
) -> None:
    answers = [await converse(fleet.get(kind), client_id, frames) for kind in (STOCK_ROW, row)]
    assert answers[0] == answers[1]


async def converse(server: Server, client_id: str, frames: list[Frame]) -> list[object]:
    """Return what the server says: messages, pongs and the close frame."""
    said: list[object] = []
    async with server.connected(f"raw/{client_id}", DEFLATE) as client:
        for frame in frames:
            client.send(frame)
            if frame.fin and (answer := await client.frame()) is not None:
                is_message = answer.opcode in (Op.TEXT, Op.BINARY)
                said.append(client.decode(answer) if is_message else answer)
        said.append(await client.rest())
    return said


async def test_uvicorns_own_limits_hold(row: Row) -> None:
    with running(row.but("limits", options=LIMITS)) as server:
        async with server.connected("raw/ada") as client, server.connected("parked/ada") as parked:
            for _ in range(4):
                frame = await client.frame()
                assert frame is not None
                assert frame.opcode == Op.PING
                client.send(Frame(Op.PONG, frame.payload))
            parked.send(text("pinged by the manager, and not yet"))
            assert await parked.frame() == text("pinged by the manager, and not yet", mask=None)
            assert await client.ending() == (1011, "keepalive ping timeout")
        for way in ("raw", "parked"):
            async with server.connected(f"{way}/eve") as client:
                client.send(text("x" * 1001))
                assert (await client.ending())[0] == 1009


async def test_stock_row_is_served_by_uvicorns_own_class(fleet: Fleet) -> None:
    """It is what our class is compared with, so it must not be our class."""
    assert not is_ours(await agreed(fleet.get(STOCK_ROW), "raw/ada"))


async def test_trace_log_has_the_beginning_and_the_end_of_a_socket() -> None:
    """As with uvicorn's own class."""
    with running(UVLOOP.but("trace", options=("--log-level", "trace"))) as server:
        async with server.connected("raw/ada"):
            pass
        await eventually(
            lambda: "WebSocket connection lost" in server.process.output, what="the end is logged"
        )
        assert "WebSocket connection made" in server.process.output


async def test_close_of_an_endpoint_without_a_manager(server: Server, client_id: str) -> None:
    async with server.connected(f"raw-closing/{client_id}") as client:
        assert await client.message() == "bye"
        assert await client.ending() == (4002, client_id)
