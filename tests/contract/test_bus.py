"""``ports.Bus`` on every backend."""

import asyncio

from fastapi_websocket_stabilizer.names import NodeId
from fastapi_websocket_stabilizer.wire.channels import ALL, INBOX, Channel, box_of
from fastapi_websocket_stabilizer.wire.envelopes import Envelope, Kind, Part
from fastapi_websocket_stabilizer.wire.messages import Form
from tests.contract.conftest import OpenPeer, Peer
from tests.contract.support import AWKWARD_NAMES, claim
from tests.support.waiting import eventually


def message(body: str) -> Envelope:
    return Envelope(NodeId("n1"), 1, 0, Kind.BROADCAST, body=body)


def direct(*parts: Part) -> Envelope:
    return Envelope(NodeId("n1"), 1, 0, Kind.DIRECT, parts=parts)


def part(body: str, *to: str) -> Part:
    return Part([*to], Form.TEXT, body)


async def hears(peer: Peer, *bodies: str) -> None:
    await eventually(lambda: peer.hears_in_order(bodies), what=f"{peer.node} hears {bodies[:20]}")


async def hears_parts(peer: Peer, *parts: Part) -> None:
    await eventually(lambda: peer.parts == [*parts], what=f"{peer.node} hears {parts}")


async def test_all_nodes_hear_what_is_published_to_all(open_peer: OpenPeer) -> None:
    peers = [await open_peer(f"n{i}") for i in range(3)]
    assert await peers[0].backend.bus.publish(ALL, message("hello")) == 3
    for peer in peers:
        await hears(peer, "hello")
        assert peer.heard[0][0] == ALL


async def test_an_envelope_arrives_as_it_was_published(open_peer: OpenPeer) -> None:
    peer = await open_peer("n1")
    sent = Envelope(peer.node, 7, 5, Kind.BROADCAST, ("r",), ("x", "y"), Form.BINARY, b"\x00\xff", 9)
    await peer.backend.bus.publish(ALL, sent)
    await eventually(lambda: peer.heard == [(ALL, sent)])


async def test_a_room_is_heard_by_those_who_subscribed(open_peer: OpenPeer) -> None:
    inside, outside = await open_peer("n1"), await open_peer("n2")
    await inside.backend.bus.subscribe_room("lobby")
    assert await outside.backend.bus.publish(Channel("room", "lobby"), message("hello")) == 1
    await hears(inside, "hello")
    assert inside.heard[0][0] == Channel("room", "lobby")
    assert outside.heard == []


async def test_subscribing_twice_hears_once_and_leaving_once_is_enough(open_peer: OpenPeer) -> None:
    peer = await open_peer("n1")
    for _ in range(2):
        await peer.backend.bus.subscribe_room("lobby")
    assert await peer.backend.bus.publish(Channel("room", "lobby"), message("hello")) == 1
    peer.backend.bus.unsubscribe_room("lobby")
    await nobody_hears(peer, "lobby")
    await hears(peer, "hello")


async def test_a_room_that_was_left_is_no_longer_heard(open_peer: OpenPeer) -> None:
    peer = await open_peer("n1")
    await peer.backend.bus.subscribe_room("lobby")
    peer.backend.bus.unsubscribe_room("lobby")
    await nobody_hears(peer, "lobby")
    assert peer.heard == []


async def test_a_room_that_was_left_and_entered_again_is_heard(open_peer: OpenPeer) -> None:
    peer = await open_peer("n1")
    await peer.backend.bus.subscribe_room("lobby")
    peer.backend.bus.unsubscribe_room("lobby")
    await peer.backend.bus.subscribe_room("lobby")
    assert await peer.backend.bus.publish(Channel("room", "lobby"), message("hello")) == 1
    await hears(peer, "hello")


async def test_more_rooms_than_fit_in_one_command_are_all_heard(open_peer: OpenPeer) -> None:
    peer = await open_peer("n1")
    rooms = [f"room {number}" for number in range(1_100)]
    await asyncio.gather(*map(peer.backend.bus.subscribe_room, rooms))
    took = await asyncio.gather(
        *(peer.backend.bus.publish(Channel("room", room), message(room)) for room in rooms)
    )
    assert took == [1] * len(rooms)
    await hears(peer, *rooms)


async def test_an_inbox_is_heard_by_its_node_only(open_peer: OpenPeer) -> None:
    first, second = await open_peer("n1"), await open_peer("n2")
    assert await first.backend.bus.publish_node(second.node, message("hello")) == 1
    await hears(second, "hello")
    assert second.heard[0][0] == INBOX
    assert first.heard == []


