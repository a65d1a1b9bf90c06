"""Any frames of ``stabilizer.v1`` after any handshake: answered, or closed by a named code, and nothing else is lost.

A stream of frames has exactly one fate. The first frame that breaks a rule ends the connection with the code of this
rule. Without one, each request has one answer, each new message is handled, and the connection goes on. Either way
another client in a room with the same history notices nothing, and the log of the server stays clean.
"""

import asyncio
import itertools
import json
from base64 import urlsafe_b64encode
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fastapi_websocket_stabilizer.exceptions import ClientInputError
from fastapi_websocket_stabilizer.wire.client_input import (
    Cancel,
    ClientFrame,
    Join,
    Leave,
    Message,
    Probe,
    Renewal,
    Request,
    Resume,
    parse,
)
from fastapi_websocket_stabilizer.wire.client_protocol import parse_offer
from tests.wire.raw import Frame, Op, RawClient, closing
from tests.wire.servers import ASYNCIO, HYPERCORN, STOCK_ROW, UVLOOP, Fleet, Server, settled
from tests.wire.speakers import SUBPROTOCOL

LIMIT = 65_536
INVALID_INPUT = 4502
LAST = 2**53 - 1
"""The number of the request behind all frames, whose answer shows that all of them were read."""
ENVIRONMENT = {
    "WS_HISTORY": '{"": {"messages": 20}}',
    "WS_HISTORY_FOR_ALL": '{"messages": 20}',
    "WS_MAILBOX": '{"messages": 20}',
    "WS_CLIENT_PRESENCE": "ada,open,witness",
    "WS_MAX_MESSAGE_SIZE": str(LIMIT),
}
ROOM = "ada-0"
"""The room of a client that has left."""
numbers = itertools.count()
hostile = settings(
    max_examples=20,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

# What clients send

ids = st.one_of(
    st.integers(0, 5),
    st.integers(),
    st.sampled_from(
        [-1, 2**32 - 1, 2**32, 2**53 - 1, 2**53, 10**40, 1.0, 1.5, True, None, "7", [7], {"a": 7}]
    ),
)
rooms = st.one_of(
    st.sampled_from(
        ["open-1", "open-2", "closed", "gone", "", "__proto__", "a\nb", "x" * 512, "x" * 513, ROOM, 7, None]
    ),
    st.text(max_size=8),
)
values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**60), 2**60),
        st.floats(allow_nan=False),
        st.text(max_size=10),
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
names = st.sampled_from(["anything", "rename", "refuse", "nothing", "", "x" * 128, "x" * 129, 7])
cursors = st.one_of(
    values,
    st.fixed_dictionaries(
        {"s": st.one_of(st.sampled_from(["s1", "", "x" * 64, "x" * 65, 7]), st.text(max_size=5)), "t": ids},
        optional={
            "at": st.dictionaries(st.text(max_size=4) | st.just(ROOM), ids, max_size=4),
            "all": ids,
            "box": ids,
        },
    ),
)
objects = st.one_of(
    st.fixed_dictionaries({"m": values}, optional={"n": ids}),
    st.fixed_dictionaries({"q": ids}, optional={"m": names, "d": values}),
    st.fixed_dictionaries({"a": ids}, optional={"d": values, "x": values}),
    st.fixed_dictionaries(
        {"a": ids, "x": st.fixed_dictionaries({"code": names}, optional={"message": names})}
    ),
    st.fixed_dictionaries({"c": ids}),
    st.fixed_dictionaries({"join": rooms}, optional={"q": ids}),
    st.fixed_dictionaries({"leave": rooms}, optional={"q": ids}),
    st.fixed_dictionaries({"k": ids}),
    st.fixed_dictionaries({"p": rooms}, optional={"v": ids}),
    st.fixed_dictionaries({"auth": st.one_of(names, values)}, optional={"q": ids}),
    st.fixed_dictionaries({"resume": cursors}),
    st.just({"ping": 1}),
    st.just({}),
    st.dictionaries(st.text(max_size=5), values, max_size=3),
)
texts = st.one_of(
    objects.map(json.dumps),
    objects.map(json.dumps),
    objects.map(json.dumps),
    values.map(json.dumps),
    st.text(max_size=20),
    st.sampled_from(
        [
            '{"m":NaN}',
            '{"m":1e999}',
            '{"m":"\\ud800"}',
            '\ufeff{"m":1}',
            '{"m":' + "[" * 64 + "]" * 64 + "}",
            '{"m":' + "[" * 63 + "]" * 63 + "}",
            '{"m":' + "[" * 30_000,
            '{"m":[' + "{}," * 21_000 + "{}]}",
            '{"m":"' + "x" * (LIMIT - 9) + '"}',
            '{"m":1,"m":2}',
            '{"0":1}',
            '{"__proto__":{"m":1}}',
            "[]",
            "null",
            "",
        ]
    ),
)
binaries = st.one_of(
    st.binary(max_size=12),
    st.builds(
        lambda n, data: b"\x03" + n.to_bytes(4) + data, st.integers(0, 2**32 - 1), st.binary(max_size=5)
    ),
)
frames = texts | binaries
offers = st.one_of(
    st.just([]),
    st.just([]),
    cursors.map(lambda value: [f"stabilizer.v1.resume.{coded(json.dumps(value))}"]),
    st.text(max_size=10).map(lambda text: [f"stabilizer.v1.resume.{coded(text)}"]),
    st.just(["stabilizer.v1.resume.later"]),
    st.sampled_from(
        [
            ["stabilizer.v1.resume.later", "stabilizer.v1.resume.e30"],
            ["stabilizer.v1.resume.later", "stabilizer.v1.resume.later"],
            ["stabilizer.v1.resume."],
            ["stabilizer.v1.resume.!"],
            ["stabilizer.v1.resume." + "A" * 3_900],
            ["stabilizer.v1.auth.!"],
            ["stabilizer.v1.auth.e30", "stabilizer.v1.resume.e30"],
            ["stabilizer.v1.new", "stabilizer.v1"],
        ]
    ),
)


