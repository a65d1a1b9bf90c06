"""Addresses of volatile broadcasts."""

from typing import Any

import pytest

from fastapi_websocket_stabilizer.local.batches import Broadcast, Outcome
from fastapi_websocket_stabilizer.registry.inbound import addressed
from fastapi_websocket_stabilizer.wire.messages import Address
from tests.unit.fakes import text


def ignore(_: Outcome) -> None: ...


@pytest.mark.parametrize(("rooms", "log"), [((), 1), (("lobby",), "lobby")])
def test_broadcast_to_one_log_has_its_address(rooms: tuple[str, ...], log: Any) -> None:
    message = text("x")
    broadcast = Broadcast(message, rooms, frozenset("a"), ignore)
    (part,) = addressed(broadcast)
    assert part is broadcast
    assert part.message.address == Address(log)
    assert part.message.frame(0) is message.frame(0)


def test_broadcast_to_several_rooms_has_a_part_for_each() -> None:
    broadcast = Broadcast(text("x"), ("a", "b", "c"), frozenset("ann"), ignore)
    parts = addressed(broadcast)
    assert [part.message.address for part in parts] == [Address("a"), Address("b"), Address("c")]
    assert [(part.rooms, part.outside) for part in parts] == [
        (("a",), ()),
        (("b",), ("a",)),
        (("c",), ("a", "b")),
    ]
    assert {part.exclude for part in parts} == {frozenset("ann")}
    assert all(part.outcome is broadcast.outcome for part in parts)
    assert [part.done for part in parts] == [None, None, ignore]
