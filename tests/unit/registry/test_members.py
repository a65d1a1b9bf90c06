"""Members of logs: when they are let in, and what clients that come back are sent."""

from types import SimpleNamespace
from typing import Any, Literal

import pytest

from fastapi_websocket_stabilizer.backends.log_ports import LogEntry
from fastapi_websocket_stabilizer.local.batches import DirectMessages
from fastapi_websocket_stabilizer.names import NodeId
from fastapi_websocket_stabilizer.registry import members
from fastapi_websocket_stabilizer.registry.feed import Joined
from fastapi_websocket_stabilizer.registry.members import Members
from fastapi_websocket_stabilizer.registry.registration import Registration, Succession
from fastapi_websocket_stabilizer.runtime.metrics import Counters
from fastapi_websocket_stabilizer.wire.channels import Channel
from fastapi_websocket_stabilizer.wire.client_frames import EVERYBODY, MAILBOX
from fastapi_websocket_stabilizer.wire.envelopes import Envelope, Kind
from fastapi_websocket_stabilizer.wire.messages import Form, Series

SIZE = 10
Log = str | Literal[0, 1]


class World:
    """The members of a node, whose logs have entries with these ids."""

    def __init__(self) -> None:
        self.counters = Counters()
        state: Any = SimpleNamespace(counters=self.counters)
        self.members = Members(state)

    def replay(self, client_id: str, log: Log, *entries: LogEntry) -> Series:
        return self.replay_of(client_id, *((log, entry) for entry in entries))

    def replay_of(self, client_id: str, *missed: tuple[Log, LogEntry]) -> Series:
        connection: Any = SimpleNamespace(client_id=client_id, connection_id=f"n.{client_id}")
        return self.members.replay(connection, (), missed)


class Member:
    def __init__(self, session: Any, registration: Registration) -> None:
        self.session, self.registration = session, registration


@pytest.mark.parametrize(
    ("is_idle", "has_begun", "is_let_in"),
    [(True, False, True), (False, False, False), (True, True, False)],
)
async def test_member_is_let_in_at_once_if_nothing_is_before_it_and_nothing_is_sent(
    is_idle: bool, has_begun: bool, is_let_in: bool
) -> None:
    submitted: list[DirectMessages] = []
    fan_out = SimpleNamespace(is_idle=is_idle, submit=submitted.append)
    state: Any = SimpleNamespace(fan_out=fan_out, shards=SimpleNamespace(release=lambda *_: None))
    fed: list[Log] = []
    following = SimpleNamespace(fed=lambda log, *_, **__: fed.append(log))
    record, room = Succession("s1"), Channel("room", "lobby")
    record.has_begun = has_begun
    connection: Any = Member(SimpleNamespace(following=following), Registration(0, record))
    waiting = Members(state)
    is_fed = waiting.wait(connection, room, 0, "")
    waiting.joined(room, Joined(connection, (), 7))
    assert (is_fed.done(), fed == ["lobby"], submitted == []) == (is_let_in, is_let_in, is_let_in)
    for work in submitted:
        assert work.done is not None
        work.done(work.outcome)
    assert (await is_fed, fed) == (7, ["lobby"])


def entry(id_: int, *exclude: str, text: str = "") -> LogEntry:
    envelope = Envelope(
        NodeId("n"), id_, 0, Kind.BROADCAST, exclude=exclude, form=Form.TEXT, body=text or f"{id_}"
    )
    return LogEntry(id_, envelope, SIZE)


def payloads(series: Series) -> list[Any]:
    return [message.payload for message in series.messages]


@pytest.mark.parametrize("log", ["lobby", EVERYBODY])
def test_clients_that_have_missed_the_same_are_given_the_same(log: Log) -> None:
    world, missed = World(), [entry(1), entry(2), entry(3)]
    first = world.replay("ann", log, *missed)
    assert payloads(first) == ["1", "2", "3"]
    assert world.replay("bob", log, *missed) is first
    assert (world.counters.history_replayed, world.counters.history_replayed_bytes) == (6, 6 * SIZE)
    assert payloads(world.replay("cid", log, *missed[1:])) == ["2", "3"]
    assert payloads(world.replay("dan", log, *missed, entry(4))) == ["1", "2", "3", "4"]


def test_client_is_not_given_what_excludes_it() -> None:
    world, missed = World(), [entry(1), entry(2, "bob"), entry(3)]
    assert payloads(world.replay("ann", "lobby", *missed)) == ["1", "2", "3"]
    assert payloads(world.replay("bob", "lobby", *missed)) == ["1", "3"]
    assert world.counters.history_replayed == 5


def test_entries_that_were_read_anew_are_not_taken_for_the_former_ones() -> None:
    world, kept = World(), entry(1)
    first = world.replay("ann", "lobby", kept, entry(2))
    assert world.replay("bob", "lobby", kept, entry(2)) is not first


def test_logs_in_between_are_not_left_out() -> None:
    world, first, last = World(), entry(1), entry(3)
    world.replay("ann", "lobby", first, last)
    missed = [("lobby", first), ("other", entry(2)), ("lobby", last)]
    assert payloads(world.replay_of("bob", *missed)) == ["1", "2", "3"]
    assert payloads(world.replay("cid", "lobby", first, last)) == ["1", "3"]


def test_replay_of_a_mailbox_is_not_kept_for_other_clients() -> None:
    world, missed = World(), entry(1)
    assert world.replay("ann", MAILBOX, missed) is not world.replay("ann", MAILBOX, missed)


def test_kept_replays_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(members, "REPLAYS", 2)
    world, entries = World(), [entry(number) for number in range(1, 5)]
    firsts = [world.replay("ann", "lobby", each) for each in entries]
    assert world.replay("bob", "lobby", entries[3]) is firsts[3]
    assert world.replay("bob", "lobby", entries[2]) is firsts[2]
    assert world.replay("bob", "lobby", entries[0]) is not firsts[0]
    large = entry(9, text="x" * (members.REPLAY_BYTES + 1))
    assert world.replay("ann", "lobby", large) is not world.replay("bob", "lobby", large)
