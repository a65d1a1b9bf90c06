"""What ``tests/model`` does not look at: volatile messages, bounds, and which reads are asked for."""

from collections.abc import Sequence
from itertools import pairwise

from fastapi_websocket_stabilizer.backends.log_ports import LogEntry, LogMeta, LogRead
from fastapi_websocket_stabilizer.names import NodeId
from fastapi_websocket_stabilizer.registry.feed import (
    TAIL,
    Action,
    Cursor,
    Deliver,
    Feed,
    Joined,
    Lost,
    Read,
)
from fastapi_websocket_stabilizer.wire.envelopes import Envelope, Kind

RUN = "run"


def entry(number: int, size: int = 60) -> LogEntry:
    return LogEntry(number, Envelope(NodeId("n"), 1, 0, Kind.BROADCAST, ("lobby",)), size)


def read(*ids: int, meta: LogMeta | None = None, is_whole: bool = True) -> LogRead:
    meta = meta or (LogMeta(ids[-1]) if ids else None)
    last = ids[-1] if ids else meta.base if meta else 0
    return LogRead(tuple(map(entry, ids)), is_whole, meta, last, 1, 3, RUN)


def delivered(actions: Sequence[Action]) -> list[object]:
    return [
        action.message.id if isinstance(action.message, LogEntry) else action.message
        for action in actions
        if isinstance(action, Deliver)
    ]


def joined(actions: Sequence[Action]) -> dict[str, list[int]]:
    return {a.member: [e.id for e in a.entries] for a in actions if isinstance(a, Joined)}


def asked(actions: Sequence[Action]) -> list[int | None]:
    return [action.last for action in actions if isinstance(action, Read)]


def token(actions: Sequence[Action]) -> int:
    (found,) = (action.token for action in actions if isinstance(action, Read))
    return found


def flowing(*ids: int, **bounds: int) -> Feed[str]:
    """Return a feed that has a member, and has received ``ids``."""
    feed: Feed[str] = Feed(**bounds)  # type: ignore[arg-type]  # the two bounds are ints
    feed.attach("first", None)
    feed.read_done(token(feed.subscribed(RUN)), read(ids[0], is_whole=False), RUN, 2)
    for previous, number in pairwise(ids):
        feed.entry(entry(number), previous)
    assert feed.is_flowing
    return feed


def test_first_member_without_a_position_needs_one_entry_only() -> None:
    feed: Feed[str] = Feed()
    assert asked(feed.attach("ann", None)) == []
    actions = feed.subscribed(RUN)
    assert asked(actions) == [1]
    answer = feed.read_done(token(actions), read(5, 7), RUN, 2)
    assert answer == [Joined("ann", (), 7)]
    assert feed.last == 7


def test_next_members_need_no_read() -> None:
    feed = flowing(5, 7, 9)
    assert joined(feed.attach("ann", Cursor(5))) == {"ann": [7, 9]}
    assert joined(feed.attach("bob", Cursor(9))) == {"bob": []}
    assert joined(feed.attach("cat", None)) == {"cat": []}


def test_position_before_the_newest_entries_is_known_without_a_read() -> None:
    feed = flowing(5, 7, 9, 11)
    assert [feed.before_last(count) for count in (1, 2, 3)] == [9, 7, 5]
    assert feed.before_last(4) is None, "older entries are not in the ring"
    assert joined(feed.attach("ann", Cursor(feed.before_last(2) or 0))) == {"ann": [9, 11]}


def test_position_before_the_newest_entries_follows_the_bounds_of_the_ring() -> None:
    feed = flowing(5, 7, 9, 11, 13, 15, 17, ring_bytes=180)
    assert [feed.before_last(count) for count in (1, 2, 3, 4, 9)] == [15, 13, 11, None, None]


