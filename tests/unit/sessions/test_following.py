"""What a client is told of the logs of its connection, in the order in which it must be told."""

import json
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from fastapi_websocket_stabilizer.backends.log_ports import LogEntry
from fastapi_websocket_stabilizer.local.connection import Connection
from fastapi_websocket_stabilizer.models import ResumeOutcome
from fastapi_websocket_stabilizer.names import ConnectionId, NodeId
from fastapi_websocket_stabilizer.registry import feed
from fastapi_websocket_stabilizer.registry.feed import Joined
from fastapi_websocket_stabilizer.registry.registration import Succession
from fastapi_websocket_stabilizer.runtime.metrics import Counters
from fastapi_websocket_stabilizer.sessions import following
from fastapi_websocket_stabilizer.sessions.following import (
    OTHERS_S,
    UNREADABLE,
    Beginning,
    Following,
    Log,
)
from fastapi_websocket_stabilizer.wire.client_frames import EVERYBODY, LostLog, Positions
from fastapi_websocket_stabilizer.wire.client_frames import Lost as LostCode
from fastapi_websocket_stabilizer.wire.cursors import Cursor
from fastapi_websocket_stabilizer.wire.envelopes import Envelope, Kind
from fastapi_websocket_stabilizer.wire.messages import Address, Encoded, Series, encode

CURSOR = Cursor("s1", 5, {"lobby": 10, "later": 3}, everybody=7)
EXCLUDED = 99
"""The id of an entry that is not meant for the client."""


class Node:
    def __init__(self) -> None:
        self.counters = Counters()
        self.behind: dict[Log, feed.Cursor] = {}
        self.went_on: list[Log] = []
        self.stopped: list[tuple[Log, int]] = []

    def replayed(
        self, connection: Connection, former: Iterable[ConnectionId], missed: Iterable[tuple[Log, Any]]
    ) -> list[Encoded]:
        meant = [(log, entry) for log, entry in missed if entry.id != EXCLUDED]
        return [encode("x", 100).addressed(Address(log, entry.id)) for log, entry in meant]

    def replay(
        self, connection: Connection, former: Iterable[ConnectionId], missed: Iterable[tuple[Log, Any]]
    ) -> Series:
        return Series(self.replayed(connection, former, missed))

    def stop(self, connection: Connection, log: Log, position: int) -> bool:
        self.stopped.append((log, position))
        return True

    def put_off(self, connection: Connection, log: Log, position: feed.Cursor) -> bool:
        self.behind[log] = position
        return True

    def is_behind(self, connection: Connection) -> bool:
        return bool(self.behind)

    def go_on(self, connection: Connection) -> None:
        self.went_on += self.behind
        self.behind.clear()


class World:
    """The logs of one connection, and the frames that its client has got."""

    def __init__(self, cursor: Cursor | None, *rooms: str) -> None:
        self.pushed: list[Encoded] = []
        self.reads = 1000  # messages that the client reads before it is behind
        self.timers: list[tuple[float, Callable[[], None]]] = []
        connection: Any = SimpleNamespace(
            rooms=set(rooms),
            push=self.pushed.append,
            falls_behind=lambda _: len(self.pushed) >= self.reads,
            loop=SimpleNamespace(call_later=lambda delay_s, act: self.timers.append((delay_s, act))),
        )
        self.rooms, self.node, self.record = connection.rooms, Node(), Succession("s2")
        self.following = Following(self.node, cast("Connection", connection), self.record, cursor)

    def awaits(self, *logs: Log) -> list[tuple[int, int] | None]:
        return [self.following.cursor(log) for log in logs]

    def fed(self, log: Log, position: int, *ids: int, code: str = "") -> list[Any]:
        """Let a log answer; return the frames about it."""
        entries = [LogEntry(id_, Envelope(NodeId("n"), id_, 0, Kind.BROADCAST), 10) for id_ in ids]
        self.following.fed(log, Joined("member", entries, position, code))
        return self.got()

    def caught_up(self, log: Log, position: int, *ids: int, code: str = "") -> list[Any]:
        """Let a log go on whose client was slow; return the frames about it."""
        entries = [LogEntry(id_, Envelope(NodeId("n"), id_, 0, Kind.BROADCAST), 10) for id_ in ids]
        self.following.caught_up(log, Joined("member", entries, position, code))
        return self.got()

    def begin(self) -> Beginning:
        beginning = self.following.begin()
        self.record.has_begun = True
        return beginning

    def leave(self, room: str) -> list[Any]:
        self.rooms.discard(room)
        self.following.left(room)
        return self.got()

    def join(self, room: str, position: int, *ids: int, code: str = "") -> list[Any]:
        self.rooms.add(room)
        self.awaits(room)
        return self.fed(room, position, *ids, code=code)

    def got(self) -> list[Any]:
        frames, self.pushed[:] = sent(self.pushed), []
        return frames


