"""The members of a watched room, on one node."""

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fastapi_websocket_stabilizer.registry.roster import MAX_CHANGES, Change, Diff, Roster

NAMES = st.sampled_from("abcd")


class Store:
    """The members in the store, with all their versions."""

    def __init__(self) -> None:
        self.version, self.members = 100, dict[str, Any]()
        self.history: dict[int, dict[str, Any]] = {100: {}}

    def change(self, name: str, metadata: Any) -> Change:
        self.version += 1
        if metadata is None:
            self.members.pop(name, None)
        else:
            self.members[name] = metadata
        self.history[self.version] = dict(self.members)
        return Change(self.version, name, metadata)


class Client:
    """A watcher, which follows docs/protocol.md."""

    def __init__(self) -> None:
        self.version, self.members = 0, dict[str, Any]()

    def take(self, diff: Diff | None, roster: Roster) -> None:
        if diff is None:
            self.version, self.members = roster.version, dict(roster.members)
        elif diff.after == self.version:
            for name in diff.departed:
                self.members.pop(name, None)
            self.members.update(diff.arrived)
            self.version = diff.version


class World:
    """A store, a bus that loses and repeats, one node, and two clients: one stays, the other comes back at times."""

    def __init__(self) -> None:
        self.store, self.roster = Store(), Roster()
        self.watcher, self.away = Client(), Client()
        self._on_bus: list[Change] = []
        self._last: Change | None = None
        self._read: tuple[int, dict[str, Any]] | None = None

    def change(self, name: str, metadata: Any) -> None:
        if metadata is not None or name in self.store.members:
            self._on_bus.append(self.store.change(name, metadata))

    def deliver(self) -> None:
        if self._on_bus:
            self._last = self._on_bus.pop(0)
            self.roster.change(self._last)

    def repeat(self) -> None:
        if self._last is not None:
            self.roster.change(self._last)

    def drop(self) -> None:
        self._on_bus = self._on_bus[1:]

    def gap(self) -> None:
        self.roster.lose()
        self._read = None

    def send_read(self) -> None:
        if not self.roster.is_known and self._read is None:
            self._read = self.store.version, dict(self.store.members)

    def answer(self) -> None:
        if self._read is not None and self.roster.load(*self._read):
            self.watcher.take(None, self.roster)
        self._read = None

    def tell(self) -> None:
        if self.roster.is_due:
            self.watcher.take(self.roster.tell(), self.roster)

    def come_back(self) -> None:
        if self.roster.is_known:
            self.tell()
            self.away.take(self.roster.since(self.away.version), self.roster)

    def check(self) -> None:
        if self.roster.is_known:
            assert self.roster.members == self.store.history[self.roster.version]
        for client in (self.watcher, self.away):
            assert not client.version or client.members == self.store.history[client.version]


EVENTS = ("deliver", "repeat", "drop", "gap", "send_read", "answer", "tell", "come_back")
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("change"), NAMES, st.sampled_from([None, 1, 2])),
        st.sampled_from(EVENTS).map(lambda event: (event,)),
    ),
    max_size=80,
)


@given(STEPS)
@example([("send_read",), ("change", "a", 1), ("deliver",), ("change", "a", None), ("answer",)])
def test_watchers_have_the_members_of_their_version_in_any_order_of_events(steps: list[Any]) -> None:
    world = World()
    for event, *arguments in steps:
        getattr(world, event)(*arguments)
        world.check()
    for event in (
        "gap",
        "send_read",
        "answer",
        "tell",
        "come_back",
    ):  # the end, when nothing is lost any more
        getattr(world, event)()
    for client in (world.watcher, world.away):
        assert (client.version, client.members) == (world.store.version, world.store.members)


def known(version: int = 10, **members: Any) -> Roster:
    roster = Roster()
    assert roster.load(version, members)
    return roster


def test_changes_of_one_client_between_two_frames_are_one() -> None:
    roster = known(a=1)
    for number, (name, metadata) in enumerate([("b", 1), ("a", None), ("b", 2), ("c", 1), ("c", None)]):
        assert roster.change(Change(11 + number, name, metadata))
    assert roster.is_due
    assert roster.tell() == Diff(10, 15, {"b": 2}, ["a", "c"])
    assert not roster.is_due


def test_change_that_does_not_follow_needs_a_read() -> None:
    roster = known(a=1)
    assert not roster.change(Change(12, "c", 1))
    assert not roster.is_due
    assert not roster.load(11, {"a": 1, "b": 1})
    assert roster.tell() == Diff(10, 12, {"b": 1, "c": 1}, [])


def test_changes_during_a_read_are_applied_behind_it() -> None:
    roster = Roster()
    for version in (9, 10, 11):
        assert not roster.change(Change(version, f"c{version}", 1))
    assert roster.load(10, {"c9": 1, "c10": 1})
    assert (roster.version, sorted(roster.members)) == (11, ["c10", "c11", "c9"])


def test_store_that_went_back_is_told_as_a_whole() -> None:
    roster = known(version=20, a=1, b=1)
    roster.lose()
    assert roster.load(18, {"a": 1})
    assert (roster.told, roster.since(19)) == (18, None)


def test_store_with_other_members_of_the_same_version_is_told_as_a_whole() -> None:
    roster = known(version=20, a=1)
    roster.lose()
    assert roster.load(20, {"b": 1})
    assert not roster.is_due


@pytest.mark.parametrize(("version", "is_remembered"), [(9, False), (10, True), (11, True), (12, False)])
def test_client_that_comes_back_gets_the_changes_that_are_remembered(
    version: int, is_remembered: bool
) -> None:
    roster = known(a=1)
    roster.change(Change(11, "b", 1))
    assert (roster.since(version) is not None) == is_remembered


def test_number_of_remembered_changes_is_bounded() -> None:
    roster = known()
    for number in range(2 * MAX_CHANGES):
        roster.change(Change(11 + number, f"c{number % 7}", number))
    assert roster.since(10) is None
    assert roster.since(roster.version - MAX_CHANGES) is not None
    assert roster.tell() is None  # more than is remembered, so all members
    assert not roster.is_due