def test_position_before_the_newest_entries_is_not_known_while_the_log_is_held_or_empty() -> None:
    feed = flowing(5, 7)
    feed.interrupted()
    assert feed.before_last(1) is None
    empty: Feed[str] = Feed()
    empty.attach("first", None)
    empty.read_done(token(empty.subscribed(RUN)), read(), RUN, 2)
    assert (empty.is_flowing, empty.before_last(1)) == (True, None)
    empty.entry(entry(5), 0)
    assert empty.before_last(1) is None, "the id 0 is in no ring"


def test_members_who_wait_share_a_read() -> None:
    feed = flowing(5)
    first = feed.attach("ann", Cursor(3))
    assert asked(first) == [TAIL]
    assert asked(feed.attach("bob", Cursor(4))) == []
    feed.entry(entry(8), 5)
    actions = feed.read_done(token(first), read(3, 4, 5), RUN, 2)
    assert joined(actions) == {"ann": [4, 5, 8], "bob": [5, 8]}
    assert joined(feed.attach("cat", Cursor(4))) == {"cat": [5, 8]}, "the ring has become deeper"


def test_whole_log_is_read_if_its_end_does_not_reach_the_cursor() -> None:
    feed = flowing(9)
    actions = feed.read_done(token(feed.attach("ann", Cursor(3))), read(7, 9, is_whole=False), RUN, 2)
    assert asked(actions) == [None]
    assert joined(feed.read_done(token(actions), read(3, 7, 9), RUN, 2)) == {"ann": [7, 9]}


def test_volatile_messages_keep_their_place_in_a_repair() -> None:
    feed = flowing(5)
    assert delivered(feed.volatile("before", 10)) == ["before"]
    actions = feed.entry(entry(9), 7)
    assert asked(actions) == [TAIL]
    assert feed.volatile("between", 10) == ()
    assert feed.entry(entry(11), 9) == ()
    answer = feed.read_done(token(actions), read(5, 7, 9, 11), RUN, 2)
    assert delivered(answer) == [7, 9, "between", 11]
    assert delivered(feed.volatile("after", 10)) == ["after"]


def test_volatile_messages_wait_for_the_first_member() -> None:
    feed: Feed[str] = Feed()
    feed.attach("ann", Cursor(5))
    actions = feed.subscribed(RUN)
    feed.entry(entry(7), 5)
    feed.volatile("typing", 10)
    feed.entry(entry(9), 7)
    answer = feed.read_done(token(actions), read(5, 7, 9), RUN, 2)
    assert joined(answer) == {"ann": []}
    assert delivered(answer) == [7, "typing", 9]


def test_volatile_messages_flow_while_the_bus_is_away() -> None:
    feed = flowing(5)
    feed.entry(entry(9), 7)
    feed.volatile("queued", 10)
    assert delivered(feed.interrupted()) == ["queued"]
    assert delivered(feed.volatile("here", 10)) == ["here"]


def test_released_volatile_messages_do_not_wait_for_entries() -> None:
    feed = flowing(5, queue_bytes=250)
    actions = feed.entry(entry(9), 7)
    feed.volatile("first", 100)
    feed.volatile("second", 10)
    assert delivered(feed.released()) == ["first", "second"]
    assert feed.released() == []
    assert feed.volatile("in the place of the released ones", 140) == ()
    answer = feed.read_done(token(actions), read(5, 7, 9), RUN, 2)
    assert delivered(answer) == [7, 9, "in the place of the released ones"]


def test_full_queue_is_dropped_and_read_again() -> None:
    feed = flowing(5, queue_bytes=150)
    first = feed.entry(entry(9), 7)
    assert feed.entry(entry(11), 9) == ()
    second = feed.entry(entry(13), 11)
    assert feed.dropped == 3
    assert feed.read_done(token(first), read(5, 7, 9), RUN, 2) == (), "it may be older than what was dropped"
    assert delivered(feed.read_done(token(second), read(5, 7, 9, 11, 13), RUN, 2)) == [7, 9, 11, 13]


def test_ring_is_bounded() -> None:
    feed = flowing(*range(1, 100), ring_bytes=600)
    assert joined(feed.attach("ann", Cursor(89))) == {"ann": list(range(90, 100))}
    assert asked(feed.attach("bob", Cursor(88))) == [TAIL]