LARGE_CURSOR = json.dumps({"resume": {"s": "s", "t": 0, "at": {f"open-{n}": n for n in range(3_000)}}})
"""More positions than a connection keeps."""


def coded(text: str) -> str:
    return urlsafe_b64encode(text.encode(errors="replace")).decode().rstrip("=")


# What must come of it


@dataclass
class Fate:
    """What a stream of frames leads to.

    Attributes:
        code: The rule that the first wrong frame breaks; "" for none.
        answers: Number of answers for each number of a request, joins and leaves included.
        cancelled: Numbers of which an answer may be missing.
        handled: Messages that reach the application.
        probes: Probes that are answered.
        mark: The highest number of a message.
    """

    code: str = ""
    answers: Counter[int] = field(default_factory=Counter)
    cancelled: set[int] = field(default_factory=set)
    handled: int = 0
    probes: int = 0
    mark: int = 0

    def add(self, frame: ClientFrame) -> None:
        match frame:
            case Resume():
                raise ClientInputError("a second cursor", code="frame")
            case Request() | Join() | Leave() | Renewal():
                self.answers[frame.number] += 1
            case Cancel():
                self.cancelled.add(frame.number)
            case Message(number=number):
                self.handled += number is None or number > self.mark
                self.mark = max(self.mark, number or 0)
            case Probe():
                self.probes += 1


def fate_of(offer: Sequence[str], sent: Sequence[str | bytes]) -> Fate:
    fate, rest = Fate(), list(sent)
    try:
        found = parse_offer([SUBPROTOCOL, *offer])
        assert found is not None
        if found.is_cursor_later:
            read_cursor(rest.pop(0))
        for data in rest:
            fate.add(parse(data, LIMIT))
    except ClientInputError as error:
        fate.code = error.code
    return fate


def read_cursor(data: str | bytes) -> None:
    """Take the first frame of a client that has announced its cursor. An unreadable or long one is one as well."""
    try:
        is_cursor = isinstance(parse(data, LIMIT), Resume)
    except ClientInputError as error:
        if error.code not in ("cursor", "size"):
            raise
        is_cursor = True
    if not is_cursor:
        raise ClientInputError("another first frame", code="frame")


class Witness:
    """Another client, whose histories are whole and whose connection stays, whatever the others do."""

    def __init__(self, client: RawClient) -> None:
        self._client = client

    async def hears(self, text: str) -> None:
        """Ask, and wait for the answer and for a message to everybody, in any order. Nothing else may come."""
        self._client.send_text('{"q":1,"m":"anything","d":"still here"}')
        found: list[list[object]] = []
        while len(found) < 2:
            frame = json.loads(await self._client.message())
            if isinstance(frame, list):
                assert 0 < frame[0] < 2**53
                found.append(frame[1:])
            elif "a" in frame:
                found.append([frame["a"], frame["d"]])
            assert not {"lost", "out", "p"} & set(frame), frame
        assert sorted(found, key=str) == [[1, "still here"], [1, text]]


