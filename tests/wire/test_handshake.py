"""From the request to 101 or a refusal, and clients that never get that far."""

import asyncio
import json
from contextlib import AsyncExitStack
from functools import partial

import pytest

from tests.support.waiting import eventually
from tests.wire.app import CHAT
from tests.wire.raw import Frame, Op, close, closing, request, text
from tests.wire.servers import Server


async def test_subprotocol_that_the_application_chose_is_agreed_on(
    server: Server, way: str, client_id: str
) -> None:
    offer = {"Sec-WebSocket-Protocol": f"chat.v9, {CHAT}"}
    async with server.connected(f"{way}/{client_id}", offer) as client:
        assert client.answer.headers["sec-websocket-protocol"] == CHAT
        assert await client.say("hello") == "hello"


@pytest.mark.parametrize("offer", ["", "chat.v9, chat.v10"], ids=["none", "unknown"])
async def test_subprotocol_is_left_out_when_none_was_chosen(
    server: Server, way: str, client_id: str, offer: str
) -> None:
    async with server.connected(f"{way}/{client_id}", {"Sec-WebSocket-Protocol": offer}) as client:
        assert "sec-websocket-protocol" not in client.answer.headers


async def test_exception_before_accept_is_the_answer(server: Server, way: str) -> None:
    async with server.dialled() as client:
        client.write(request(f"{way}/stranger"))
        answer = await client.shake_hands()
        assert await client.rest() == []
    assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert json.loads(answer.body) == {"detail": "who are you?"}
    assert not await server.is_registered("stranger")


async def test_unknown_path_is_refused(server: Server) -> None:
    async with server.dialled() as client:
        client.write(request("nowhere"))
        assert (await client.shake_hands()).status in (403, 404)
        assert await client.rest() == []


BAD_REQUESTS = {
    "no-key": ({"Sec-WebSocket-Key": ""}, 400),
    "short-key": ({"Sec-WebSocket-Key": "c2hvcnQ="}, 400),
    "key-that-is-no-base64": ({"Sec-WebSocket-Key": "*" * 24}, 400),
    "no-version": ({"Sec-WebSocket-Version": ""}, 400),
    "version-8": ({"Sec-WebSocket-Version": "8"}, 400),
    "broken-extensions": ({"Sec-WebSocket-Extensions": "permessage-deflate; ; ="}, 400),
}


@pytest.mark.parametrize(("headers", "status"), BAD_REQUESTS.values(), ids=BAD_REQUESTS)
async def test_bad_request_is_refused(
    server: Server, client_id: str, headers: dict[str, str], status: int
) -> None:
    async with server.dialled() as client:
        client.write(request(f"parked/{client_id}", headers))
        assert (await client.shake_hands()).status == status
        assert await client.rest() == []
    assert not await server.is_registered(client_id)


async def test_header_that_is_not_ascii_harms_nothing(server: Server, client_id: str) -> None:
    async with server.dialled() as client:
        client.write(request(f"parked/{client_id}", {"X-Name": "MARK"}).replace(b"MARK", "grüße".encode()))
        assert (await client.shake_hands()).status in (101, 400)


HALVES = [b"G", b"GET /parked/half HTTP/1.1\r\n", request("parked/half")[:-2], request("parked/half")[:-40]]


@pytest.mark.parametrize("half", HALVES, ids=range(len(HALVES)))
async def test_half_a_request_registers_nobody_and_delays_nobody(server: Server, half: bytes) -> None:
    async with server.dialled() as client:
        client.write(half)
        await client.drain()
        async with server.connected("parked/whole") as other:
            assert await other.say("not delayed") == "not delayed"
        assert not await server.is_registered("half")


async def test_request_may_come_byte_by_byte(server: Server, way: str, client_id: str) -> None:
    message = request(f"{way}/{client_id}")
    async with server.dialled() as client:
        await client.write_pieces([message[index : index + 1] for index in range(len(message))])
        assert (await client.shake_hands()).status == 101
        assert await client.say("hello") == "hello"


async def test_clients_that_reset_in_the_handshake_are_not_kept(
    server: Server, way: str, client_id: str
) -> None:
    names = [f"{client_id}-{number}" for number in range(20)]
    for name in names:
        async with server.dialled() as client:
            client.write(request(f"{way}/{name}"))
            await client.drain()
            client.reset()
    for name in names:
        await eventually(partial(is_gone, server, name), what=f"no socket of {name}")


