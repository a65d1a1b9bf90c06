"""Envelopes of one sender: their slots, and numbers that grow in the order of the calls."""

from fastapi_websocket_stabilizer.names import ConnectionId, NodeId
from fastapi_websocket_stabilizer.wire.channels import ALL, INBOX, Channel, channel_to
from fastapi_websocket_stabilizer.wire.envelopes import Envelope, Kind, Part
from fastapi_websocket_stabilizer.wire.messages import Form, encode
from fastapi_websocket_stabilizer.wire.outgoing import Outgoing

ME = NodeId("me")
HELLO = encode("hello", 100)
PART = Part(["ann"], Form.TEXT, "hello")


def test_broadcast_to_one_room_has_the_rooms_channel_and_any_other_that_of_all() -> None:
    assert channel_to(["lobby"]) == Channel("room", "lobby")
    assert channel_to([]) == channel_to(["a", "b"]) == ALL


def test_channel_in_a_log_is_a_name() -> None:
    assert [str(channel) for channel in (ALL, INBOX, Channel("room", "lobby"))] == [
        "all",
        "inbox",
        "room:lobby",
    ]


def test_numbers_grow_over_all_channels_and_previous_is_of_the_same_one() -> None:
    outgoing = Outgoing(ME)
    sent = [
        outgoing.broadcast(ALL, HELLO, (), ()),
        outgoing.request("ann", "{}"),
        outgoing.broadcast(Channel("room", "a"), HELLO, (), ("a",)),
        outgoing.evict(ConnectionId("n.1")),
        outgoing.broadcast(ALL, HELLO, (), ()),
        outgoing.reply("1", 7),
        outgoing.direct([PART]),
    ]
    numbers = [(envelope.sequence, envelope.previous) for envelope in sent]
    assert numbers == [(1, 0), (2, 0), (3, 0), (4, 2), (5, 1), (6, 4), (7, 6)]


def test_direct_envelope_has_the_numbers_that_were_reserved_for_it() -> None:
    outgoing = Outgoing(ME)
    numbers = outgoing.reserve_direct()
    later = outgoing.evict(ConnectionId("n.1"))
    assert outgoing.direct([PART], numbers) == Envelope(ME, 1, 0, Kind.DIRECT, parts=(PART,))
    assert (later.sequence, later.previous) == (2, 1)


def test_each_kind_has_its_slots() -> None:
    outgoing = Outgoing(ME)
    broadcast = outgoing.broadcast(Channel("room", "a"), HELLO, ["bob"], ["a"], 3)
    assert broadcast == Envelope(ME, 1, 0, Kind.BROADCAST, ("a",), ("bob",), Form.TEXT, "hello", 3)
    assert broadcast.message() is HELLO
    request = outgoing.request("ann", "{}", 4)
    assert request == Envelope(ME, 2, 0, Kind.REQUEST, ("ann",), (), Form.JSON, "{}", 4)
    assert outgoing.reply("1", 5) == Envelope(ME, 3, 2, Kind.REPLY, (), (), Form.JSON, "1", 5)
    assert outgoing.evict(ConnectionId("n.1")) == Envelope(ME, 4, 3, Kind.EVICT, ("n.1",))
    assert outgoing.lost(["a"], "hole") == Envelope(ME, 5, 4, Kind.LOST, ("a",), (), Form.TEXT, "hole")


def test_numbers_continue_under_another_name() -> None:
    outgoing = Outgoing(ME)
    outgoing.request("ann", "{}")
    outgoing.rename(NodeId("me again"))
    again = outgoing.request("ann", "{}")
    assert (again.sender, again.sequence, again.previous) == ("me again", 2, 1)