def sent(messages: Iterable[Encoded | Series]) -> list[Any]:
    each_of = (each.messages if isinstance(each, Series) else (each,) for each in messages)
    return [json.loads(message.asgi_with_address["text"]) for some in each_of for message in some]


def test_client_without_a_cursor_begins_at_the_end() -> None:
    world = World(None, "plain", "lobby")
    assert world.awaits("lobby") == [None]
    assert world.fed("lobby", 10) == []
    beginning = world.begin()
    assert beginning == Beginning(None, (), Positions({"lobby": 10, "plain": None}), beginning.replay)
    assert sent(beginning.replay) == [{"live": 0}]


def test_client_with_a_cursor_gets_what_it_missed_merged_by_id() -> None:
    world = World(CURSOR, "lobby", "new")
    assert world.awaits("lobby", "new", EVERYBODY) == [(10, 5000), None, (7, 5000)]
    world.fed("lobby", 14, 12, 14)
    world.fed("new", 30)
    world.fed(EVERYBODY, 13, 11, 13)
    beginning = world.begin()
    assert (beginning.outcome, beginning.lost) == (True, [])
    assert beginning.positions == Positions({"lobby": 10, "new": 30}, everybody=7)
    missed = [[11, 1, "x"], [12, "lobby", "x"], [13, 1, "x"], [14, "lobby", "x"]]
    assert sent(beginning.replay) == [*missed, {"live": 4}]


def test_lost_log_is_named_and_the_others_continue() -> None:
    world = World(CURSOR, "lobby")
    world.awaits("lobby", EVERYBODY)
    world.fed("lobby", 14, code="trimmed")
    world.fed(EVERYBODY, 13, 11, 13)
    beginning = world.begin()
    assert (beginning.outcome, beginning.lost) == (False, [LostLog("lobby", 14, LostCode.TRIMMED)])
    assert beginning.positions == Positions({"lobby": 14}, everybody=7)
    assert sent(beginning.replay) == [[11, 1, "x"], [13, 1, "x"], {"live": 2}]


def test_entries_that_are_not_meant_for_the_client_move_its_position() -> None:
    world = World(CURSOR, "lobby")
    world.awaits("lobby")
    world.fed("lobby", EXCLUDED, 12, EXCLUDED)
    assert sent(world.begin().replay) == [[12, "lobby", "x"], {"at": {"lobby": EXCLUDED}}, {"live": 1}]


def test_loss_of_a_log_that_has_answered_is_behind_its_messages() -> None:
    world = World(CURSOR, "lobby")
    world.awaits("lobby")
    world.fed("lobby", 12, 11, 12)
    world.following.lost("lobby", 20, "hole")
    beginning = world.begin()
    assert (beginning.outcome, beginning.lost, len(sent(beginning.replay))) == (True, [], 3)
    assert world.got() == [{"lost": [["lobby", 20, "hole"]]}]


