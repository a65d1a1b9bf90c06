"""The outbox against a model: bounded, in order, whole messages, every loss counted."""

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastapi_websocket_stabilizer.local.outbox import BEHIND_BYTES, Outbox, Policy, Put, is_behind
from fastapi_websocket_stabilizer.wire.messages import Encoded
from tests.unit.fakes import text

POLICIES: list[Policy] = ["close", "drop_oldest", "drop_newest"]
LIMIT = 10


def message(size: int) -> Encoded:
    return text("x" * size)


def fill(outbox: Outbox, sizes: Iterable[int]) -> list[Put]:
    return [outbox.put(message(size)) for size in sizes]


def empty(outbox: Outbox) -> list[int]:
    return [outbox.pop().size for _ in range(len(outbox))]


class Model:
    """What the docstrings promise, without a thought for speed."""

    def __init__(self, policy: Policy) -> None:
        self.policy, self.queue, self.dropped = policy, list[Encoded](), 0

    @property
    def size(self) -> int:
        return sum(each.size for each in self.queue)

    def is_full_for(self, new: Encoded) -> bool:
        return bool(self.queue) and self.size + new.size > LIMIT

    def put(self, new: Encoded) -> Put:
        if self.is_full_for(new) and self.policy == "close":
            return Put.OVERFLOW
        if self.is_full_for(new) and self.policy == "drop_newest":
            self.dropped += 1
            return Put.REFUSED
        while self.is_full_for(new):
            self.queue.pop(0)
            self.dropped += 1
        self.queue.append(new)
        return Put.TAKEN


@pytest.mark.parametrize("policy", POLICIES)
@given(steps=st.lists(st.none() | st.just(-1) | st.integers(0, LIMIT + 3), max_size=40))
def test_outbox_does_what_the_model_does(policy: Policy, steps: list[int | None]) -> None:
    """A number is the size of a message to put, None takes one out, -1 clears."""
    outbox, model = Outbox(LIMIT, policy), Model(policy)
    for step in steps:
        if step is None:
            assert not model.queue or outbox.pop() is model.queue.pop(0)
        elif step < 0:
            outbox.clear()
            model.queue.clear()
        else:
            new = message(step)
            assert outbox.put(new) is model.put(new)
        assert (len(outbox), outbox.queued_bytes) == (len(model.queue), model.size)
        assert outbox.dropped == model.dropped
        assert outbox.queued_bytes <= LIMIT or len(outbox) == 1
    assert [outbox.pop() for _ in range(len(outbox))] == model.queue


@pytest.mark.parametrize("policy", POLICIES)
def test_empty_outbox_takes_any_one_message(policy: Policy) -> None:
    outbox = Outbox(LIMIT, policy)
    assert fill(outbox, [LIMIT * 5]) == [Put.TAKEN]
    assert outbox.queued_bytes == LIMIT * 5


def test_close_overflows_and_keeps_what_was_queued() -> None:
    outbox = Outbox(LIMIT, "close")
    assert fill(outbox, [6, 5, 4]) == [Put.TAKEN, Put.OVERFLOW, Put.TAKEN]
    assert (outbox.dropped, empty(outbox)) == (0, [6, 4])


def test_drop_newest_refuses_the_message_that_does_not_fit() -> None:
    outbox = Outbox(LIMIT, "drop_newest")
    assert fill(outbox, [6, 5, 4]) == [Put.TAKEN, Put.REFUSED, Put.TAKEN]
    assert (outbox.dropped, empty(outbox)) == (1, [6, 4])


def test_drop_oldest_drops_as_many_as_it_takes() -> None:
    outbox = Outbox(LIMIT, "drop_oldest")
    assert set(fill(outbox, [3, 3, 3, 7])) == {Put.TAKEN}
    assert (outbox.dropped, empty(outbox)) == (2, [3, 7])


def test_drop_oldest_gives_everything_for_a_message_over_the_limit() -> None:
    outbox = Outbox(LIMIT, "drop_oldest")
    fill(outbox, [3, 3, LIMIT + 1])
    assert (outbox.dropped, empty(outbox)) == (2, [LIMIT + 1])


@pytest.mark.parametrize(("limit", "behind"), [(100, 50), (1 << 20, BEHIND_BYTES)])
def test_stored_messages_are_accepted_until_the_outbox_is_behind(limit: int, behind: int) -> None:
    outbox = Outbox(limit, "close")
    assert outbox.put(text("x" * behind)) is Put.TAKEN
    assert not is_behind(outbox.queued_bytes, limit)
    assert outbox.put(text("x" * limit)) is Put.OVERFLOW
    assert outbox.put(text("x" * limit), is_stored=True) is Put.TAKEN
    assert is_behind(outbox.queued_bytes, limit)
    assert outbox.put(text("x"), is_stored=True) is Put.OVERFLOW
    assert outbox.queued_bytes == behind + limit
