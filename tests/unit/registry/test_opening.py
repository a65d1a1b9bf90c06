"""The first frame of a connection that follows logs, and positions that move without a frame."""

from fastapi_websocket_stabilizer.backends.log_ports import LogEntry
from fastapi_websocket_stabilizer.names import NodeId
from fastapi_websocket_stabilizer.registry.feed import Cursor, Joined
from fastapi_websocket_stabilizer.registry.opening import MAX_SKIPPED, Skipped, hello
from fastapi_websocket_stabilizer.wire.envelopes import Envelope, Kind


def entry(number: int) -> LogEntry:
    return LogEntry(number, Envelope(NodeId("n"), 1, 0, Kind.BROADCAST, ("lobby",)), 60)


def test_client_without_positions_begins_at_those_of_the_logs() -> None:
    first = hello({"a": None, "b": None}, {"a": Joined(1, (), 5), "b": Joined(1, (), 7)})
    assert (first.at, first.continues) == ({"a": 5, "b": 7}, None)


def test_replay_of_several_logs_is_merged_by_id() -> None:
    answers = {"a": Joined(1, (entry(3), entry(6)), 6), "b": Joined(1, (entry(4), entry(5)), 5)}
    first = hello({"a": Cursor(1), "b": Cursor(2)}, answers)
    assert [(log, missed.id) for log, missed in first.replay] == [("a", 3), ("b", 4), ("b", 5), ("a", 6)]
    assert first.continues is True


def test_first_frame_has_the_position_before_the_replay() -> None:
    answers = {"a": Joined(1, (entry(3),), 3), "b": Joined(1, (), 8, "trimmed"), "c": Joined(1, (), 0)}
    first = hello({"a": Cursor(1), "b": Cursor(2), "c": Cursor(9)}, answers)
    assert first.at == {"a": 1, "b": 8, "c": 9}, "a position does not go back"
    assert first.lost == [("b", 8, "trimmed")]
    assert first.continues is False


def test_member_is_told_its_position_after_many_skipped_entries() -> None:
    skipped: Skipped[str] = Skipped()
    told = [skipped.delivered(number, ["ann"]) for number in range(MAX_SKIPPED)]
    assert told == [[]] * (MAX_SKIPPED - 1) + [["ann"]]
    assert "ann" not in skipped


def test_entry_that_a_member_was_sent_tells_its_position() -> None:
    skipped: Skipped[str] = Skipped()
    skipped.delivered(1, ["ann", "bob"])
    skipped.delivered(2, ["bob"])
    assert "ann" not in skipped
    assert (skipped.due(), skipped.position) == (["bob"], 2)
    assert skipped.due() == []
    skipped.delivered(3, ["bob"])
    skipped.left("bob")
    assert skipped.delivered(4) == []
    assert skipped.due() == []
