"""Sockets of ``stabilizer.v1`` on uvicorn (our class and its own), hypercorn and granian: the same frames on each."""

import asyncio
import json
import random
import re
import secrets
import sys
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from tests.integration.session_app import KIB
from tests.support import http
from tests.support.forked import ForkedServer
from tests.support.process import ChildProcess, free_port
from tests.support.protocol_vectors import data_of, vectors
from tests.support.waiting import eventually, eventually_sync

PROJECT = Path(__file__).parents[2]
APPLICATION = "tests.integration.session_app:app"
UVICORN = f"uvicorn {APPLICATION} --port PORT --timeout-graceful-shutdown 1 --log-level warning"
COMMANDS = {
    "uvicorn": f"{UVICORN} --loop uvloop",
    "uvicorn-asyncio": f"{UVICORN} --loop asyncio",
    "uvicorn-plain": f"{UVICORN} --ws websockets-sansio",
    "hypercorn": f"hypercorn {APPLICATION} --bind 127.0.0.1:PORT --workers 0 --graceful-timeout 1",
    "granian": f"granian {APPLICATION} --port PORT --interface asgi --workers-kill-timeout 1",
}
WAYS = ("serve", "route", "connection")
ANSWER_S = 15.0
V1 = "stabilizer.v1"


class Server:
    """A running server, and what can be asked of the application in it."""

    def __init__(self, row: str, port: int) -> None:
        self.row, self.port = row, port
        self.http = http.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=10)

    @property
    def is_native(self) -> bool:
        return self.row in ("uvicorn", "uvicorn-asyncio")

    def connect(self, path: str, *offer: str) -> connect:
        return connect(
            f"ws://127.0.0.1:{self.port}/{path}",
            subprotocols=[Subprotocol(item) for item in offer] or None,
            proxy=None,
            ping_interval=None,
            close_timeout=1,
        )

    async def counters(self, place: str = "hall") -> dict[str, int]:
        counters: dict[str, int] = (await self.http.get(f"/{place}/counters")).json()
        return counters

    async def send(self, message: Any, place: str = "hall", **target: Any) -> None:
        kinds: dict[type, str] = {str: "text/plain", bytes: "application/octet-stream"}
        kind = kinds.get(type(message), "application/json")
        content = message if isinstance(message, str | bytes) else json.dumps(message)
        path, headers = f"/{place}/send", {"Content-Type": kind}
        (await self.http.post(path, params=target, content=content, headers=headers)).raise_for_status()


@contextmanager
def running(row: str, port: int) -> Iterator[ChildProcess]:
    words = COMMANDS[row].replace("PORT", str(port)).split()
    environment = {"SMOKE_UVICORN_PROTOCOL": "off" if row == "uvicorn-plain" else "on"}
    with ForkedServer([sys.executable, "-m", *words], environment=environment, directory=PROJECT) as process:
        eventually_sync(lambda: answers(port) or not process.is_running, 60.0, f"answer of {words[0]}")
        assert process.is_running, process.output
        yield process


def answers(port: int) -> bool:
    return http.get(f"http://127.0.0.1:{port}/ready").is_success


@pytest.fixture(scope="module", params=COMMANDS)
def address(request: pytest.FixtureRequest) -> Iterator[tuple[str, int]]:
    number = free_port()
    with running(request.param, number):
        yield request.param, number


@pytest.fixture
async def server(address: tuple[str, int]) -> AsyncIterator[Server]:
    server = Server(*address)
    async with server.http:
        yield server


@pytest.fixture
def client_id() -> str:
    """Return a client that no other test has."""
    return f"ada-{secrets.token_hex(4)}"


async def heard(client: ClientConnection) -> Any:
    """Return the next frame: the value of a text, or bytes."""
    async with asyncio.timeout(ANSWER_S):
        frame = await client.recv()
    return frame if isinstance(frame, bytes) else json.loads(frame)


async def say(client: ClientConnection, frame: Any) -> None:
    await client.send(frame if isinstance(frame, bytes) else json.dumps(frame))