def test_cursor_that_cannot_be_read_loses_every_log() -> None:
    world = World(UNREADABLE, "lobby", "plain")
    world.awaits("lobby")
    world.fed("lobby", 14)
    beginning = world.begin()
    assert (beginning.outcome, beginning.lost) == (False, [LostLog("lobby", 14, LostCode.UNKNOWN)])
    assert world.join("later", 9) == [
        {"lost": [["later", 9, "unknown"]]},
        {"in": "later", "at": 9, "re": False},
    ]
    world.leave("later")
    assert world.join("later", 11) == [{"in": "later", "at": 11}]


# Redis was away at the first frame


@pytest.mark.parametrize("code", ["", "hole"])
def test_logs_that_answer_later_are_told_before_the_outcome(code: str) -> None:
    world = World(CURSOR, "lobby", "new")
    world.awaits("lobby", "new", EVERYBODY)
    beginning = world.begin()
    assert (beginning.outcome, beginning.lost, sent(beginning.replay)) == ("later", [], [])
    assert beginning.positions == Positions({"lobby": 10, "new": None}, everybody=7)
    missed = [[11, "lobby", "x"], [12, "lobby", "x"]]
    if code:
        assert world.fed("lobby", 12, code=code) == [{"lost": [["lobby", 12, "hole"]]}]
        assert world.fed("new", 9) == [{"at": {"new": 9}}]
    else:
        assert world.fed("lobby", 12, 11, 12) == []
        assert world.fed("new", 9) == [{"at": {"new": 9}}]
        assert world.node.went_on == ["lobby", "new"]
        assert world.caught_up("lobby", 12, 11, 12) == missed
        assert world.caught_up("new", 9) == []
    assert world.fed(EVERYBODY, 8, 8)[-3:] == [[8, 1, "x"], {"re": not code}, {"live": 1 if code else 3}]


def test_rooms_that_answer_later_wait_for_one_another_for_a_while() -> None:
    world = World(Cursor("s1", 5, {"a": 10, "b": 20_000, "c": 30}), "a", "b", "c")
    world.awaits("a", "b", "c")
    world.begin()
    assert (world.fed("a", 12, 11, 12), world.fed("b", 20_001, 20_001)) == ([], [])
    assert world.node.behind == {"a": feed.Cursor(10, 5000), "b": feed.Cursor(20_000, 20_000)}
    world.following.go_on()  # its socket was emptied
    assert world.node.went_on == []
    ((delay_s, wait_no_longer),) = world.timers
    assert delay_s == OTHERS_S
    wait_no_longer()
    assert world.node.went_on == ["a", "b"]
    assert world.caught_up("a", 12, 11, 12) == [[11, "a", "x"], [12, "a", "x"]]
    assert world.caught_up("b", 20_001, 20_001) == [[20_001, "b", "x"]]
    assert world.fed("c", 31, 31) == [[31, "c", "x"], {"re": True}, {"live": 4}]


def test_room_that_answers_while_others_still_go_on_goes_on_with_them() -> None:
    world = World(Cursor("s1", 5, {"a": 10, "b": 20}), "a", "b")
    world.awaits("a", "b")
    world.begin()
    world.fed("a", 12, 11, 12)
    world.timers[0][1]()
    world.node.behind["a"] = feed.Cursor(11)  # its client is too slow
    assert world.fed("b", 21, 21) == []
    assert world.node.went_on == ["a", "a", "b"]


def test_room_that_is_left_holds_no_other_one() -> None:
    world = World(Cursor("s1", 5, {"a": 10, "b": 20}), "a", "b")
    world.awaits("a", "b")
    world.begin()
    world.fed("a", 12, 11, 12)
    world.leave("b")
    assert world.node.went_on == ["a"]


def test_room_with_entries_that_the_client_may_not_see_is_not_read_again() -> None:
    world = World(Cursor("s1", 5, {"a": 10, "b": 20}), "a", "b")
    world.awaits("a", "b")
    world.begin()
    entry = LogEntry(12, Envelope(NodeId("n"), 12, 0, Kind.BROADCAST), 10)
    world.following.fed("a", Joined("member", [entry], 12), is_cut=True)
    assert world.got() == [[12, "a", "x"]]


