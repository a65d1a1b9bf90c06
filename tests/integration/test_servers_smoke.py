"""uvicorn (our WebSocket class and its own), hypercorn and granian: real processes, the same promises on each."""

import asyncio
import json
import os
import re
import secrets
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus
from websockets.frames import Frame, Opcode
from websockets.http11 import Response

from tests.integration.smoke_app import CLOSE_TIMEOUT_S, KIB, WRITE_TIMEOUT_S
from tests.support import http
from tests.support.process import STOP_TIMEOUT_S, ChildProcess, free_port
from tests.support.waiting import eventually, eventually_sync

PROJECT = Path(__file__).parents[2]
APPLICATION = "tests.integration.smoke_app:app"
UVICORN = f"uvicorn {APPLICATION} --port PORT --timeout-graceful-shutdown 1 --log-level warning"
COMMANDS = {
    "uvicorn": UVICORN,
    "uvicorn-plain": f"{UVICORN} --ws websockets-sansio",
    "uvicorn-wsproto": f"{UVICORN} --ws wsproto",
    # Zero workers is one process: a worker would outlive a supervisor that is killed.
    "hypercorn": f"hypercorn {APPLICATION} --bind 127.0.0.1:PORT --workers 0 --graceful-timeout 1",
    "granian": f"granian {APPLICATION} --port PORT --interface asgi --workers-kill-timeout 1",
}
WAYS = ("serve", "route", "connection", "connect")
BEFORE_ACCEPT = ("serve", "route", "connection")
"""The ways that claim first and accept then."""
ANSWER_S = 15.0
MARGIN_S = 1.0
"""What two busy cores may add to a deadline."""
ANSWERED_PINGS = 8
"""Longer than the interval and the timeout together."""
INTERNAL_ERROR = 1011
FLOOD_MIB = 12
"""The kernel swallows about 4 MiB for a client that does not read."""

Content = str | bytes | dict[str, str]


class Server:
    """A running server, and what can be asked of the application in it."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.http = http.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=10)

    def connect(self, path: str) -> connect:
        return connect(f"ws://127.0.0.1:{self.port}/{path}", proxy=None, ping_interval=None, close_timeout=1)

    async def clients(self, place: str) -> list[str]:
        found: list[str] = (await self.http.get(f"/{place}/clients")).json()
        return found

    async def diary(self, place: str, client_id: str) -> list[str]:
        written: list[str] = (await self.http.get(f"/{place}/diary/{client_id}")).json()
        return sorted(written)

    async def has_real_pings(self) -> bool:
        answer = await self.http.get("/readyz")
        return str(answer.json()["protocol"]).endswith(":WebSocketProtocol")

    async def disconnect(self, place: str, client_id: str) -> None:
        parameters = {"code": "4321", "reason": "bye"}
        answer = await self.http.delete(f"/{place}/clients/{client_id}", params=parameters)
        answer.raise_for_status()

    async def send(self, place: str, message: Content, **target: str) -> int:
        """Send to a client, a room or all; return how many took it."""
        path = f"/{place}/send"
        if isinstance(message, dict):
            answer = await self.http.post(path, params=target, json=message)
        else:
            kind = "text/plain" if isinstance(message, str) else "application/octet-stream"
            headers = {"Content-Type": kind}
            answer = await self.http.post(path, params=target, content=message, headers=headers)
        return int(answer.raise_for_status().json())

    async def flood(self, place: str, client_id: str) -> None:
        answer = await self.http.post(f"/{place}/flood/{client_id}", params={"mib": FLOOD_MIB})
        answer.raise_for_status()


@contextmanager
def running(row: str, port: int) -> Iterator[ChildProcess]:
    words = COMMANDS[row].replace("PORT", str(port)).split()
    environment = {"SMOKE_UVICORN_PROTOCOL": "off" if row == "uvicorn-plain" else "on"}
    command = [sys.executable, "-m", *words]
    with ChildProcess(command, environment=environment, directory=PROJECT) as process:
        eventually_sync(lambda: answers(port) or not process.is_running, 60.0, f"answer of {words[0]}")
        assert process.is_running, process.output
        yield process


def answers(port: int) -> bool:
    return http.get(f"http://127.0.0.1:{port}/ready").is_success


@pytest.fixture(scope="module", params=COMMANDS)
def port(request: pytest.FixtureRequest) -> Iterator[int]:
    number = free_port()
    with running(request.param, number):
        yield number


@pytest.fixture
async def server(port: int) -> AsyncIterator[Server]:
    async with asking(port) as server:
        yield server


@asynccontextmanager
async def asking(port: int) -> AsyncIterator[Server]:
    server = Server(port)
    async with server.http:
        yield server


@pytest.fixture
def client_id() -> str:
    """Return a client that no other test has."""
    return f"ada-{secrets.token_hex(4)}"


@asynccontextmanager
async def joined(server: Server, place: str, way: str, client_id: str) -> AsyncIterator[ClientConnection]:
    """Connect, and wait until the client is registered: release 1.1's pattern accepts before it connects."""
    path, _, query = client_id.partition("?")
    async with server.connect(f"{place}/{way}/{client_id}") as client:
        await eventually(lambda: is_registered(server, place, path), what=f"{path} registered")
        if query:
            await eventually(lambda: server.send(place, "welcome", room="garden"))
            assert await heard(client) == "welcome"
        yield client