class Bench:
    """A server with a witness, and one event loop to talk to it, since hypothesis knows no async functions."""

    def __init__(self, runner: asyncio.Runner, server: Server, way: str) -> None:
        self._runner, self._server, self._way = runner, server, way

    @contextmanager
    def witnessed(self) -> Iterator[None]:
        """Keep another client connected for the block. It must notice nothing."""
        path, offer = f"storing-{self._way}/witness-{next(numbers)}", {"Sec-WebSocket-Protocol": SUBPROTOCOL}
        connected = self._server.connected(path, offer)
        client = self._runner.run(connected.__aenter__())
        try:
            yield
            self._runner.run(self._ask(Witness(client)))
        finally:
            self._runner.run(connected.__aexit__(None, None, None))
        self._runner.run(settled(self._server))

    async def _ask(self, witness: Witness) -> None:
        hearing = asyncio.create_task(witness.hears("to everybody"))
        await self._server.send("to everybody")
        await hearing

    def run(self, offer: Sequence[str], sent: Sequence[str | bytes]) -> None:
        self._runner.run(self._attack(offer, sent))
        self._server.check_log()

    async def _attack(self, offer: Sequence[str], sent: Sequence[str | bytes]) -> None:
        sent = [*sent, json.dumps({"q": LAST, "m": "anything", "d": None})]
        fate, before = fate_of(offer, sent), await self._server.counter("client_frames_invalid")
        header = {"Sec-WebSocket-Protocol": ", ".join((SUBPROTOCOL, *offer))}
        async with self._server.connected(f"storing-{self._way}/ada-{next(numbers)}", header) as client:
            client.send(*map(framed, sent))
            if fate.code:
                await self._check_closed(client, fate)
            else:
                await self._check_served(client, fate)
        after = await self._server.counter("client_frames_invalid")
        assert after - before == bool(fate.code)

    async def _check_closed(self, client: RawClient, fate: Fate) -> None:
        code, reason = await client.ending()
        assert (code, json.loads(reason)) == (INVALID_INPUT, {"code": fate.code})

    async def _check_served(self, client: RawClient, fate: Fate) -> None:
        answers, stored, probes = Counter[int](), 0, 0
        while any(
            answers[number] < count for number, count in fate.answers.items() if number not in fate.cancelled
        ) or (stored < fate.handled or probes < fate.probes):
            found = await client.frame()
            assert found is not None
            assert found.opcode != Op.CLOSE, closing(found)
            data = client.decode(found)
            value = json.loads(data) if isinstance(data, str) else data
            match value:
                case {"a": number}:
                    answers[number] += 1
                case [0, 0, "stored"]:
                    stored += 1
                case dict() if not value:
                    probes += 1
        assert all(count <= fate.answers[number] for number, count in answers.items())
        assert (stored, probes) == (fate.handled, fate.probes)


def framed(data: str | bytes) -> Frame:
    return Frame(Op.TEXT, data.encode(errors="replace")) if isinstance(data, str) else Frame(Op.BINARY, data)


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


PLACES = [(UVLOOP, "parked"), (ASYNCIO, "loop"), (STOCK_ROW, "served"), (HYPERCORN, "parked")]


@pytest.fixture(params=PLACES, ids=lambda place: f"{place[0].name}-{place[1]}")
def bench(fleet: Fleet, request: pytest.FixtureRequest, runner: asyncio.Runner) -> Iterator[Bench]:
    row, way = request.param
    server = fleet.get(row.but("recorded", environment={**row.environment, **ENVIRONMENT}))
    bench = Bench(runner, server, way)
    with bench.witnessed():
        yield bench


@example(offer=[], sent=['{"m":1,"n":5}', '{"m":1,"n":5}', '{"m":1,"n":4}', b"\x03\0\0\0\6"])
@example(
    offer=["stabilizer.v1.resume.later"],
    sent=['{"resume":{"s":"s","t":0,"at":{"":1}}}', '{"k":9007199254740991}'],
)
@example(offer=["stabilizer.v1.resume.later"], sent=['{"ping":1}'])
@example(offer=["stabilizer.v1.resume.later"], sent=[LARGE_CURSOR, '{"join":"open-7","q":1}'])
@example(
    offer=[],
    sent=[
        '{"q":7,"m":"anything"}',
        '{"q":7,"m":"anything"}',
        '{"c":7}',
        '{"resume":{"s":"s","t":0,"at":{}}}',
    ],
)
@given(offer=offers, sent=st.lists(frames, min_size=1, max_size=8))
@hostile
def test_any_frames_are_answered_or_closed_by_the_rule_they_break(
    bench: Bench, offer: list[str], sent: list[str | bytes]
) -> None:
    bench.run(offer, sent)