async def close_of(client: ClientConnection) -> tuple[int | None, str | None]:
    """Read until the end, and return the close code and reason."""
    async with asyncio.timeout(ANSWER_S):
        try:
            while True:
                await client.recv()
        except ConnectionClosed:
            return client.close_code, client.close_reason


def coded(text: str) -> str:
    return urlsafe_b64encode(text.encode()).decode().rstrip("=")


@asynccontextmanager
async def opened(server: Server, path: str, *items: str) -> AsyncIterator[tuple[ClientConnection, Any]]:
    """Connect, and return the client with the content of its first frame."""
    async with server.connect(path, V1, *items) as client:
        assert client.subprotocol == V1
        hi = (await heard(client))["hi"]
        assert await heard(client) == {"live": 0}
        yield client, hi


# The first frame


@pytest.mark.parametrize("way", WAYS)
async def test_first_frame_has_the_session_and_every_room(server: Server, way: str, client_id: str) -> None:
    async with opened(server, f"hall/{way}/{client_id}?rooms=garden&rooms=attic") as (_, hi):
        assert len(hi.pop("sid")) == 22
        assert hi.pop("t") > 0
        rooms = {"attic": None, "garden": None}
        assert hi == {"v": 1, "id": client_id, "ping": 30, "pong": not server.is_native, "at": rooms}


async def test_each_session_has_a_name_of_its_own(server: Server, client_id: str) -> None:
    async with (
        opened(server, f"hall/route/{client_id}") as (_, first),
        opened(server, f"hall/route/{client_id}") as (_, second),
    ):
        assert first["sid"] != second["sid"]


@pytest.mark.parametrize("way", WAYS)
async def test_what_was_sent_before_the_first_frame_follows_it_in_order(
    server: Server, way: str, client_id: str
) -> None:
    name = f"welcome-{client_id}"
    async with opened(server, f"hall/{way}/{name}") as (client, hi):
        assert hi["at"] == {"porch": None}
        assert [await heard(client) for _ in range(2)] == [[0, 0, "welcome"], [0, 0, {"number": 2}]]


CURSOR = json.dumps({"s": "s1", "t": 1, "at": {"garden": 17}})


@pytest.mark.parametrize(
    ("item", "outcome"),
    [(CURSOR, True), ("{}", False), ("not JSON", False), ('{"s":"","t":1,"at":{}}', False)],
)
async def test_cursor_in_the_handshake_is_answered(
    server: Server, client_id: str, item: str, outcome: bool
) -> None:
    path = f"hall/route/{client_id}?rooms=garden"
    async with opened(server, path, f"{V1}.resume.{coded(item)}") as (_, hi):
        assert (hi["re"], hi["at"], "lost" in hi) == (outcome, {"garden": None}, False)


@pytest.mark.parametrize(("cursor", "outcome"), [(CURSOR, True), ('{"s":"s1"}', False)])
@pytest.mark.parametrize("way", WAYS)
async def test_cursor_in_the_first_frame_is_answered(
    server: Server, way: str, client_id: str, cursor: str, outcome: bool
) -> None:
    async with server.connect(f"hall/{way}/{client_id}", V1, f"{V1}.resume.later") as client:
        await client.send(f'{{"resume":{cursor}}}')
        assert (await heard(client))["hi"]["re"] is outcome
        assert await heard(client) == {"live": 0}
        await say(client, {"m": "hello"})
        assert await heard(client) == [0, 0, "hello"]


@pytest.mark.parametrize(
    ("frame", "code"),
    [('{"m":"x"}', "frame"), ("{}", "frame"), ("[", "json"), (b"\x03\x00\x00\x00\x00x", "frame")],
)
async def test_other_first_frame_than_the_announced_cursor_is_refused(
    server: Server, client_id: str, frame: str | bytes, code: str
) -> None:
    async with server.connect(f"hall/route/{client_id}", V1, f"{V1}.resume.later") as client:
        await client.send(frame)
        assert await close_of(client) == (4502, f'{{"code":"{code}"}}')