async def is_registered(server: Server, place: str, client_id: str) -> bool:
    return client_id in await server.clients(place)


async def heard(client: ClientConnection) -> str | bytes:
    async with asyncio.timeout(ANSWER_S):
        return await client.recv()


async def close_of(client: ClientConnection) -> tuple[int | None, str | None]:
    async with asyncio.timeout(ANSWER_S):
        await client.wait_closed()
    return client.close_code, client.close_reason


# --- messages -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
async def test_text_is_echoed(server: Server, way: str, client_id: str) -> None:
    async with joined(server, "hall", way, client_id) as client:
        await client.send("grüße")
        assert await heard(client) == "grüße"


@pytest.mark.parametrize("way", BEFORE_ACCEPT)
async def test_binary_is_echoed(server: Server, way: str, client_id: str) -> None:
    async with joined(server, "hall", way, client_id) as client:
        await client.send(b"\x00\xff")
        assert await heard(client) == b"\x00\xff"


@pytest.mark.parametrize("way", BEFORE_ACCEPT)
@pytest.mark.parametrize("message", ["pong", '{"type": "pong"}'])
async def test_pong_that_nothing_asked_for_is_a_message(
    server: Server, way: str, client_id: str, message: str
) -> None:
    async with joined(server, "hall", way, client_id) as client:
        await client.send(message)
        assert await heard(client) == message


MESSAGES = pytest.mark.parametrize(
    ("message", "frame"),
    [("text", "text"), (b"\x00\xff", b"\x00\xff"), ({"name": "ada"}, json.dumps({"name": "ada"}))],
    ids=["text", "binary", "json"],
)


@MESSAGES
async def test_message_to_one_client_arrives(
    server: Server, client_id: str, message: Content, frame: str | bytes
) -> None:
    async with joined(server, "hall", "serve", client_id) as client:
        assert await server.send("hall", message, to=client_id) == 1
        assert same(await heard(client), frame)


@MESSAGES
async def test_broadcast_reaches_the_clients_of_every_way(
    server: Server, client_id: str, message: Content, frame: str | bytes
) -> None:
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(joined(server, "hall", way, f"{client_id}-{way}")) for way in WAYS
        ]
        assert await server.send("hall", message) == len(WAYS)
        assert all([same(await heard(client), frame) for client in clients])


def same(received: str | bytes, frame: str | bytes) -> bool:
    """Compare frames: JSON whatever its spaces, and text never with binary."""
    if isinstance(frame, str) and frame.startswith("{"):
        return isinstance(received, str) and bool(json.loads(received) == json.loads(frame))
    return received == frame