async def test_nobody_takes_what_is_sent_to_an_unknown_node(open_peer: OpenPeer) -> None:
    peer = await open_peer("n1")
    assert await peer.backend.bus.publish_node(NodeId("nobody"), message("hello")) == 0


async def test_a_renamed_node_hears_its_new_inbox_and_not_its_old_one(open_peer: OpenPeer) -> None:
    peer = await open_peer("n1")
    await peer.backend.rename(NodeId("n2"))
    await peer.backend.bus.publish_node(NodeId("n2"), message("new"))

    async def old_is_gone() -> bool:
        return await peer.backend.bus.publish_node(NodeId("n1"), message("old")) == 0

    await eventually(old_is_gone)
    await hears(peer, "new")


async def test_a_message_to_clients_goes_to_the_nodes_that_hold_them(open_peer: OpenPeer) -> None:
    first, second = await open_peer("n1"), await open_peer("n2")
    await first.backend.presence.claim(claim("n1.1", "alice"))
    await first.backend.presence.claim(claim("n2.1", "bob"))
    await first.backend.presence.claim(claim("n2.2", "carol"))
    sent = direct(part("hello", "bob", "nobody", "carol", "alice"))
    took = await first.backend.bus.publish_clients(sent, top=1)
    assert took == [["n2"], [], ["n2"], ["n1"]]
    await hears_parts(first, part("hello", "alice"))
    await hears_parts(second, part("hello", "bob", "carol"))


async def test_messages_to_clients_arrive_in_one_envelope_a_node_that_has_its_share(
    open_peer: OpenPeer,
) -> None:
    first, second = await open_peer("n1"), await open_peer("n2")
    await first.backend.presence.claim(claim("n1.1", "älice"))
    await first.backend.presence.claim(claim("n2.1", "bob"))
    parts = (
        Part(["älice", "bob"], Form.TEXT, "ä" * 300, 7),
        Part(["bob"], Form.BINARY, bytes(range(256)) * 300),
        Part(["nobody"], Form.JSON, "{}"),
        Part(["bob", "älice"], Form.JSON, '{"a": 1}'),
        Part(["älice"], Form.JSON, '{"a": 1}'),
    )
    took = await first.backend.bus.publish_clients(direct(*parts), top=1)
    assert took == [["n1"], ["n2"], ["n2"], [], ["n2"], ["n1"], ["n1"]]
    await hears_parts(
        first, parts[0]._replace(targets=["älice"]), parts[3]._replace(targets=["älice"]), parts[4]
    )
    await hears_parts(
        second, parts[0]._replace(targets=["bob"]), parts[1], parts[3]._replace(targets=["bob"])
    )
    assert [len(peer.heard) for peer in (first, second)] == [1, 1]


async def test_as_many_messages_as_fit_in_a_call_arrive_in_order(open_peer: OpenPeer) -> None:
    sender, receiver = await open_peer("n1"), await open_peer("n2")
    for number in range(100):
        await receiver.backend.presence.claim(claim(f"n2.{number}", f"client {number}"))
    parts = [part(f"{number}", f"client {number % 100}") for number in range(500)]
    took = await sender.backend.bus.publish_clients(direct(*parts), top=1)
    assert took == [["n2"]] * 500
    await hears_parts(receiver, *parts)


async def test_a_message_to_a_client_skips_outranked_connections(open_peer: OpenPeer) -> None:
    first, second = await open_peer("n1"), await open_peer("n2")
    await first.backend.presence.claim(claim("n1.1"))
    await first.backend.presence.claim(claim("n2.1"))
    assert await first.backend.bus.publish_clients(direct(part("hello", "alice")), top=1) == [["n2"]]
    await hears_parts(second, part("hello", "alice"))
    assert first.heard == []


async def test_a_message_reaches_all_connections_that_a_client_may_have(open_peer: OpenPeer) -> None:
    peers = [await open_peer(f"n{i}") for i in range(3)]
    for peer in peers:
        await peer.backend.presence.claim(claim(f"{peer.node}.1", top=2))
    took = await peers[0].backend.bus.publish_clients(direct(part("hello", "nobody", "alice")), top=2)
    assert [sorted(nodes) for nodes in took] == [[], ["n1", "n2"]]


