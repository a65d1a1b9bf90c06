"""The order of the first frames, and the copies of one message."""

from fastapi_websocket_stabilizer.backends.log_ports import LogEntry
from fastapi_websocket_stabilizer.names import NodeId
from fastapi_websocket_stabilizer.registry.feed import Cursor, Joined
from fastapi_websocket_stabilizer.registry.opening import MAX_COPIES, MAX_SKIPPED, Copies, Opening, Skipped
from fastapi_websocket_stabilizer.wire.envelopes import Envelope, Kind


def entry(number: int) -> LogEntry:
    return LogEntry(number, Envelope(NodeId("n"), 1, 0, Kind.BROADCAST, ("lobby",)), 60)


def opening(**cursors: Cursor | None) -> Opening[str, str]:
    return Opening(cursors)


def test_first_frame_waits_for_every_log() -> None:
    first = opening(a=None, b=None)
    first.answered("a", Joined(1, (), 5))
    assert not first.is_ready
    first.answered("b", Joined(1, (), 7))
    assert first.is_ready
    assert first.hello().at == {"a": 5, "b": 7}
    assert first.hello().continues is None


def test_log_that_was_left_is_not_waited_for() -> None:
    first = opening(a=None, b=None)
    first.answered("a", Joined(1, (), 5))
    first.left("b")
    first.answered("b", Joined(1, (), 7))
    assert first.is_ready
    assert first.hello().at == {"a": 5}


def test_replay_is_merged_and_precedes_what_was_kept() -> None:
    first = opening(a=Cursor(1), b=Cursor(2))
    first.answered("a", Joined(1, (entry(3), entry(6)), 6))
    first.keep("live in a")
    first.answered("b", Joined(1, (entry(4), entry(5)), 5))
    hello = first.hello()
    assert [(log, missed.id) for log, missed in hello.replay] == [("a", 3), ("b", 4), ("b", 5), ("a", 6)]
    assert hello.kept == ["live in a"]
    assert hello.continues is True


def test_first_frame_has_the_position_before_the_replay() -> None:
    first = opening(a=Cursor(1), b=Cursor(2), c=Cursor(9))
    first.answered("a", Joined(1, (entry(3),), 3))
    first.answered("b", Joined(1, (), 8, "trimmed"))
    first.answered("c", Joined(1, (), 0))
    hello = first.hello()
    assert hello.at == {"a": 1, "b": 8, "c": 9}, "a position does not go back"
    assert hello.lost == [("b", 8, "trimmed")]
    assert hello.continues is False


def test_second_copy_is_recognized_within_a_bound() -> None:
    copies = Copies()
    assert copies.is_first("u")
    assert not copies.is_first("u")
    for number in range(MAX_COPIES):
        assert copies.is_first(str(number))
    assert copies.is_first("u")


def test_member_is_told_its_position_after_many_skipped_entries() -> None:
    skipped: Skipped[str] = Skipped()
    told = [skipped.delivered(["ann"]) for _ in range(MAX_SKIPPED)]
    assert told == [[]] * (MAX_SKIPPED - 1) + [["ann"]]
    assert "ann" not in skipped


def test_entry_that_a_member_was_sent_tells_its_position() -> None:
    skipped: Skipped[str] = Skipped()
    skipped.delivered(["ann", "bob"])
    skipped.delivered(["bob"])
    assert skipped.due() == ["bob"]
    assert skipped.due() == []
    skipped.delivered(["bob"])
    skipped.left("bob")
    assert skipped.delivered() == []
    assert skipped.due() == []