# --- rooms --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
async def test_message_to_a_room_reaches_its_members_only(server: Server, way: str, client_id: str) -> None:
    async with (
        joined(server, "hall", way, f"{client_id}?rooms=garden") as member,
        joined(server, "hall", way, f"{client_id}-other") as other,
    ):
        assert await server.send("hall", "for the garden", room="garden") == 1
        assert await server.send("hall", "for all") == 2
        assert [await heard(member), await heard(member), await heard(other)] == [
            "for the garden", "for all", "for all",
        ]  # fmt: skip


async def test_client_hears_a_room_from_join_to_leave(server: Server, client_id: str) -> None:
    async with joined(server, "hall", "serve", client_id):
        counts = [await server.send("hall", "nobody yet", room="cellar")]
        await server.http.put(f"/hall/rooms/cellar/{client_id}")
        counts.append(await server.send("hall", "hello", room="cellar"))
        await server.http.delete(f"/hall/rooms/cellar/{client_id}")
        counts.append(await server.send("hall", "too late", room="cellar"))
        assert counts == [0, 1, 0]


# --- refusals before accept ---------------------------------------------------------------------------------


@pytest.mark.parametrize("way", BEFORE_ACCEPT)
async def test_illegal_client_id_is_refused_with_400(server: Server, way: str) -> None:
    assert (await refusal(server, f"hall/{way}/%01")).status_code == 400


@pytest.mark.parametrize("way", BEFORE_ACCEPT)
async def test_client_of_a_full_node_is_refused_with_503(server: Server, way: str, client_id: str) -> None:
    async with joined(server, "full", way, client_id):
        refused = await refusal(server, f"full/{way}/somebody-else")
    assert (refused.status_code, int(refused.headers["retry-after"]) > 0) == (503, True)
    await eventually(lambda: is_gone(server, "full", client_id))


@pytest.mark.parametrize("way", BEFORE_ACCEPT)
async def test_second_socket_of_a_client_told_to_reject_is_refused_with_409(
    server: Server, way: str, client_id: str
) -> None:
    async with joined(server, "single", way, client_id) as first:
        assert (await refusal(server, f"single/{way}/{client_id}")).status_code == 409
        await first.send("still here")
        assert await heard(first) == "still here"


@pytest.mark.parametrize("way", BEFORE_ACCEPT)
@pytest.mark.parametrize(("end", "status"), [("outrun", 409), ("evicted", 503), ("banned", 403)])
async def test_connection_that_ends_before_accept_is_refused_with_its_reason(
    server: Server, way: str, client_id: str, end: str, status: int
) -> None:
    refused = await refusal(server, f"hall/{way}/{end}-{client_id}")
    said = {"outrun": "a newer connection", "evicted": "no room", "banned": "banned"}[end]
    assert (refused.status_code, said in json.loads(refused.body)["detail"]) == (status, True)
    if end == "outrun":  # the newer one is a mock, which no server ends
        await server.disconnect("hall", f"outrun-{client_id}")


async def test_exception_of_the_identify_function_is_the_answer(server: Server) -> None:
    refused = await refusal(server, "hall/route/stranger")
    assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
    assert json.loads(refused.body) == {"detail": "who are you?"}


async def refusal(server: Server, path: str) -> Response:
    with pytest.raises(InvalidStatus) as caught:
        async with server.connect(path):
            pass
    return caught.value.response


async def is_gone(server: Server, place: str, client_id: str) -> bool:
    return client_id not in await server.clients(place)


# --- the server closes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
async def test_code_and_reason_of_disconnect_reach_the_client(
    server: Server, way: str, client_id: str
) -> None:
    async with joined(server, "hall", way, client_id) as client:
        await server.disconnect("hall", client_id)
        assert await close_of(client) == (4321, "bye")


@pytest.mark.parametrize("way", WAYS)
async def test_handler_ends_when_the_server_closes(server: Server, way: str, client_id: str) -> None:
    """Also on granian, which delivers no websocket.disconnect after a close of ours."""
    async with joined(server, "hall", way, client_id):
        await server.disconnect("hall", client_id)
        await eventually(lambda: has_ended(server, "hall", way, client_id, "closed with 4321 bye"), ANSWER_S)


