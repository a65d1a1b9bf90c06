"""Requests, joins and leaves of clients of ``stabilizer.v1``, over real sockets."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from fastapi_websocket_stabilizer.local.requests import MAX_OPEN_REQUESTS
from tests.support.waiting import eventually
from tests.wire.raw import Frame, Op, RawClient, close, text
from tests.wire.servers import ASYNCIO, STOCK_ROW, UVLOOP, Row, Server

SUBPROTOCOL = {"Sec-WebSocket-Protocol": "stabilizer.v1"}


@pytest.fixture(params=[UVLOOP, ASYNCIO, STOCK_ROW], ids=lambda row: row.name)
def row(request: pytest.FixtureRequest) -> Row:
    """Each event loop with the library's class, and uvicorn's own class."""
    chosen: Row = request.param
    return chosen


class Speaker:
    """A client of ``stabilizer.v1`` behind its first frames."""

    def __init__(self, client: RawClient) -> None:
        self.client = client

    def say(self, *frames: Any) -> None:
        """Send frames in one piece."""
        self.client.send(*(text(json.dumps(frame)) for frame in frames))

    async def next(self) -> Any:
        """Return the next frame that is no sign of life."""
        while True:
            frame = json.loads(await self.client.message())
            if frame != {} and "t" not in frame:
                return frame

    async def ask(self, number: int, name: str, data: Any = None) -> Any:
        self.say({"q": number, "m": name, "d": data})
        return await self.next()


@asynccontextmanager
async def speaking(server: Server, path: str) -> AsyncIterator[Speaker]:
    async with server.connected(path, SUBPROTOCOL) as client:
        speaker = Speaker(client)
        assert "hi" in await speaker.next()
        assert await speaker.next() == {"live": 0}
        yield speaker


def error(number: int, code: str, *, retry: bool = False) -> Any:
    """The answer without its text, which is for people."""
    return {"a": number, "x": {"code": code, "retry": retry}}


def for_programs(answer: Any) -> Any:
    if "x" in answer:
        assert 0 < len(answer["x"].pop("message")) <= 1024
    return answer


async def counted(server: Server, *names: str) -> list[int]:
    counters = (await server.statistics())["counters"]
    return [counters[name] for name in names]


async def test_request_is_answered_with_what_its_type_has(server: Server, way: str, client_id: str) -> None:
    async with speaking(server, f"{way}/{client_id}") as client:
        assert await client.ask(1, "rename", {"name": "bob"}) == {"a": 1, "d": {"name": "bob"}}
        for number, data in enumerate([None, 7, "text", [1, {"a": None}]], start=2):
            assert await client.ask(number, "anything", data) == {"a": number, "d": data}


async def test_request_that_cannot_be_carried_out_has_a_named_error(
    server: Server, way: str, client_id: str
) -> None:
    before = await counted(server, "requests_received", "requests_refused")
    async with speaking(server, f"{way}/{client_id}") as client:
        answers = [
            await client.ask(1, "rename", {"name": "hunter2" * 9}),
            await client.ask(2, "rename"),
            await client.ask(3, "hunter2"),
            await client.ask(4, "refuse", 404),
            await client.ask(5, "refuse", 409),
            await client.ask(6, "refuse", 429),
            await client.ask(7, "refuse", 503),
            await client.ask(8, "fail"),
            await client.ask(9, "wrong"),
        ]
    assert "hunter2" not in json.dumps(answers)
    assert answers[0]["x"]["message"] == "name: string_too_long"
    assert answers[3]["x"]["message"] == "because"
    assert list(map(for_programs, answers)) == [
        error(1, "invalid"),
        error(2, "invalid"),
        error(3, "not_found"),
        error(4, "not_found"),
        error(5, "conflict"),
        error(6, "limit", retry=True),
        error(7, "failed", retry=True),
        error(8, "failed"),
        error(9, "failed"),
    ]
    after = await counted(server, "requests_received", "requests_refused")
    assert [b - a for a, b in zip(before, after, strict=True)] == [9, 3]
    forgive(server, "asked for")


def forgive(server: Server, expected: str) -> None:
    """Take the report of a failure, which the log has once a minute."""
    if expected in server.process.output[server._looked_at :]:
        server.forgive(expected)


async def test_slow_request_delays_neither_requests_nor_messages(
    server: Server, way: str, client_id: str
) -> None:
    async with speaking(server, f"{way}/{client_id}") as client:
        client.say({"q": 1, "m": "hold", "d": client_id})
        assert await client.ask(2, "anything", "quick") == {"a": 2, "d": "quick"}
        client.say({"m": "hello"})
        assert await client.next() == [0, 0, "hello"]
        await server.ask("PUT", f"gates/{client_id}")
        assert await client.next() == {"a": 1, "d": "held"}


@pytest.mark.parametrize("kind", ["parked", "loop", "served"])
async def test_slow_message_delays_neither_requests_nor_later_frames(
    server: Server, kind: str, client_id: str
) -> None:
    """Messages stay in order behind it, and the end of the connection comes last."""
    async with speaking(server, f"slow-{kind}/{client_id}") as client:
        client.say(*({"m": number} for number in range(20)))
        assert await client.ask(1, "anything", "quick") == {"a": 1, "d": "quick"}
        client.say({"ping": 1})
        assert json.loads(await client.client.message()) == {}
        await server.ask("PUT", f"gates/slow-{client_id}")
        assert [await client.next() for _ in range(20)] == [[0, 0, str(number)] for number in range(20)]


@pytest.mark.parametrize("kind", ["parked", "loop", "served"])
async def test_messages_that_wait_for_a_slow_one_are_bounded_and_all_arrive(
    server: Server, kind: str, client_id: str
) -> None:
    """What exceeds the bound is not read from the socket."""
    count, message = 3_000, "x" * 1_000
    async with speaking(server, f"slow-{kind}/{client_id}") as client:
        client.say(*({"m": f"{number} {message}"} for number in range(count)))
        await server.ask("PUT", f"gates/slow-{client_id}")
        for number in range(count):
            assert await client.next() == [0, 0, f"{number} {message}"]


@pytest.mark.parametrize("kind", ["parked", "loop", "served"])
async def test_last_messages_of_a_client_that_closes_are_handled(
    server: Server, kind: str, client_id: str
) -> None:
    async with speaking(server, f"storing-{kind}/{client_id}") as client:
        last = [text(json.dumps({"m": f"m{number}"})) for number in range(30)]
        client.client.send(*last, close(4001, b"bye"))
        await client.client.rest()
    assert await server.left(client_id) == ["4001 bye"]
    assert await server.ask("GET", f"stored/{client_id}") == [f"m{number}" for number in range(30)]


async def test_client_cancels_a_request(server: Server, way: str, client_id: str) -> None:
    before = await counted(server, "requests_cancelled", "answers_ignored")
    async with speaking(server, f"{way}/{client_id}") as client:
        client.say({"q": 1, "m": "hold", "d": client_id})
        assert await client.ask(2, "anything") == {"a": 2, "d": None}
        client.say({"c": 1}, {"c": 1}, {"c": 77})
        assert await client.ask(3, "anything") == {"a": 3, "d": None}
        await eventually(lambda: server.diary(client_id), what="the function is cancelled")
    assert "cancelled" in await server.diary(client_id)
    after = await counted(server, "requests_cancelled", "answers_ignored")
    assert [b - a for a, b in zip(before, after, strict=True)] == [1, 2]


async def test_end_of_the_connection_cancels_its_requests(server: Server, way: str, client_id: str) -> None:
    before = await counted(server, "requests_cancelled")
    async with speaking(server, f"{way}/{client_id}") as client:
        client.say(*({"q": number, "m": "hold", "d": client_id} for number in range(5)))
        assert await client.ask(9, "anything") == {"a": 9, "d": None}
        client.client.reset()

    async def all_cancelled() -> bool:
        return (await server.diary(client_id)).count("cancelled") == 5

    await eventually(all_cancelled, what="five requests are cancelled")
    assert await counted(server, "requests_cancelled") == [before[0] + 5]


async def test_function_that_closes_its_own_connection_goes_on(
    server: Server, way: str, client_id: str
) -> None:
    async with speaking(server, f"{way}/{client_id}") as client:
        client.say({"q": 1, "m": "leave"})
        assert await client.client.ending() == (4321, "asked for")

    async def went_on() -> bool:
        return "went on" in await server.diary(client_id)

    await eventually(went_on, what="the function goes on")


async def test_thousand_requests_at_once_are_all_answered(server: Server, way: str, client_id: str) -> None:
    """As many as may be open are carried out, the others are refused, and messages between them arrive."""
    async with speaking(server, f"{way}/{client_id}") as client:
        frames: list[Any] = []
        for number in range(1_000):
            frames += [{"q": number, "m": "hold", "d": client_id}, {"c": 5_000 + number}]
            frames += [{"join": f"secret-{number}", "q": 2_000 + number}]
            frames += [{"m": number}] if number % 100 == 0 else []
        client.say(*frames)
        outcomes: dict[int, str] = {}
        messages: list[str] = []
        while len(outcomes) < 2_000 or len(messages) < 10:
            if len(outcomes) == 2_000 - MAX_OPEN_REQUESTS:  # so many cannot wait for the gate
                await server.ask("PUT", f"gates/{client_id}")
            frame = await client.next()
            if isinstance(frame, list):
                messages.append(frame[2])
            else:
                assert frame["a"] not in outcomes
                outcomes[frame["a"]] = for_programs(frame)["x"]["code"] if "x" in frame else frame["d"]
        assert messages == [str(number) for number in range(0, 1_000, 100)]
        assert sorted(outcomes) == [*range(1_000), *range(2_000, 3_000)]
        requests = [outcome for number, outcome in outcomes.items() if number < 1_000]
        assert set(requests) == {"limit", "held"}
        assert requests.count("held") <= MAX_OPEN_REQUESTS
        assert {outcome for number, outcome in outcomes.items() if number >= 2_000} <= {"forbidden", "limit"}
        assert await client.ask(9_999, "anything", "later") == {"a": 9_999, "d": "later"}


async def test_number_that_is_open_is_refused(server: Server, way: str, client_id: str) -> None:
    async with speaking(server, f"{way}/{client_id}") as client:
        client.say({"q": 1, "m": "hold", "d": client_id})
        assert for_programs(await client.ask(1, "anything")) == error(1, "invalid")
        await server.ask("PUT", f"gates/{client_id}")
        assert await client.next() == {"a": 1, "d": "held"}


# Rooms


async def test_client_joins_and_leaves_rooms_that_the_application_allows(
    server: Server, way: str, client_id: str
) -> None:
    room = f"open-{client_id}"
    async with speaking(server, f"{way}/{client_id}") as client:
        client.say({"join": room, "q": 1})
        assert await client.next() == {"in": room, "at": None}
        assert await client.next() == {"a": 1, "d": None}
        client.say({"join": room, "q": 2})
        assert await client.next() == {"a": 2, "d": None}
        assert await server.ask("GET", f"rooms/{client_id}") == [room]
        client.say({"leave": room, "q": 3})
        assert await client.next() == {"out": room}
        assert await client.next() == {"a": 3, "d": None}
        client.say({"leave": room, "q": 4})
        assert for_programs(await client.next()) == error(4, "not_found")


async def test_join_that_is_not_allowed_is_refused(server: Server, way: str, client_id: str) -> None:
    async with speaking(server, f"{way}/{client_id}") as client:
        client.say({"join": "secret", "q": 1})
        assert for_programs(await client.next()) == error(1, "forbidden")
        client.say({"join": "broken", "q": 2})
        assert for_programs(await client.next()) == error(2, "failed")
        client.say({"leave": "secret", "q": 3})
        assert for_programs(await client.next()) == error(3, "not_found")
        assert await server.ask("GET", f"rooms/{client_id}") == []
    forgive(server, "asked for")


async def test_joins_and_leaves_of_one_room_keep_their_order(
    server: Server, way: str, client_id: str
) -> None:
    room = f"open-{client_id}"
    moves = [{"join" if number % 2 else "leave": room, "q": number} for number in range(1, 20)]
    async with speaking(server, f"{way}/{client_id}") as client:
        client.say(*moves)
        frames = [await client.next() for _ in range(2 * len(moves))]
    assert frames[::2] == [{"in": room, "at": None} if "join" in move else {"out": room} for move in moves]
    assert frames[1::2] == [{"a": move["q"], "d": None} for move in moves]


async def test_illegal_name_of_a_room_ends_the_connection(server: Server, way: str, client_id: str) -> None:
    async with speaking(server, f"{way}/{client_id}") as client:
        client.say({"join": "a\nb", "q": 1})
        assert await client.client.ending() == (4502, '{"code":"name"}')


async def test_client_that_sends_bytes_where_a_request_is_expected_gets_no_answer(
    server: Server, way: str, client_id: str
) -> None:
    async with speaking(server, f"{way}/{client_id}") as client:
        client.client.send(Frame(Op.BINARY, b'{"q":1,"m":"anything"}'))
        assert await client.ask(2, "anything") == {"a": 2, "d": None}