async def test_announced_cursor_that_does_not_come_ends_the_socket(server: Server, client_id: str) -> None:
    async with server.connect(f"hall/route/{client_id}", V1, f"{V1}.resume.later") as client:
        assert await close_of(client) == (4007, "no cursor within 5 s")
    assert client_id not in (await server.http.get("/hall/clients")).json()


# Messages to the client


MESSAGES = pytest.mark.parametrize(
    "message", ["text", '{"looks":"like JSON"}', {"name": "ädä"}, [1, None]], ids=repr
)


@MESSAGES
async def test_message_has_its_address(server: Server, client_id: str, message: Any) -> None:
    async with opened(server, f"hall/route/{client_id}?rooms=garden") as (client, _):
        await server.send(message, to=client_id)
        await server.send(message, room="garden")
        await server.send(message)
        frames = [await heard(client) for _ in range(3)]
        assert frames == [[0, 0, message], [0, "garden", message], [0, 1, message]]


async def test_bytes_have_their_address_in_a_header(server: Server, client_id: str) -> None:
    async with opened(server, f"hall/route/{client_id}?rooms=garden") as (client, _):
        await server.send(b"\x00\xff", to=client_id)
        await server.send(b"\x00\xff", room="garden")
        await server.send(b"\x00\xff")
        none = bytes(8)
        assert [await heard(client) for _ in range(3)] == [
            b"\x01" + none + b"\x00\x00\x00\xff",
            b"\x00" + none + b"\x00\x06garden\x00\xff",
            b"\x02" + none + b"\x00\x00\x00\xff",
        ]


async def test_message_to_several_rooms_names_one_that_the_client_is_in(server: Server) -> None:
    """Once to each client, which is not told the names of other rooms."""
    names = {name: f"{name}-{secrets.token_hex(4)}" for name in ("cellar", "attic", "roof")}
    cellar, attic, roof = names.values()
    async with (
        opened(server, f"hall/route/a-{attic}?rooms={attic}") as (first, _),
        opened(server, f"hall/route/b-{roof}?rooms={roof}&rooms={attic}&rooms={cellar}") as (second, _),
        server.connect(f"hall/route/c-{attic}?rooms={attic}&rooms={cellar}") as third,
    ):
        await eventually(lambda: is_there(server, f"c-{attic}"))
        await server.send("x", room=[cellar, attic])
        await server.send("end")
        assert [await heard(first) for _ in range(2)] == [[0, attic, "x"], [0, 1, "end"]]
        assert [await heard(second) for _ in range(2)] == [[0, cellar, "x"], [0, 1, "end"]]
        assert [await third.recv() for _ in range(2)] == ["x", "end"]


async def is_there(server: Server, client_id: str) -> bool:
    return client_id in (await server.http.get("/hall/clients")).json()


async def test_large_message_arrives_whole(server: Server, client_id: str) -> None:
    async with opened(server, f"hall/route/{client_id}?rooms=garden") as (client, _):
        for size in (125, 1000, 2000, 100 * KIB):
            await server.send("ö" * size, room="garden")
            assert await heard(client) == [0, "garden", "ö" * size]


async def test_message_that_the_handler_sends_past_the_connection_has_an_address_too(
    server: Server, client_id: str
) -> None:
    async with opened(server, f"hall/past/{client_id}") as (client, _):
        assert [await heard(client) for _ in range(5)] == [
            [0, 0, "first"],
            [0, 0, "text"],
            [0, 0, '{"a":1}'],
            b"\x01" + bytes(10) + b"bytes",
            [0, 0, "last"],
        ]


# Plain sockets


@pytest.mark.parametrize("way", [*WAYS, "connect"])
async def test_plain_socket_beside_a_session_gets_the_frames_of_before(
    server: Server, way: str, client_id: str
) -> None:
    async with (
        opened(server, f"hall/route/v1-{client_id}") as (other, _),
        server.connect(f"hall/{way}/{client_id}") as client,
    ):
        await client.send("first")
        assert await client.recv() == "first"
        for message in ("text", b"\x00\xff", {"name": "ädä"}):
            await server.send(message, to=client_id)
            await server.send(message)
            expected = message if isinstance(message, str | bytes) else '{"name":"ädä"}'
            assert [await client.recv(), await client.recv()] == [expected, expected]
            await heard(other)
        await client.send('{"q":1,"m":"x"}')
        assert await client.recv() == '{"q":1,"m":"x"}'


