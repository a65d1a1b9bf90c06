"""Addresses of broadcasts: volatile ones, and entries of logs."""

import sys
from dataclasses import replace
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from fastapi_websocket_stabilizer import Identity, WebSocketConnectionManager
from fastapi_websocket_stabilizer.local.batches import Broadcast, Outcome
from fastapi_websocket_stabilizer.local.connection import Connection
from fastapi_websocket_stabilizer.names import NodeId
from fastapi_websocket_stabilizer.registry.inbound import (
    COPIED_BYTES,
    COPIED_S,
    MAX_COPIED,
    MAX_LOOKS,
    MIN_COPIED,
    Copies,
    addressed,
)
from fastapi_websocket_stabilizer.wire.envelopes import Envelope, Kind
from fastapi_websocket_stabilizer.wire.messages import Address
from tests.unit.fakes import text

ENVELOPE = Envelope(NodeId("n"), 1, 0, Kind.BROADCAST)


def ignore(_: Outcome) -> None: ...


@pytest.mark.parametrize(("rooms", "log"), [((), 1), (("lobby",), "lobby")])
def test_broadcast_to_one_log_has_its_address(rooms: tuple[str, ...], log: Any) -> None:
    message = text("x")
    broadcast = Broadcast(message, rooms, frozenset("a"), ignore)
    (part,) = addressed(broadcast, ENVELOPE)
    assert part is broadcast
    assert part.message.address == Address(log)
    assert part.message.frame(0) is message.frame(0)


def test_broadcast_to_several_rooms_has_a_part_for_each() -> None:
    broadcast = Broadcast(text("x"), ("a", "b", "c"), frozenset("ann"), ignore)
    parts = addressed(broadcast, ENVELOPE)
    assert [part.message.address for part in parts] == [Address("a"), Address("b"), Address("c")]
    assert [(part.rooms, part.outside) for part in parts] == [
        (("a",), ()),
        (("b",), ("a",)),
        (("c",), ("a", "b")),
    ]
    assert {part.exclude for part in parts} == {frozenset("ann")}
    assert all(part.outcome is broadcast.outcome for part in parts)
    assert [part.done for part in parts] == [None, None, ignore]


@pytest.mark.parametrize(("rooms", "log"), [((), 1), (("lobby",), "lobby")])
def test_entry_has_its_place_in_the_log(rooms: tuple[str, ...], log: Any) -> None:
    (part,) = addressed(Broadcast(text("x"), rooms), replace(ENVELOPE, targets=rooms, entry=(17, 16)))
    assert part.message.address == Address(log, 17, 16)


def test_copies_of_one_message_have_a_key_in_common() -> None:
    addresses = []
    for number, room in enumerate(("a", "b")):
        copy = replace(ENVELOPE, sequence=4 + number, targets=("a", "b"), entry=(7 + number, 0))
        (part,) = addressed(Broadcast(text("x"), (room,), copied=set()), copy)
        addresses.append(part.message.address)
    first, second = addresses
    assert (first.log, first.id, second.log, second.id) == ("a", 7, "b", 8)
    assert first.key == second.key
    assert first.key is not None
    assert len(first.key) <= 32


def arrives(
    copies: Copies, number: int, room: str, *, members: int = 1, now_s: float = 0.0
) -> set[Connection]:
    """Return the connections that were sent another copy of a message to two rooms."""
    sequence = 2 * number + ("a", "b").index(room)
    copy = replace(ENVELOPE, sequence=sequence, targets=("a", "b"))
    return copies.of(copy, room, {"a": members, "b": members}, now_s)


def known(copies: Copies, numbers: range, first: list[set[Connection]], **how: Any) -> list[int]:
    """Return the messages whose second copy is recognized."""
    return [number for number in numbers if arrives(copies, number, "b", **how) is first[number]]


def test_copies_are_recognized_when_one_log_is_repaired_before_the_other() -> None:
    copies, numbers = Copies(), range(MAX_COPIED)
    first = [arrives(copies, number, "a") for number in numbers]
    assert known(copies, numbers, first) == list(numbers)
    assert known(copies, numbers, first) == []  # they were complete, and are forgotten


def test_copies_beyond_their_number_are_forgotten() -> None:
    copies, numbers = Copies(), range(MAX_COPIED + 10)
    first = [arrives(copies, number, "a") for number in numbers]
    assert known(copies, numbers[::-1], first) == list(numbers[:9:-1])


def test_copies_of_large_rooms_are_bounded_by_bytes() -> None:
    copies, members, count = Copies(), 2000, 1000
    first = [arrives(copies, number, "a", members=members) for number in range(count)]
    recognized = known(copies, range(count)[::-1], first, members=members)
    bytes_of_sets = len(recognized) * sys.getsizeof(set(range(2 * members)))
    assert MIN_COPIED < len(recognized) < count
    assert recognized == list(range(count))[: -len(recognized) - 1 : -1]
    assert bytes_of_sets < COPIED_BYTES


def test_newest_copies_are_kept_whatever_their_size_and_age() -> None:
    copies = Copies()
    sized: dict[str, Any] = {"members": COPIED_BYTES}
    first = [arrives(copies, number, "a", **sized) for number in range(MIN_COPIED + 1)]
    late = {**sized, "now_s": 2 * COPIED_S}
    assert known(copies, range(MIN_COPIED, -1, -1), first, **late) == list(range(MIN_COPIED, 0, -1))


def test_copies_that_do_not_come_are_forgotten_in_time() -> None:
    copies = Copies()
    first = [arrives(copies, number, "a") for number in range(2 * MIN_COPIED)]
    arrives(copies, 2 * MIN_COPIED, "a", now_s=COPIED_S + 1)
    forgotten = MIN_COPIED + 1
    recognized = known(copies, range(2 * MIN_COPIED - 1, -1, -1), first, now_s=COPIED_S + 1)
    assert recognized == list(range(2 * MIN_COPIED - 1, forgotten - 1, -1))


JSON_TEXT = '{"text": "hi"}'


@pytest.mark.parametrize(
    ("texts", "is_warned"),
    [
        ([JSON_TEXT, JSON_TEXT], 1),
        (["[1]"], 1),
        (["[12:00] hi", "{", "[" * 60_000, "{}" + " " * 70_000, "hi", ""], 0),
        (["{"] * MAX_LOOKS + [JSON_TEXT], 0),
    ],
)
def test_text_that_is_json_is_a_warning_once(
    texts: list[str], is_warned: int, caplog: pytest.LogCaptureFixture
) -> None:
    manager = WebSocketConnectionManager()
    app = FastAPI()

    async def say(connection: Connection, _: str | bytes) -> None:
        (room,) = connection.rooms
        for message in texts:
            await manager.broadcast(message, room=room)
        await manager.broadcast({"text": "is JSON"}, room=room)
        await manager.broadcast(b"{}", room=room)

    @manager.websocket(app, "/ws/{name}", on_message=say)
    async def identify(name: str) -> Identity:
        return Identity(name, rooms=[name])

    client = TestClient(app)
    with client.websocket_connect("/ws/new", ["stabilizer.v1"]) as new:
        new.receive_text()
        with client.websocket_connect("/ws/plain") as plain:
            plain.send_text("say")
            while plain.receive().get("bytes") is None:
                pass
        assert "json.dumps" not in caplog.text, "a plain socket gets JSON"
        new.send_text('{"m":"say"}')
        while new.receive().get("bytes") is None:
            pass
    assert caplog.text.count("without json.dumps") == is_warned
