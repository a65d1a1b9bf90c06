"""Addresses of broadcasts: volatile ones, and entries of logs."""

from dataclasses import replace
from typing import Any

import pytest

from fastapi_websocket_stabilizer.local.batches import Broadcast, Outcome
from fastapi_websocket_stabilizer.names import NodeId
from fastapi_websocket_stabilizer.registry.inbound import addressed
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