def test_slow_client_is_stopped_in_each_log_that_it_was_sent() -> None:
    world = World(CURSOR, "lobby", "new")
    world.begin()
    world.reads = 3
    entries = [LogEntry(id_, Envelope(NodeId("n"), id_, 0, Kind.BROADCAST), 10) for id_ in range(11, 15)]
    assert not world.following.part(list(zip(["lobby", "new", "lobby", "new"], entries, strict=True)))
    assert [frame[:2] for frame in world.got()] == [[11, "lobby"], [12, "new"], [13, "lobby"]]
    assert world.node.stopped == [("new", 12)], "that of the last one is stopped by the connection"


def test_room_that_is_left_before_its_late_answer_is_not_waited_for() -> None:
    world = World(CURSOR, "lobby")
    world.awaits("lobby")
    assert world.begin().outcome == "later"
    assert world.leave("lobby") == [{"re": True}, {"live": 0}]


def test_new_client_is_told_late_positions_without_an_outcome() -> None:
    world = World(None, "lobby")
    world.awaits("lobby")
    beginning = world.begin()
    assert (beginning.outcome, beginning.positions) == (None, Positions({"lobby": None}))
    assert sent(beginning.replay) == [{"live": 0}]
    assert world.fed("lobby", 9) == [{"at": {"lobby": 9}}]


def test_replay_to_a_slow_client_is_sent_in_parts_before_the_outcome() -> None:
    world = World(CURSOR, "lobby")
    world.awaits("lobby")
    world.begin()
    world.reads = 2
    assert world.fed("lobby", 15, 11, 12, 13, 15) == [[11, "lobby", "x"], [12, "lobby", "x"]]
    assert world.caught_up("lobby", 15, 13, 15) == [[13, "lobby", "x"], [15, "lobby", "x"]]
    assert world.caught_up("lobby", EXCLUDED, EXCLUDED) == [
        {"at": {"lobby": EXCLUDED}},
        {"re": True},
        {"live": 4},
    ]


def test_slow_client_is_told_of_a_loss_before_later_messages() -> None:
    world = World(CURSOR, "lobby")
    world.awaits("lobby")
    world.fed("lobby", 10)
    world.begin()
    assert world.caught_up("lobby", 12, 11, 12) == [[11, "lobby", "x"], [12, "lobby", "x"]]
    assert world.caught_up("lobby", 20, code="trimmed") == [{"lost": [["lobby", 20, "trimmed"]]}]


# Rooms that are joined after the first frame


def test_room_joined_later_uses_the_rest_of_the_cursor() -> None:
    world = World(CURSOR)
    world.begin()
    assert world.join("later", 5, 4, 5) == [
        {"in": "later", "at": 3, "re": True},
        [4, "later", "x"],
        [5, "later", "x"],
    ]
    assert world.join("new", 8) == [{"in": "new", "at": 8}]


def test_room_joined_later_that_does_not_continue_is_lost_before_it_is_entered() -> None:
    world = World(CURSOR)
    world.begin()
    assert world.join("later", 9, code="trimmed") == [
        {"lost": [["later", 9, "trimmed"]]},
        {"in": "later", "at": 9, "re": False},
    ]


def test_room_that_was_left_has_no_position() -> None:
    world = World(CURSOR, "lobby")
    world.awaits("lobby")
    world.fed("lobby", 10)
    world.begin()
    assert world.leave("lobby") == []
    assert world.awaits("lobby") == [None]
    assert world.join("lobby", 20) == [{"in": "lobby", "at": 20}]


def test_positions_without_use_are_bounded_and_a_loss_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "MAX_UNUSED", 2)
    few = World(Cursor("s1", 5, {"lobby": 1, "a": 2, "b": 3}), "lobby")
    many = World(Cursor("s1", 5, {"lobby": 1, "a": 2, "b": 3, "c": 4}), "lobby")
    for world in (few, many):
        world.awaits("lobby")
        world.fed("lobby", 1)
        assert world.begin().outcome is True
    assert few.join("a", 2) == [{"in": "a", "at": 2, "re": True}]
    assert many.awaits("a") == [None]
    assert many.join("a", 7) == [{"lost": [["a", 7, "unknown"]]}, {"in": "a", "at": 7, "re": False}]
    assert [world.node.counters.cursors_shortened for world in (few, many)] == [0, 1]