async def test_a_node_that_is_left_out_is_sent_nothing_and_keeps_its_rank(open_peer: OpenPeer) -> None:
    peers = [await open_peer(f"n{i}") for i in range(3)]
    for peer in peers:
        await peer.backend.presence.claim(claim(f"{peer.node}.1", top=2))
    sent = direct(part("hello", "nobody", "alice"))
    took = await peers[0].backend.bus.publish_clients(sent, 2, [NodeId("n2"), NodeId("n")])
    assert took == [[], ["n1"]], "n0 has been outranked, n2 is left out"
    await hears_parts(peers[1], part("hello", "alice"))
    assert peers[2].heard == []


async def test_a_client_with_several_connections_on_a_node_is_named_to_it_once(open_peer: OpenPeer) -> None:
    peer = await open_peer("n1")
    for number in range(3):
        await peer.backend.presence.claim(claim(f"n1.{number}", top=3))
    assert await peer.backend.bus.publish_clients(direct(part("hello", "alice")), top=3) == [["n1"]]
    await hears_parts(peer, part("hello", "alice"))


async def test_a_client_whose_node_does_not_listen_is_not_reached(open_peer: OpenPeer) -> None:
    peer = await open_peer("n1")
    await peer.backend.presence.claim(claim("gone.1"))
    assert await peer.backend.bus.publish_clients(direct(part("hello", "alice")), top=1) == [[]]


async def test_any_legal_name_is_a_client_that_can_be_sent_to(open_peer: OpenPeer) -> None:
    peer = await open_peer("n1")
    for number, name in enumerate(AWKWARD_NAMES):
        await peer.backend.presence.claim(claim(f"n1.{number}", name))
    names = [*AWKWARD_NAMES]
    took = await peer.backend.bus.publish_clients(direct(part("hello", *names)), top=1)
    assert took == [["n1"]] * len(names)
    await hears_parts(peer, part("hello", *names))


async def test_messages_of_one_sender_arrive_in_the_order_of_the_calls(open_peer: OpenPeer) -> None:
    sender, receiver = await open_peer("n1"), await open_peer("n2")
    await sender.backend.presence.claim(claim("n2.1"))
    await receiver.backend.bus.subscribe_room("lobby")
    bus = sender.backend.bus

    async def to_alice(text: str) -> object:
        return await bus.publish_clients(direct(part(text, "alice")), top=1)

    calls: list[asyncio.Future[object]] = []
    for number in range(50):
        text = f"{number}"
        calls += [
            asyncio.ensure_future(to_alice(f"{text} client")),
            asyncio.ensure_future(bus.publish_node(receiver.node, message(f"{text} node"))),
            asyncio.ensure_future(bus.publish(Channel("room", "lobby"), message(f"{text} room"))),
            asyncio.ensure_future(bus.publish(ALL, message(f"{text} all"))),
        ]
    await asyncio.gather(*calls)
    await hears(receiver, *(f"{n} {to}" for n in range(50) for to in ("client", "node", "room", "all")))


async def test_room_names_cannot_collide_or_match_one_another(open_peer: OpenPeer) -> None:
    peer = await open_peer("n1")
    for room in AWKWARD_NAMES[::2]:
        await peer.backend.bus.subscribe_room(room)
    took = [await peer.backend.bus.publish(Channel("room", room), message(room)) for room in AWKWARD_NAMES]
    assert took == [1 - number % 2 for number in range(len(AWKWARD_NAMES))]
    await hears(peer, *AWKWARD_NAMES[::2])
    assert all(channel == Channel("room", str(envelope.body)) for channel, envelope in peer.heard)


async def nobody_hears(peer: Peer, room: str) -> None:
    async def is_left() -> bool:
        return await peer.backend.bus.publish(Channel("room", room), message("nobody hears this")) == 0

    await eventually(is_left)
    peer.heard[:] = [heard for heard in peer.heard if heard[1].body != "nobody hears this"]


async def test_channel_that_is_left_is_not_listened_to_from_then_on(open_peer: OpenPeer) -> None:
    """The UNSUBSCRIBE may still be on its way. A read that is sent meanwhile must not count as covered."""
    backend = (await open_peer("n1")).backend
    await backend.bus.subscribe_box("alice")
    assert backend.listening(box_of("alice")) is not None
    backend.bus.unsubscribe_box("alice")
    assert backend.listening(box_of("alice")) is None
    await backend.bus.subscribe_box("alice")
    assert backend.listening(box_of("alice")) is not None