def test_ring_keeps_what_arrives_while_members_wait() -> None:
    feed = flowing(*range(1, 20), ring_bytes=60)
    actions = feed.attach("ann", Cursor(3))
    for number in range(20, 40):
        feed.entry(entry(number), number - 1)
    answer = feed.read_done(token(actions), read(*range(1, 20)), RUN, 2)
    assert joined(answer) == {"ann": list(range(4, 40))}
    assert asked(feed.attach("bob", Cursor(30))) == [TAIL], "nobody waits any more"


def test_failed_read_is_repeated_on_request_only() -> None:
    feed = flowing(5)
    feed.read_failed(token(feed.entry(entry(9), 7)))
    assert feed.entry(entry(11), 9) == ()
    assert asked(feed.retry()) == [TAIL]
    assert feed.retry() == ()


def test_answer_of_another_server_waits_for_a_retry() -> None:
    feed = flowing(5)
    assert feed.read_done(token(feed.entry(entry(9), 7)), read(5, 7, 9), "other", 2) == ()
    assert delivered(feed.read_done(token(feed.retry()), read(5, 7, 9), RUN, 2)) == [7, 9]


def test_new_server_is_told_what_was_heard() -> None:
    feed = flowing(5, 7)
    feed.interrupted()
    (asked_for,) = feed.subscribed("new")
    assert isinstance(asked_for, Read)
    assert asked_for.heard is not None
    assert (asked_for.heard.last, asked_for.heard.previous) == (7, 5)
    assert [e.id for e in asked_for.heard.tail] == [7]


def test_members_of_a_quiet_log_are_told_of_no_loss_that_their_node_has_not_had() -> None:
    """The newest entry is older than the content, but the node has heard the log until later."""
    content_began_us, heard_until_us = 10, 20
    emptied = LogRead((), True, None, 0, content_began_us, 30, RUN)
    for whole_us, actions in ((heard_until_us, ()), (content_began_us, (Lost(0, "reset"),))):
        feed = flowing(5)
        feed.interrupted()
        assert tuple(feed.read_done(token(feed.subscribed(RUN)), emptied, RUN, whole_us)) == actions


def test_position_older_than_the_content_is_lost_whatever_time_its_client_names() -> None:
    feed = flowing(5)
    emptied = LogRead((), True, None, 0, 10, 30, RUN)
    answer = feed.read_done(token(feed.attach("ann", Cursor(3, 20))), emptied, RUN, 20)
    assert answer == [Joined("ann", (), 5, "reset")]


def test_loss_is_announced_with_the_position_to_go_on_from() -> None:
    feed = flowing(5)
    actions = feed.read_done(token(feed.entry(entry(9), 8)), read(8, 9, meta=LogMeta(9, base=7)), RUN, 2)
    assert actions == [Lost(9, "trimmed")]
    assert delivered(feed.entry(entry(11), 9)) == [11]


def test_slow_member_continues_where_it_was() -> None:
    feed = flowing(5, 7)
    feed.lag("first", Cursor(5))
    assert not feed.is_idle
    feed.entry(entry(9), 7)
    assert joined(feed.drained("first")) == {"first": [7, 9]}
    assert feed.drained("first") == ()


def test_member_that_leaves_ends_no_read() -> None:
    feed = flowing(5)
    actions = feed.attach("ann", Cursor(3))
    feed.attach("bob", Cursor(4))
    feed.detach("ann")
    assert joined(feed.read_done(token(actions), read(3, 4, 5), RUN, 2)) == {"bob": [5]}


def test_everything_ends_with_the_subscription() -> None:
    feed = flowing(5, 7)
    feed.unsubscribed()
    assert feed.last is None
    assert feed.entry(entry(9), 7) == ()
    assert asked(feed.attach("ann", Cursor(5))) == []
    assert asked(feed.subscribed(RUN)) == [TAIL]