async def test_route_with_a_subprotocol_of_its_own_keeps_it(server: Server, client_id: str) -> None:
    async with server.connect(f"hall/own/{client_id}", V1, "chat.v2") as client:
        assert client.subprotocol == "chat.v2"
        await client.send("plain")
        assert await client.recv() == "plain"


async def test_subprotocol_can_be_switched_off(server: Server, client_id: str) -> None:
    async with server.connect(f"plain/route/{client_id}", V1) as client:
        assert client.subprotocol is None
        await client.send("plain")
        assert await client.recv() == "plain"


# Frames of the client


@pytest.mark.parametrize("way", WAYS)
async def test_message_reaches_the_application_as_a_plain_one_does(
    server: Server, way: str, client_id: str
) -> None:
    async with opened(server, f"hall/{way}/{client_id}") as (client, _):
        for frame, answer in (
            ({"m": "text"}, [0, 0, "text"]),
            ({"m": {"a": [1, "ä"]}}, [0, 0, '{"a":[1,"ä"]}']),
            ({"m": None}, [0, 0, "null"]),
            ({"m": 17}, [0, 0, "17"]),
            (b"\x03\x00\x00\x00\x00\xca\xfe", b"\x01" + bytes(10) + b"\xca\xfe"),
        ):
            await say(client, frame)
            assert await heard(client) == answer


@pytest.mark.parametrize("way", WAYS)
async def test_numbered_message_is_confirmed_when_it_was_handled(
    server: Server, way: str, client_id: str
) -> None:
    async with opened(server, f"hall/{way}/{client_id}") as (client, _):
        await say(client, {"m": "a", "n": 1})
        assert [await heard(client), await heard(client)] == [[0, 0, "a"], {"n": 1}]
        await say(client, b"\x03\x00\x00\x00\x02bytes")
        assert [await heard(client), await heard(client)] == [b"\x01" + bytes(10) + b"bytes", {"n": 2}]
        await say(client, {"m": "again", "n": 2})
        assert await heard(client) == {"n": 2}, "it was handled before"


@pytest.mark.parametrize("way", WAYS)
async def test_numbered_message_whose_handler_raises_is_reported(
    server: Server, way: str, client_id: str
) -> None:
    async with opened(server, f"hall/{way}/{client_id}") as (client, _):
        await say(client, {"m": "raise", "n": 1})
        answer = await heard(client)
        assert (answer["n"], answer["x"]["code"]) == (1, "failed")
        if way == "connection":  # the handler itself has ended
            assert (await close_of(client))[0] == 1011
        else:
            await say(client, {"m": "b", "n": 2})
            assert [await heard(client), await heard(client)] == [[0, 0, "b"], {"n": 2}]


@pytest.mark.parametrize("way", WAYS)
async def test_message_whose_handler_ends_the_connection_is_handled_once(
    server: Server, way: str, client_id: str
) -> None:
    path = f"hall/{way}/{client_id}"
    async with opened(server, path) as (client, hi):
        await say(client, {"m": "close 4000", "n": 1})
        assert await close_of(client) == (4000, "as asked for")
    cursor = coded(json.dumps({"s": hi["sid"], "t": hi["t"], "at": {}}))

    async def is_known_as_handled() -> bool:
        async with opened(server, path, f"{V1}.resume.{cursor}") as (_, again):
            return bool(again.get("n") == 1)

    await eventually(is_known_as_handled, what="the next connection knows of the message")


