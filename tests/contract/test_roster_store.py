"""``rosters.RosterStore`` on every backend."""

import json

import pytest

from fastapi_websocket_stabilizer.backends.ports import Backend
from fastapi_websocket_stabilizer.backends.redis import RedisBackend
from fastapi_websocket_stabilizer.backends.redis.keys import Keys
from fastapi_websocket_stabilizer.backends.rosters import RosterRead, Shown
from fastapi_websocket_stabilizer.names import ConnectionId, NodeId
from fastapi_websocket_stabilizer.wire.envelopes import Envelope, Kind
from fastapi_websocket_stabilizer.wire.outgoing import Outgoing
from tests.contract.conftest import OpenPeer, Peer
from tests.contract.support import AWKWARD_NAMES, lines
from tests.support.waiting import eventually

OUTGOING = Outgoing(NodeId("n1"))


def shown(connection_id: str = "n1.1", client_id: str = "ann", room: str = "chat", stay: int = 1) -> Shown:
    return Shown(room, client_id, ConnectionId(connection_id), stay)


def notice(*body: object, room: str = "chat") -> Envelope:
    return OUTGOING.presence(room, json.dumps(body))


async def enter(backend: Backend, who: Shown, metadata: bytes = b"{}", replaces: str = "") -> int:
    body = notice(who.client_id, json.loads(metadata), room=who.room)
    return await backend.rosters.enter(who, metadata, body, replaces=replaces)


async def leave(backend: Backend, who: Shown) -> int:
    return await backend.rosters.leave(who, notice(who.client_id, room=who.room))


async def members(backend: Backend, room: str = "chat") -> dict[str, bytes]:
    return (await backend.rosters.read(room)).members


async def test_empty_room_has_no_version(backend: Backend) -> None:
    assert await backend.rosters.read("chat") == RosterRead(0, {})


async def test_each_change_has_the_next_version(backend: Backend) -> None:
    first = await enter(backend, shown())
    second = await enter(backend, shown("n2.1", "bob"), b'{"name": "Bob {x}"}')
    third = await leave(backend, shown())
    assert (second, third) == (first + 1, first + 2)
    assert await backend.rosters.read("chat") == RosterRead(third, {"bob": b'{"name": "Bob {x}"}'})


async def test_repeated_change_is_none(backend: Backend) -> None:
    version = await enter(backend, shown())
    assert await enter(backend, shown()) == 0
    await enter(backend, shown("n2.1", "bob"))
    await leave(backend, shown())
    assert await leave(backend, shown()) == 0
    assert (await backend.rosters.read("chat")).version == version + 2


async def test_several_connections_of_a_client_are_one_member(backend: Backend) -> None:
    await enter(backend, shown("n1.1"))
    assert await enter(backend, shown("n2.1")) == 0
    assert await leave(backend, shown("n1.1")) == 0
    assert await members(backend) == {"ann": b"{}"}
    assert await leave(backend, shown("n2.1"))
    assert await members(backend) == {}


async def test_newer_metadata_is_a_change(backend: Backend) -> None:
    version = await enter(backend, shown())
    assert await enter(backend, shown(), b'{"status": "away"}') == version + 1
    assert await members(backend) == {"ann": b'{"status": "away"}'}


async def test_connection_under_a_new_id_changes_nothing(backend: Backend) -> None:
    await enter(backend, shown("n1.1"))
    assert await enter(backend, shown("n9.1"), replaces="n1.1") == 0
    assert await leave(backend, shown("n1.1")) == 0
    assert await leave(backend, shown("n9.1"))


async def test_late_end_of_an_earlier_stay_does_not_end_the_present_one(backend: Backend) -> None:
    await enter(backend, shown(stay=1))
    await leave(backend, shown(stay=1))
    await enter(backend, shown(stay=2))
    assert await leave(backend, shown(stay=1)) == 0
    assert await members(backend) == {"ann": b"{}"}


async def test_version_of_an_earlier_life_of_a_room_is_not_used_again(backend: Backend) -> None:
    versions = []
    for _ in range(3):
        versions += [await enter(backend, shown()), await leave(backend, shown())]
    assert versions == sorted(set(versions))
    assert (await backend.rosters.read("chat")).version == 0


@pytest.mark.parametrize("name", AWKWARD_NAMES)
async def test_any_name_is_a_member_of_any_room(backend: Backend, name: str) -> None:
    await enter(backend, shown(client_id=name, room=name))
    assert await members(backend, name) == {name: b"{}"}
    assert await leave(backend, shown(client_id=name, room=name))


async def test_nodes_of_the_room_get_each_change_with_its_version_in_order(open_peer: OpenPeer) -> None:
    writer, reader = await open_peer("n1"), await open_peer("n2")
    await reader.backend.bus.subscribe_room("chat")
    first = await enter(writer.backend, shown())
    await enter(writer.backend, shown())
    await enter(writer.backend, shown("n2.1", "bob"))
    await leave(writer.backend, shown())

    def changes(peer: Peer) -> list[tuple[object, object]]:
        found = [envelope for _, envelope in peer.heard if envelope.kind is Kind.PRESENCE]
        return [(envelope.entry, json.loads(envelope.body)) for envelope in found]

    await eventually(lambda: len(changes(reader)) == 3)
    assert changes(reader) == [
        ((first, first - 1), ["ann", {}]),
        ((first + 1, first), ["bob", {}]),
        ((first + 2, first + 1), ["ann"]),
    ]
    assert changes(writer) == []


async def test_index_has_the_line_of_each_client_that_is_shown(open_peer: OpenPeer) -> None:
    backend = (await open_peer("n1")).backend
    await enter(backend, shown(stay=7))
    (line,) = await lines(backend, NodeId("n1"))
    assert (line.connection_id, line.client_id, line.room, line.stay) == ("n1.1", "ann", "chat", 7)


@pytest.mark.parametrize("version", [b"9007199254740992", b"x"])
async def test_version_of_another_program_is_replaced(
    backend: Backend, namespace: str, version: bytes
) -> None:
    """Otherwise clients could not tell it from the next one."""
    if not isinstance(backend, RedisBackend):
        pytest.skip("memory has no keys that another program could set")
    first = await enter(backend, shown())
    await backend._pipeline.send("HSET", Keys(namespace).shown("chat"), "", version, idempotent=True)
    second = await enter(backend, shown("n2.1", "bob"))
    assert first < second < 2**53
    assert await backend.rosters.read("chat") == RosterRead(second, {"ann": b"{}", "bob": b"{}"})
