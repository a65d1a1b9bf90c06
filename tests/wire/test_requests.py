"""Requests, joins and leaves of clients of ``stabilizer.v1``, over real sockets."""

import json
from typing import Any

import pytest

from fastapi_websocket_stabilizer.local.requests import MAX_OPEN_REQUESTS
from tests.support.waiting import eventually
from tests.wire.raw import Frame, Op, close, text
from tests.wire.servers import ASYNCIO, STOCK_ROW, UVLOOP, Row, Server
from tests.wire.speakers import speaking


@pytest.fixture(params=[UVLOOP, ASYNCIO, STOCK_ROW], ids=lambda row: row.name)
def row(request: pytest.FixtureRequest) -> Row:
    """Each event loop with the library's class, and uvicorn's own class."""
    chosen: Row = request.param
    return chosen


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


async def test_bytes_of_open_requests_are_bounded(server: Server, way: str, client_id: str) -> None:
    """The bound is ``max_message_size``, so a request of that size is carried out, and one more is not."""
    async with speaking(server, f"{way}/{client_id}") as client:
        for number in range(3):
            client.say({"q": number, "m": "hold", "d": client_id, "ignored": "x" * 500_000})
        assert for_programs(await client.ask(3, "anything", 1)) == error(3, "limit", retry=True)
        await server.ask("PUT", f"gates/{client_id}")
        assert sorted([(await client.next())["a"] for _ in range(3)]) == [0, 1, 2]
        assert await client.ask(4, "anything", 1) == {"a": 4, "d": 1}


async def test_number_that_is_open_is_refused(server: Server, way: str, client_id: str) -> None:
    async with speaking(server, f"{way}/{client_id}") as client:
        client.say({"q": 1, "m": "hold", "d": client_id})
        assert for_programs(await client.ask(1, "anything")) == error(1, "invalid")
        await server.ask("PUT", f"gates/{client_id}")
        assert await client.next() == {"a": 1, "d": "held"}


# Messages in the type of their handler


async def test_message_that_does_not_fit_is_answered_if_the_client_waits_for_it(
    server: Server, way: str, client_id: str
) -> None:
    before = await counted(server, "messages_unfit")
    async with speaking(server, f"typed-{way}/{client_id}") as client:
        client.say({"m": {"of": ["hunter2"]}}, {"m": "hunter2"}, {"m": {"of": [1, "hunter2"]}, "n": 1})
        fault = {"code": "invalid", "message": "of.1: int_parsing", "retry": False}
        assert await client.next() == {"n": 1, "x": fault}
        client.client.send(Frame(Op.BINARY, b'\x03\x00\x00\x00\x02{"of":[1]}'))
        refused = await client.next()
        assert (refused["n"], refused["x"]["code"]) == (2, "invalid")
        client.say({"m": {"of": [1, 2]}, "n": 3})
        assert await client.next() == [0, 0, {"sum": 3}]
        assert await client.next() == {"n": 3}
    assert await counted(server, "messages_unfit") == [before[0] + 4]
    server.forgive_once_a_minute("a message does not fit add")


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
        client.say({"join": "gone", "q": 4})
        assert await client.next() == {
            "a": 4,
            "x": {"code": "not_found", "message": "there is no such room", "retry": False},
        }
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


async def test_client_comes_back_to_the_rooms_that_it_may_still_enter(
    server: Server, way: str, client_id: str
) -> None:
    """The application is asked again about those that the client had entered by itself."""
    stays, shuts = f"open-{client_id}", f"open-shut-{client_id}"
    path = f"{way}/{client_id}"
    async with speaking(server, path) as client:
        client.say({"join": stays, "q": 1}, {"join": shuts, "q": 2})
        assert {(await client.next()).get("a") for _ in range(4)} == {None, 1, 2}
        client.client.reset()
    await eventually(lambda: is_gone(server, client_id), what="the client is away")
    async with speaking(server, path, client.cursor) as again:
        assert set(again.hi["at"]) == {stays, shuts}
        again.client.reset()
    await eventually(lambda: is_gone(server, client_id), what="the client is away")
    await server.ask("PUT", f"shut/{shuts}")
    async with speaking(server, path, again.cursor) as last:
        assert set(last.hi["at"]) == {stays}