@pytest.mark.parametrize("way", WAYS)
async def test_probe_is_answered_and_signs_of_life_are_not(server: Server, way: str, client_id: str) -> None:
    async with opened(server, f"hall/{way}/{client_id}") as (client, _):
        await say(client, {})
        await say(client, {"ping": 1})
        await say(client, {"m": "last"})
        assert [await heard(client), await heard(client)] == [{}, [0, 0, "last"]]


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        ({"q": 1, "m": "rename", "d": {}}, "not_found"),
        ({"auth": "token", "q": 1}, "not_found"),
        ({"join": "garden", "q": 1}, "forbidden"),
        ({"leave": "garden", "q": 1}, "not_found"),
    ],
)
async def test_request_that_has_no_handler_gets_an_error(
    server: Server, client_id: str, frame: dict[str, Any], code: str
) -> None:
    async with opened(server, f"hall/route/{client_id}") as (client, _):
        await say(client, frame)
        answer = await heard(client)
        assert (answer["a"], answer["x"]["code"], answer["x"]["retry"]) == (1, code, False)


async def test_unknown_kinds_and_keys_are_ignored_and_counted(server: Server, client_id: str) -> None:
    before = await server.counters()
    async with opened(server, f"hall/route/{client_id}") as (client, _):
        await say(client, {"new": 1, "m": "not a message"})
        await say(client, b"\x09new")
        await say(client, {"m": "x", "later": True, "other": 1})
        assert await heard(client) == [0, 0, "x"]
    after = await server.counters()
    names = ("client_frames_ignored", "client_keys_ignored", "client_frames_invalid")
    assert [after[name] - before[name] for name in names] == [2, 2, 0]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("frame", "code"),
    [
        ("hello", "json"),
        ("\ufeff{}", "json"),
        ('{"m":NaN}', "json"),
        ("[1]", "frame"),
        (b"", "frame"),
        ('{"m":1,"n":0}', "field"),
        ('{"m":' + "[" * 64 + "]" * 64 + "}", "depth"),
        ('{"m":1e999}', "number"),
        ('{"join":"","q":1}', "name"),
        ('{"resume":{"s":"s1","t":1,"at":{}}}', "frame"),
    ],
    ids=repr,
)
async def test_frame_that_breaks_the_subprotocol_ends_the_connection(
    server: Server, way: str, client_id: str, frame: str | bytes, code: str
) -> None:
    before = (await server.counters())["client_frames_invalid"]
    async with opened(server, f"hall/{way}/{client_id}") as (client, _):
        await client.send(frame)
        assert await close_of(client) == (4502, f'{{"code":"{code}"}}')
    assert (await server.counters())["client_frames_invalid"] == before + 1


# Rooms


@pytest.mark.parametrize("way", WAYS)
async def test_client_is_told_the_rooms_that_it_enters_and_leaves(
    server: Server, way: str, client_id: str
) -> None:
    async with opened(server, f"hall/{way}/{client_id}") as (client, _):
        await say(client, {"m": "join attic"})
        assert await heard(client) == {"in": "attic", "at": None}
        await server.http.put(f"/hall/rooms/garden/{client_id}")
        assert await heard(client) == {"in": "garden", "at": None}
        await server.send("x", room="garden")
        assert await heard(client) == [0, "garden", "x"]
        await server.http.delete(f"/hall/rooms/garden/{client_id}")
        assert await heard(client) == {"out": "garden"}


# Refusals


@pytest.mark.parametrize(
    ("status", "code", "reason"),
    [
        (400, 4503, "as asked for"),
        (401, 4401, "as asked for"),
        (403, 4503, "as asked for"),
        (404, 4504, "as asked for"),
        (409, 4509, "as asked for"),
        (429, 4029, '{"reconnect_in_ms":2000}'),
        (503, 1013, '{"reconnect_in_ms":2000}'),
        (500, 1011, "internal error"),
        (502, 1011, "internal error"),
    ],
)
async def test_refusal_of_the_identify_function_is_a_close_code(
    server: Server, status: int, code: int, reason: str
) -> None:
    async with server.connect(f"hall/route/status-{status}", V1) as client:
        assert (client.subprotocol, await close_of(client)) == (V1, (code, reason))


