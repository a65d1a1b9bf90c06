"""Sequences: every duplicate is seen, no loss is invented."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastapi_websocket_stabilizer.wire import sequences
from fastapi_websocket_stabilizer.wire.channels import ALL, INBOX, Channel
from fastapi_websocket_stabilizer.wire.sequences import Arrival, Sequencer, SequenceTracker

ROOM = Channel("room", "x")
NEXT, DUPLICATE, LOST, LATE = Arrival(), Arrival(duplicate=True), Arrival(lost=True), Arrival(late=True)


def of_channels() -> SequenceTracker:
    """Return one that knows what each channel remembers, and no order of all."""
    tracker = SequenceTracker()
    tracker.is_ordered = False
    return tracker


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from([ALL, ROOM, INBOX])), max_size=40))
def test_everything_that_arrives_in_order_is_next(sent: list[tuple[str, Channel]]) -> None:
    tracker, senders = SequenceTracker(), {"a": Sequencer(), "b": Sequencer()}
    arrivals = [tracker.observe(channel, sender, *senders[sender].next(channel)) for sender, channel in sent]
    assert arrivals == [NEXT] * len(sent)


@given(st.lists(st.sampled_from(["sent", "lost", "twice"]), max_size=40))
def test_loss_and_repetition_are_told_exactly(fates: list[str]) -> None:
    tracker, sender = SequenceTracker(), Sequencer()
    is_known = was_lost = False
    for fate in fates:
        numbers = sender.next(ALL)
        if fate == "lost":
            was_lost = True
            continue
        assert tracker.observe(ALL, "a", *numbers) == (LOST if is_known and was_lost else NEXT)
        is_known, was_lost = True, False
        if fate == "twice":
            assert tracker.observe(ALL, "a", *numbers) == DUPLICATE


def test_sequence_grows_over_all_channels_and_previous_is_of_one() -> None:
    sender = Sequencer()
    numbers = [sender.next(channel) for channel in (ALL, ROOM, ALL, ROOM)]
    assert numbers == [(1, 0), (2, 0), (3, 1), (4, 2)]


def test_first_envelope_of_a_sender_is_no_loss() -> None:
    assert SequenceTracker().observe(ALL, "a", 100, 99) == NEXT


def test_unknown_previous_is_no_loss() -> None:
    tracker = SequenceTracker()
    tracker.observe(ALL, "a", 1, 0)
    assert tracker.observe(ALL, "a", 9, 0) == NEXT


def test_late_envelope_counts_as_a_duplicate_and_moves_nothing_back() -> None:
    tracker = SequenceTracker()
    arrivals = [tracker.observe(ALL, "a", *numbers) for numbers in ((1, 0), (3, 2), (2, 1), (3, 2), (4, 3))]
    assert arrivals == [NEXT, LOST, DUPLICATE, DUPLICATE, NEXT]


def test_copy_with_a_higher_number_silences_nobody() -> None:
    tracker = SequenceTracker()
    arrivals = [
        tracker.observe(ALL, "a", *numbers) for numbers in ((5, 0), (9, 5), (127, 5), (12, 9), (12, 9))
    ]
    assert arrivals == [NEXT, NEXT, DUPLICATE, NEXT, DUPLICATE]


def test_senders_and_channels_are_kept_apart() -> None:
    tracker = SequenceTracker()
    tracker.observe(ALL, "a", 5, 0)
    assert [tracker.observe(ALL, "b", 5, 4), tracker.observe(INBOX, "a", 6, 4)] == [NEXT, NEXT]


@pytest.mark.parametrize(("is_ordered", "arrival"), [(True, LATE), (False, NEXT)])
def test_what_was_overtaken_on_another_channel_is_late_where_they_have_one_order(
    is_ordered: bool, arrival: Arrival
) -> None:
    tracker = SequenceTracker()
    tracker.is_ordered = is_ordered
    tracker.observe(ALL, "a", 5, 0)
    tracker.forget()
    assert tracker.observe(ROOM, "a", 4, 0) == arrival
    assert tracker.observe(ROOM, "a", 4, 0) == DUPLICATE
    assert tracker.observe(INBOX, "a", 6, 0) == NEXT


@pytest.mark.parametrize("forgotten", [ALL, None])
def test_gap_on_a_channel_that_was_left_is_no_loss(forgotten: Channel | None) -> None:
    tracker = SequenceTracker()
    tracker.observe(ALL, "a", 1, 0)
    tracker.forget(forgotten)
    assert tracker.observe(ALL, "a", 9, 8) == NEXT


def test_what_is_missing_in_a_gap_is_not_lost() -> None:
    tracker = of_channels()
    tracker.observe(ALL, "a", 1, 0)
    tracker.gap()
    assert [tracker.observe(ALL, "a", *numbers) for numbers in ((9, 8), (11, 10))] == [NEXT, LOST]


def test_copy_that_arrives_after_a_gap_is_a_duplicate_and_no_loss() -> None:
    tracker = of_channels()
    for sequence in range(1, 6):
        tracker.observe(ALL, "a", sequence, sequence - 1)
    tracker.gap()
    tracker.gap()
    copies = [tracker.observe(ALL, "a", sequence, sequence - 1) for sequence in range(3, 6)]
    assert copies == [DUPLICATE] * 3
    assert tracker.observe(ALL, "a", 9, 8) == NEXT


def test_a_gap_keeps_no_more_senders_than_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sequences, "MAX_SENDERS", 2)
    tracker = of_channels()
    for sender in "abc":
        tracker.observe(ALL, sender, 1, 0)
        tracker.gap()
    assert [tracker.observe(ALL, sender, 1, 0) for sender in "bca"] == [DUPLICATE, DUPLICATE, NEXT]


def test_leaving_one_channel_forgets_no_other() -> None:
    tracker = SequenceTracker()
    tracker.observe(ALL, "a", 1, 0)
    tracker.forget(ROOM)
    assert tracker.observe(ALL, "a", 1, 0) == DUPLICATE


def test_sender_that_was_silent_longest_is_forgotten_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sequences, "MAX_SENDERS", 2)
    tracker = of_channels()
    for sender, sequence in (("a", 1), ("b", 1), ("a", 2), ("c", 1)):
        tracker.observe(ALL, sender, sequence, 0)
    assert [tracker.observe(ALL, sender, 1, 0) for sender in "acb"] == [DUPLICATE, DUPLICATE, NEXT]


def test_channel_that_was_unused_longest_is_forgotten_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sequences, "MAX_CHANNELS", 2)
    sender = Sequencer()
    previous = [sender.next(Channel("room", name))[1] for name in ("x", "y", "x", "z", "x", "y")]
    assert previous == [0, 0, 1, 0, 3, 0]