@pytest.mark.parametrize("way", WAYS)
async def test_message_over_the_limit_closes_with_1009(server: Server, way: str, client_id: str) -> None:
    async with joined(server, "hall", way, client_id) as client:
        await client.send("x" * (64 * KIB + 1))
        assert (await close_of(client))[0] == 1009
        await eventually(lambda: has_left(server, "hall", way, client_id))


@pytest.mark.parametrize("way", WAYS)
async def test_newer_socket_of_a_client_replaces_the_older(server: Server, way: str, client_id: str) -> None:
    async with (
        joined(server, "hall", way, client_id) as older,
        server.connect(f"hall/{way}/{client_id}") as newer,
    ):
        assert await close_of(older) == (1000, "reconnected")
        await eventually(lambda: has_ended(server, "hall", way, client_id, "closed with 1000 reconnected"))
        await newer.send("me again")
        assert await heard(newer) == "me again"


async def has_ended(server: Server, place: str, way: str, client_id: str, closed: str) -> bool:
    """Tell whether the hook ran once, and the handler (the route has none of ours) ended."""
    expected = [closed] if way == "route" else [closed, "handler ended"]
    return await server.diary(place, client_id) == expected


async def has_left(server: Server, place: str, way: str, client_id: str) -> bool:
    diary = await server.diary(place, client_id)
    return len(diary) == (1 if way == "route" else 2) and await is_gone(server, place, client_id)


# --- the client goes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
async def test_client_that_closes_is_released(server: Server, way: str, client_id: str) -> None:
    async with joined(server, "hall", way, client_id) as client:
        await client.close(3001, "home")
        await eventually(lambda: has_left(server, "hall", way, client_id))


@pytest.mark.parametrize("way", WAYS)
async def test_client_that_vanishes_is_released(server: Server, way: str, client_id: str) -> None:
    async with joined(server, "hall", way, client_id) as client:
        client.transport.abort()
        await eventually(lambda: has_left(server, "hall", way, client_id))


# --- heartbeat ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
async def test_client_that_answers_no_ping_is_closed_with_4007(
    server: Server, way: str, client_id: str
) -> None:
    async with server.connect(f"pulse/{way}/{client_id}") as client:
        watch_pongs(client, may_send=False)
        assert (await close_of(client))[0] == 4007
        await eventually(
            lambda: has_ended(server, "pulse", way, client_id, "closed with 4007 heartbeat timeout")
        )


@pytest.mark.parametrize("way", WAYS)
async def test_client_that_answers_pings_stays(server: Server, way: str, client_id: str) -> None:
    async with server.connect(f"pulse/{way}/{client_id}") as client:
        if await server.has_real_pings():
            pongs = watch_pongs(client, may_send=True)
            await eventually(lambda: len(pongs) >= ANSWERED_PINGS)
        else:
            await answer_pings(client, ANSWERED_PINGS)
        assert await is_registered(server, "pulse", client_id)


def watch_pongs(client: ClientConnection, *, may_send: bool) -> list[Frame]:
    """Return a list that grows with each pong that the client sends, or would send, by itself."""
    pongs: list[Frame] = []
    send = client.protocol.send_frame

    def send_frame(frame: Frame) -> None:
        if frame.opcode is Opcode.PONG:
            pongs.append(frame)
        if may_send or frame.opcode is not Opcode.PONG:
            send(frame)

    client.protocol.send_frame = send_frame  # type: ignore[method-assign]  # there is no switch
    return pongs


async def answer_pings(client: ClientConnection, count: int) -> None:
    while count:
        message = await heard(client)
        if json.loads(message)["type"] == "ping":  # the 1.1 loop echoes the answers
            await client.send('{"type": "pong"}')
            count -= 1


# --- a client that does not read ----------------------------------------------------------------------------