async def test_error_in_the_identify_function_is_an_internal_error(server: Server) -> None:
    async with server.connect("hall/route/error", V1) as client:
        assert (client.subprotocol, await close_of(client)) == (V1, (1011, "internal error"))


async def test_invalid_parameter_is_a_refusal(server: Server, client_id: str) -> None:
    async with server.connect(f"hall/route/{client_id}?number=one", V1) as client:
        assert (client.subprotocol, (await close_of(client))[0]) == (V1, 4503)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("items", "code"),
    [
        ([f"{V1}.resume.e31"], "encoding"),
        ([f"{V1}.resume.e30", f"{V1}.resume.later"], "header"),
        ([f"{V1}.auth.eA", f"{V1}.auth.eQ"], "header"),
        ([f"{V1}.auth.{'A' * 4100}"], "size"),
    ],
)
async def test_broken_offer_is_refused_by_its_rule(
    server: Server, way: str, client_id: str, items: list[str], code: str
) -> None:
    async with server.connect(f"hall/{way}/{client_id}", V1, *items) as client:
        assert (client.subprotocol, await close_of(client)) == (V1, (4502, f'{{"code":"{code}"}}'))


@pytest.mark.parametrize("way", WAYS)
async def test_client_of_a_full_node_may_try_again(server: Server, way: str, client_id: str) -> None:
    async with (
        opened(server, f"full/{way}/{client_id}"),
        server.connect(f"full/{way}/other-{client_id}", V1) as client,
    ):
        assert await close_of(client) == (1013, '{"reconnect_in_ms":5000}')
    await eventually(lambda: is_empty(server, "full"))


async def is_empty(server: Server, place: str) -> bool:
    return not (await server.http.get(f"/{place}/clients")).json()


@pytest.mark.parametrize("way", WAYS)
async def test_client_with_too_many_connections_stays_away(server: Server, way: str, client_id: str) -> None:
    async with (
        opened(server, f"strict/{way}/{client_id}"),
        server.connect(f"strict/{way}/{client_id}", V1) as client,
    ):
        assert (await close_of(client))[0] == 4509


@pytest.mark.parametrize("way", ["serve", "connection"])
async def test_illegal_client_id_is_a_refusal(server: Server, way: str) -> None:
    async with server.connect(f"hall/{way}/%01", V1) as client:
        assert (client.subprotocol, (await close_of(client))[0]) == (V1, 4503)


async def test_offered_token_reaches_the_identify_function(server: Server, client_id: str) -> None:
    async with opened(server, "hall/route/anybody", f"{V1}.auth.{coded(client_id)}") as (_, hi):
        assert hi["id"] == client_id


async def test_plain_client_is_still_refused_by_http(server: Server) -> None:
    with pytest.raises(InvalidStatus) as caught:
        async with server.connect("hall/route/status-401"):
            pass
    assert caught.value.response.status_code == 401


# Close codes


@pytest.mark.parametrize("way", WAYS)
async def test_connection_that_the_application_ends_is_not_to_come_back(
    server: Server, way: str, client_id: str
) -> None:
    async with opened(server, f"hall/{way}/{client_id}") as (client, _):
        await server.http.delete(f"/hall/clients/{client_id}")
        assert await close_of(client) == (4510, "normal closure")
    async with opened(server, f"hall/{way}/{client_id}") as (client, _):
        await say(client, {"m": "close 1000"})
        assert await close_of(client) == (4510, "as asked for")
    async with opened(server, f"hall/{way}/{client_id}") as (client, _):
        await say(client, {"m": "close 4900"})
        assert await close_of(client) == (4900, "as asked for")


@pytest.mark.parametrize("way", WAYS)
async def test_displaced_connection_is_told_so(server: Server, way: str, client_id: str) -> None:
    async with (
        opened(server, f"single/{way}/{client_id}") as (first, _),
        opened(server, f"single/{way}/{client_id}"),
    ):
        assert (await close_of(first))[0] == 4500


# Liveness