def test_losses_and_positions_of_live_logs() -> None:
    world = World(CURSOR, "lobby")
    world.begin()
    world.following.lost("lobby", 9, "hole")
    world.following.lost(EVERYBODY, 8, "reset")
    world.following.moved("lobby", 9)
    world.following.moved(EVERYBODY, 8)
    assert world.got() == [
        {"lost": [["lobby", 9, "hole"]]},
        {"lost": [[1, 8, "reset"]]},
        {"at": {"lobby": 9}},
        {"at": {}, "all": 8},
    ]


# The newest messages for a new client


def test_new_client_is_told_the_position_before_the_messages_that_it_receives() -> None:
    """Otherwise one whose socket breaks in between would come back behind messages that it does not have."""
    world = World(None, "lobby")
    assert world.following.is_new("lobby")
    world.awaits("lobby")
    world.following.begins_at("lobby", 10)
    world.fed("lobby", 12, 11, 12)
    beginning = world.begin()
    assert (beginning.outcome, beginning.positions) == (None, Positions({"lobby": 10}))
    assert sent(beginning.replay)[:2] == [[11, "lobby", "x"], [12, "lobby", "x"]]


def test_new_room_of_a_later_join_is_not_one_of_the_cursor() -> None:
    world = World(CURSOR)
    world.begin()
    assert [world.following.is_new(log) for log in ("new", "lobby", EVERYBODY)] == [True, False, False]
    world.following.begins_at("new", 10)
    assert world.join("new", 12, 11, 12) == [
        {"in": "new", "at": 10}, [11, "new", "x"], [12, "new", "x"],
    ]  # fmt: skip


def test_new_client_loses_nothing() -> None:
    world = World(CURSOR)
    world.begin()
    world.following.begins_at("new", 10)
    assert world.join("new", 12, code="trimmed") == [{"in": "new", "at": 12}]


def test_room_that_was_left_is_not_new() -> None:
    world = World(None)
    world.begin()
    world.following.begins_at("new", 10)
    world.join("new", 12, 11, 12)
    world.leave("new")
    assert not world.following.is_new("new")
    assert world.join("new", 14) == [{"in": "new", "at": 14}]


def test_rooms_that_were_left_are_remembered_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "MAX_SPENT", 2)
    world = World(Cursor("s1", 5, {"lobby": 1}))
    world.begin()
    for number in range(100):
        assert world.following.is_new(f"room {number}") == (number < 3)
        world.leave(f"room {number}")
    assert len(world.following._spent) == 3
    world.leave("lobby")  # it has a position, which a later stay must not continue from
    assert world.awaits("lobby") == [None]


def test_room_that_is_left_before_its_answer_begins_at_its_end_later() -> None:
    world = World(None)
    world.begin()
    world.following.begins_at("new", 20)
    world.leave("new")
    assert world.join("new", 14) == [{"in": "new", "at": 14}]


def test_no_room_is_new_to_a_client_with_an_unreadable_cursor() -> None:
    world = World(UNREADABLE)
    world.begin()
    assert not world.following.is_new("new")


# What the application is told


def test_outcome_is_unknown_while_a_log_has_not_answered() -> None:
    world = World(CURSOR, "lobby", "new")
    world.awaits("lobby", "new", EVERYBODY)
    world.following.begins_at("new", 2)
    world.fed("lobby", 12, 11, 12)
    world.fed("new", 4, 3, 4)
    assert world.following.outcome() == ResumeOutcome(None, 2, {}, has_session=False)
    world.fed(EVERYBODY, 9, code="hole")
    assert world.following.outcome() == ResumeOutcome(False, 2, {EVERYBODY: "hole"}, has_session=False)
    assert World(None, "lobby").following.outcome() is None