async def is_gone(server: Server, client_id: str) -> bool:
    return not await server.is_registered(client_id)


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


# Requests of the server


@pytest.mark.parametrize("kind", ["parked", "loop", "served"])
async def test_function_that_handles_a_message_may_ask_its_client(
    server: Server, kind: str, client_id: str
) -> None:
    """The answer is read behind other messages, which wait for that function."""
    async with speaking(server, f"asking-{kind}/{client_id}") as client:
        client.say({"m": "one"}, {"m": "two"})
        assert await client.next() == {"q": 1, "m": "more", "d": "one"}
        client.say({"m": "three"}, {"a": 1, "d": [1, None]})
        assert await client.next() == [0, 0, {"answer": [1, None]}]
        for number, message in ((2, "two"), (3, "three")):
            assert await client.next() == {"q": number, "m": "more", "d": message}
            client.say({"a": number, "x": {"code": "no", "message": "not now", "retry": True}})
            refused = {"error": "RequestFailedError", "code": "no", "message": "not now", "retry": True}
            assert await client.next() == [0, 0, refused]


async def test_request_to_a_connection_that_ends_has_an_outcome(server: Server, client_id: str) -> None:
    """That of a plain socket is known at once, and without a frame."""
    await server.ask("POST", f"requests/{client_id}", b"1", to=client_id)
    assert await server.ask("GET", f"requests/{client_id}") == {"error": "ConnectionNotFoundError"}
    async with server.connected(f"parked/{client_id}"):
        await server.ask("POST", f"requests/{client_id}", b"1", to=client_id)
        outcome = await server.ask("GET", f"requests/{client_id}")
        assert (outcome["error"], outcome["code"]) == ("RequestUnsupportedError", "unsupported")
    async with speaking(server, f"parked/{client_id}") as client:
        await server.ask("POST", f"requests/{client_id}", b"1", to=client_id)
        assert await client.next() == {"q": 1, "m": "confirm", "d": 1}
        client.client.reset()
    assert await server.ask("GET", f"requests/{client_id}") == {"error": "ConnectionNotFoundError"}


async def test_request_that_times_out_or_is_cancelled_is_withdrawn(
    server: Server, way: str, client_id: str
) -> None:
    before = await counted(server, "answers_ignored", "requests_sent")
    async with speaking(server, f"{way}/{client_id}") as client:
        await server.ask("POST", f"requests/{client_id}", b"1", to=client_id, timeout="0.1")
        assert await client.next() == {"q": 1, "m": "confirm", "d": 1}
        assert await client.next() == {"c": 1}
        assert await server.ask("GET", f"requests/{client_id}") == {"error": "RequestTimeoutError"}
        await server.ask("POST", f"requests/{client_id}", b"2", to=client_id)
        assert await client.next() == {"q": 2, "m": "confirm", "d": 2}
        assert await server.ask("DELETE", f"requests/{client_id}")
        assert await client.next() == {"c": 2}
        client.say({"a": 1, "d": "late"}, {"a": 2, "x": {"code": "no", "message": "late"}}, {"a": 77, "d": 1})
        assert await client.ask(1, "anything") == {"a": 1, "d": None}
    after = await counted(server, "answers_ignored", "requests_sent")
    assert [b - a for a, b in zip(before, after, strict=True)] == [3, 2]


async def test_requests_beyond_the_bound_fail_at_once_and_the_others_are_answered(
    server: Server, way: str, client_id: str
) -> None:
    count = MAX_OPEN_REQUESTS + 5
    async with speaking(server, f"{way}/{client_id}") as client:
        for number in range(count):
            path, data = f"requests/{client_id}-{number}", str(number).encode()
            await server.ask("POST", path, data, to=client_id)
        for number in range(MAX_OPEN_REQUESTS, count):
            outcome = await server.ask("GET", f"requests/{client_id}-{number}")
            assert (outcome["error"], outcome["code"], outcome["retry"]) == (
                "RequestFailedError",
                "limit",
                True,
            )
        asked = [await client.next() for _ in range(MAX_OPEN_REQUESTS)]
        client.say(*({"a": frame["q"], "d": frame["d"]} for frame in reversed(asked)))
        for number in range(MAX_OPEN_REQUESTS):
            assert await server.ask("GET", f"requests/{client_id}-{number}") == {"answer": number}