async def test_server_shows_that_it_lives(server: Server, client_id: str) -> None:
    async with opened(server, f"pulse/route/{client_id}") as (client, hi):
        assert (hi["ping"], hi["pong"]) == (0.2, not server.is_native)
        for _ in range(8):
            frame = await heard(client)
            assert frame == ({"ping": 1} if hi["pong"] else {})
            if hi["pong"]:
                await say(client, {})


async def test_client_that_answers_no_probe_is_ended(server: Server, client_id: str) -> None:
    if server.is_native:
        pytest.skip("its pongs, which the client library sends by itself, are enough")
    async with opened(server, f"pulse/route/{client_id}") as (client, _):
        assert (await close_of(client))[0] == 4007


# Presence


async def test_client_watches_the_members_of_its_room(server: Server, client_id: str) -> None:
    room, other = f"stage-{client_id}", f"{client_id}-other"
    path = f"hall/route/%s?rooms={room}"
    async with opened(server, path % client_id) as (client, _):
        await say(client, {"p": "hall", "v": 0})  # not a room of this client
        await say(client, {"p": room, "v": 0})
        snapshot = await heard(client)
        version = snapshot["v"]
        assert snapshot == {"p": room, "v": version, "=": [[client_id, {}]]}
        async with opened(server, path % other):
            assert await heard(client) == {"p": room, "v": version + 1, "+": [[other, {}]]}
        assert await heard(client) == {"p": room, "v": version + 2, "-": [other]}
        await say(client, {"p": room, "v": version + 1})
        assert await heard(client) == {"p": room, "v": version + 2, "-": [other]}
        await say(client, {"p": room, "v": None})
        async with opened(server, path % other):
            await say(client, {"ping": 1})
            assert await heard(client) == {}


# Strangers


def nonsense(seed: int) -> list[str | bytes]:
    """Return frames that are recorded ones with a few changes."""
    chance = random.Random(seed)
    recorded = [data_of(vector.values[0]) for vector in vectors("client_frames.json")]
    frames: list[str | bytes] = []
    for _ in range(20):
        frame = chance.choice(recorded)
        data = bytearray(frame.encode() if isinstance(frame, str) else frame)
        for _ in range(chance.randrange(3)):
            place = chance.randrange(len(data) + 1)
            data[place : place + chance.randrange(3)] = bytes(
                chance.choices(b'{}[]":,0e9n\\x00', k=chance.randrange(3))
            )
        text = data.decode(errors="ignore")
        frames.append(bytes(data) if isinstance(frame, bytes) else text)
    return frames


@pytest.mark.parametrize("row", ["uvicorn", "uvicorn-plain"])
async def test_strangers_are_answered_or_closed_and_harm_no_other_client(row: str) -> None:
    port = free_port()
    with running(row, port) as process:
        server = Server(row, port)
        async with server.http, opened(server, "hall/route/healthy?rooms=garden") as (healthy, _):
            for seed in range(30):
                way = WAYS[seed % len(WAYS)]
                async with opened(server, f"hall/{way}/stranger-{seed}") as (stranger, _):
                    with suppress(ConnectionClosed):
                        for frame in nonsense(seed):
                            await stranger.send(frame)
                        await stranger.send('{"ping":1}')
                    code = await answer_or_code(stranger)
                    assert code in (None, 4502, 1011), (seed, code)
                await server.send({"seed": seed}, room="garden")
                assert await heard(healthy) == [0, "garden", {"seed": seed}]
            counters = await server.counters()
            assert counters["client_frames_invalid"] > 10
            assert counters["client_keys_ignored"] + counters["client_frames_ignored"] > 10
        raised = re.findall(r"^\w+(?:\.\w+)*Error\b.*", process.output, re.MULTILINE)
        assert {text for text in raised if "as the client asked for" not in text} == set()


async def answer_or_code(client: ClientConnection) -> int | None:
    """Read until the answer to a ping, or the end. Return the close code, or None for the answer."""
    async with asyncio.timeout(ANSWER_S):
        try:
            while await client.recv() != "{}":
                pass
        except ConnectionClosed:
            return client.close_code
    return None