async def test_client_may_redial_before_it_was_accepted(server: Server, way: str, client_id: str) -> None:
    """Each newer socket replaces one that is still being asked who it is."""
    async with AsyncExitStack() as stack:
        for _ in range(10):
            hasty = await stack.enter_async_context(server.dialled())
            hasty.write(request(f"{way}/{client_id}"))
        async with server.connected(f"{way}/{client_id}") as last:
            assert await last.say("the last of many") == "the last of many"
    await eventually(partial(is_gone, server, client_id), what="no socket of the client")


async def test_client_that_leaves_in_the_handshake_is_not_kept(
    server: Server, way: str, client_id: str
) -> None:
    async with server.dialled() as client:
        client.write(request(f"{way}/{client_id}"))
        client.writer.write_eof()
        await client.shake_hands()
    await eventually(partial(is_gone, server, client_id), what="no socket of the client that left")


async def is_at_the_door(server: Server, client_id: str) -> bool:
    return client_id in await server.ask("GET", "gates")


async def is_gone(server: Server, client_id: str) -> bool:
    return not await server.is_registered(client_id)


async def test_many_sockets_may_be_opened_at_once(server: Server, way: str, client_id: str) -> None:
    async def visit(number: int) -> None:
        async with server.connected(f"{way}/{client_id}-{number}") as client:
            assert await client.say("hello") == "hello"
            client.send(close(1000))
            assert await client.ending() == (1000, "")

    async with asyncio.TaskGroup() as tasks:
        for number in range(50):
            tasks.create_task(visit(number))


async def test_message_glued_to_the_request_hangs_nothing(server: Server, way: str, client_id: str) -> None:
    """uvicorn's HTTP protocols drop what follows the request; a client that waits for 101 never notices."""
    async with server.dialled() as client:
        client.write(request(f"{way}/{client_id}") + text("early").encode())
        assert (await client.shake_hands()).status == 101
        answer = await client.say("late")
        assert answer == "late" or (answer, await client.message()) == ("early", "late")


async def test_message_sent_before_101_came_is_not_lost(server: Server, way: str, client_id: str) -> None:
    """A segment of its own: it arrives while the application decides."""
    async with server.dialled() as client:
        await client.write_pieces([request(f"{way}/{client_id}"), text("early").encode()])
        assert (await client.shake_hands()).status == 101
        answer = await client.say("late")
        # The kernel may have handed both segments over as one.
        assert answer == "late" or (answer, await client.message()) == ("early", "late")


EARLY = {
    "ping": ([Frame(Op.PING, b"early")], Frame(Op.PONG, b"early", mask=None)),
    "close": ([close(4001, b"no")], Frame(Op.CLOSE, close(4001, b"no").payload, mask=None)),
    "violation": ([Frame(3, rsv=7)], None),
}


@pytest.mark.parametrize(("frames", "answer"), EARLY.values(), ids=EARLY)
async def test_nothing_is_read_before_the_application_accepts(
    server: Server, way: str, client_id: str, frames: list[Frame], answer: Frame | None
) -> None:
    """The frames arrive while the application decides; an answer to them may not come before 101."""
    async with server.dialled() as client:
        client.write(request(f"door-{way}/{client_id}"))
        # uvicorn's HTTP protocols drop what the kernel hands them together with the request.
        await eventually(partial(is_at_the_door, server, client_id), what="the application decides")
        client.send(*frames)
        await client.drain()
        await server.ask("PUT", f"gates/{client_id}")
        assert (await client.shake_hands()).status == 101
        first = await client.frame()
        assert first is not None
        assert first == answer or (answer is None and closing(first)[0] == 1002)
    await eventually(partial(is_gone, server, client_id), what="no socket of the client")


@pytest.mark.parametrize(
    "headers",
    [{"Cookie": "x" * 9000}, {f"X-{number}": "y" for number in range(140)}, {"Content-Length": "5"}],
    ids=["long header", "many headers", "body"],
)
async def test_request_that_the_parser_gives_up_on_is_answered(
    server: Server, client_id: str, headers: dict[str, str]
) -> None:
    async with server.dialled() as client:
        client.write(request(f"parked/{client_id}", headers))
        assert 400 <= (await client.shake_hands()).status < 500
        assert await client.rest() == []
    assert not await server.is_registered(client_id)


async def test_request_to_register_a_legal_name_only(server: Server, way: str) -> None:
    async with server.dialled() as client:
        client.write(request(f"{way}/%01"))
        assert (await client.shake_hands()).status == 400