HANDSHAKE = """\
GET /{path} HTTP/1.1
Host: localhost
Connection: Upgrade
Upgrade: websocket
Sec-WebSocket-Version: 13
Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==

"""


@contextmanager
def stalled(server: Server, path: str) -> Iterator[None]:
    """Complete the handshake and then never read."""
    with socket.create_connection(("127.0.0.1", server.port), ANSWER_S) as raw:
        raw.sendall(HANDSHAKE.format(path=path).replace("\n", "\r\n").encode())
        assert raw.recv(12) == b"HTTP/1.1 101"
        yield


@pytest.mark.parametrize("place", ["large-outbox", "small-outbox"])
async def test_stalled_client_is_out_within_the_deadline(server: Server, place: str, client_id: str) -> None:
    """Its write takes too long, or its outbox is full before that."""

    async def stall(way: str) -> None:
        name = f"{client_id}-{way}"
        with stalled(server, f"{place}/{way}/{name}"):
            await eventually(lambda: is_registered(server, place, name))
            await server.flood(place, name)
            await eventually(lambda: is_gone(server, place, name), WRITE_TIMEOUT_S + MARGIN_S)
            closed = "closed with 4008 slow consumer"
            await eventually(lambda: has_ended(server, place, way, name, closed), CLOSE_TIMEOUT_S + MARGIN_S)

    await asyncio.gather(*map(stall, WAYS))


async def test_closing_a_stalled_client_has_a_deadline_of_its_own(server: Server, client_id: str) -> None:
    async def stall(way: str) -> None:
        name = f"{client_id}-{way}"
        with stalled(server, f"patient/{way}/{name}"):
            await eventually(lambda: is_registered(server, "patient", name))
            await server.flood("patient", name)
            async with asyncio.timeout(CLOSE_TIMEOUT_S + MARGIN_S):
                await server.disconnect("patient", name)
            await eventually(
                lambda: has_ended(server, "patient", way, name, "closed with 4321 bye"), MARGIN_S
            )

    await asyncio.gather(*map(stall, WAYS))


async def test_stalled_client_delays_no_other_client(server: Server, client_id: str) -> None:
    place, rounds = "large-outbox", 0
    with stalled(server, f"{place}/serve/{client_id}"):
        async with joined(server, place, "serve", f"{client_id}-lively") as client:
            await eventually(lambda: is_registered(server, place, client_id))
            await server.flood(place, client_id)
            while await is_registered(server, place, client_id):
                async with asyncio.timeout(WRITE_TIMEOUT_S / 2):
                    await server.send(place, f"news {rounds}")
                    assert await heard(client) == f"news {rounds}"
                rounds += 1
    assert rounds > 3


# --- the server stops ---------------------------------------------------------------------------------------


@pytest.fixture(params=COMMANDS)
def own_server(request: pytest.FixtureRequest) -> Iterator[tuple[ChildProcess, int]]:
    """For a test that stops it."""
    number = free_port()
    with running(request.param, number) as process:
        yield process, number


async def test_server_with_clients_of_every_way_stops(own_server: tuple[ChildProcess, int]) -> None:
    process, number = own_server
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(asking(number))
        clients = [await stack.enter_async_context(joined(server, "hall", way, way)) for way in WAYS]
        os.kill(process.pid, signal.SIGTERM)
        codes = {way: (await close_of(client))[0] for way, client in zip(WAYS, clients, strict=True)}
        await eventually(lambda: not process.is_running, STOP_TIMEOUT_S, "end of the server")
    # A client that is told of an internal error may give up; what it should do is to connect elsewhere.
    assert {way for way in BEFORE_ACCEPT if codes[way] == INTERNAL_ERROR} == set()
    # Lines about starts and drains are all that there is: no warning, and no traceback with a file of ours.
    rest = re.sub(
        r"^.* - fastapi_websocket_stabilizer\.manager - INFO - .*$", "", process.output, flags=re.MULTILINE
    )
    assert "fastapi_websocket_stabilizer" not in rest
