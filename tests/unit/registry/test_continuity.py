"""A client that comes back has missed exactly what it gets, or is told that it has lost something."""

import asyncio
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastapi_websocket_stabilizer.backends.log_ports import (
    META_LASTS_S,
    Append,
    LogBounds,
    LogEntry,
    LogKind,
    LogMeta,
    LogName,
    LogRead,
)
from fastapi_websocket_stabilizer.backends.memory_logs import MemoryLogContent, MemoryLogs
from fastapi_websocket_stabilizer.names import NodeId
from fastapi_websocket_stabilizer.registry.continuity import QUIET_US, Code, Continued, Lost, Unread, resumed
from fastapi_websocket_stabilizer.wire.envelopes import Envelope, Kind

S = 1_000_000
NOW = 10_000 * S
LOG = LogName(LogKind.ROOM, "lobby")


def entry(number: int, body: str = "") -> LogEntry:
    return LogEntry(number, Envelope(NodeId("n"), 1, 0, Kind.BROADCAST, ("lobby",), body=body), 60)


def read(
    *ids: int, meta: LogMeta | None = None, since_us: int | None = 0, is_whole: bool = True, now_us: int = NOW
) -> LogRead:
    last = ids[-1] if ids else meta.base if meta else 0
    return LogRead(tuple(map(entry, ids)), is_whole, meta, last, since_us, now_us, "")


def missed(*ids: int) -> Continued:
    return Continued(tuple(map(entry, ids)))


RECENT = NOW - 10 * S


def test_cursor_that_is_an_entry_gets_those_behind_it() -> None:
    found = read(5, 7, 9, meta=LogMeta(9, base=3))
    assert [resumed(cursor, 0, found) for cursor in (5, 7, 9)] == [missed(7, 9), missed(9), missed()]


def test_cursor_that_is_the_newest_dropped_entry_gets_all() -> None:
    assert resumed(3, 0, read(5, 7, meta=LogMeta(7, base=3))) == missed(5, 7)


def test_cursor_that_is_the_newest_entry_of_an_expired_list_has_missed_nothing() -> None:
    assert resumed(7, 0, read(meta=LogMeta(7, base=7))) == missed()


def test_cursor_that_is_the_hole_gets_what_came_after_it() -> None:
    assert resumed(6, 0, read(5, 8, meta=LogMeta(8, hole=6))) == missed(8)


def test_cursor_that_is_the_end_of_a_deleted_log_gets_what_came_after_it() -> None:
    assert resumed(6, 0, read(8, meta=LogMeta(8, base=6, reset=6))) == missed(8)


@pytest.mark.parametrize("meta", [LogMeta(9, base=8, hole=6), LogMeta(9, base=8, reset=6)])
def test_hole_tells_nothing_once_entries_behind_it_were_dropped(meta: LogMeta) -> None:
    assert resumed(6, RECENT, read(9, meta=meta)) == Lost("trimmed")


def test_known_cursor_wins_over_content_that_is_newer_than_it() -> None:
    assert resumed(5, RECENT, read(5, 7, meta=LogMeta(7), since_us=NOW)) == missed(7)


def test_entry_that_was_dropped_while_the_log_was_read_is_known() -> None:
    assert resumed(5, 0, read(5, 7, meta=LogMeta(9, base=7))) == missed(7)
    assert resumed(7, 0, read(5, 7, meta=LogMeta(9, base=7))) == missed()


def test_cursor_before_a_hole_has_lost_though_it_is_an_entry() -> None:
    assert resumed(5, RECENT, read(5, 8, meta=LogMeta(8, hole=6))) == Lost("hole")


def test_cursor_before_the_end_of_a_deleted_log_has_lost() -> None:
    assert resumed(5, RECENT, read(8, meta=LogMeta(8, base=6, reset=6))) == Lost("reset")


def test_log_without_meta_has_had_nothing_since_a_recent_time() -> None:
    assert resumed(5, RECENT, read()) == missed()
    assert resumed(0, RECENT, read()) == missed()


@pytest.mark.parametrize("ahead_us", [0, 1])
def test_log_without_meta_continues_no_cursor_that_is_ahead_of_the_clock(ahead_us: int) -> None:
    """Redis' clock was stepped back, or a promoted server has a slow one: the next entry will have a lower id."""
    expected = Lost("unknown") if ahead_us else missed()
    assert resumed(NOW + ahead_us, NOW + ahead_us, read()) == expected


def test_log_that_began_after_the_cursor_is_missed_as_a_whole() -> None:
    assert resumed(0, RECENT, read(8, 9, meta=LogMeta(9))) == missed(8, 9)
    assert resumed(5, RECENT, read(8, 9, meta=LogMeta(9))) == missed(8, 9)


def test_unknown_cursor_behind_the_first_entry_has_lost() -> None:
    assert resumed(6, RECENT, read(5, 9, meta=LogMeta(9))) == Lost("unknown")
    assert resumed(10, RECENT, read(5, 9, meta=LogMeta(9))) == Lost("unknown")


def test_entry_older_than_the_content_is_a_reset_whatever_time_the_client_names() -> None:
    """The time is that of a connection, which may not have been in this log, or whose replay did not end."""
    began_us = 1_000
    found = read(1_500, meta=None, since_us=began_us)
    assert resumed(began_us - 1, RECENT, found) == Lost("reset")
    assert resumed(began_us, RECENT, found) == Lost("reset")
    assert resumed(began_us + 1, RECENT, found) == missed(1_500)
    assert resumed(0, RECENT, found) == missed(1_500)  # it has seen the log empty, by the time alone
    assert resumed(began_us - 1, RECENT, found, is_own_time=True) == missed(1_500)  # a node has heard the log


@pytest.mark.parametrize("since_us", [None, RECENT, NOW])
@pytest.mark.parametrize("ids", [(), (8,)])
def test_content_that_began_after_the_cursor_is_a_reset(since_us: int | None, ids: tuple[int, ...]) -> None:
    meta = LogMeta(8) if ids else None
    assert resumed(5, RECENT, read(*ids, meta=meta, since_us=since_us)) == Lost("reset")


def test_cursor_before_the_newest_dropped_entry_was_trimmed() -> None:
    assert resumed(2, RECENT, read(5, 7, meta=LogMeta(7, base=3))) == Lost("trimmed")
    assert resumed(0, RECENT, read(meta=LogMeta(7, base=7))) == Lost("trimmed")


@pytest.mark.parametrize(("ids", "meta"), [((), None), ((8,), LogMeta(8))])
def test_nothing_is_proven_where_keys_may_be_evicted(ids: tuple[int, ...], meta: LogMeta | None) -> None:
    assert resumed(5, RECENT, read(*ids, meta=meta), is_lasting=False) == Lost("unknown")


@pytest.mark.parametrize(("ids", "meta"), [((), None), ((8,), LogMeta(8))])
def test_nothing_is_proven_about_a_longer_absence_than_the_meta_lasts(
    ids: tuple[int, ...], meta: LogMeta | None
) -> None:
    found = read(*ids, meta=meta)
    assert isinstance(resumed(5, NOW - QUIET_US + 1, found), Continued)
    assert resumed(5, NOW - QUIET_US, found) == Lost("unknown")


def test_cursor_without_a_time_proves_nothing() -> None:
    assert resumed(0, 0, read()) == Lost("reset")


def test_cursor_older_than_the_part_that_was_read_needs_the_rest() -> None:
    part = read(7, 9, meta=LogMeta(9, base=3), is_whole=False)
    assert [resumed(cursor, RECENT, part) for cursor in (0, 2, 3, 6)] == [Unread()] * 4
    assert resumed(7, RECENT, part) == missed(9)
    assert resumed(8, RECENT, part) == Lost("unknown")


def test_loss_is_certain_from_a_part() -> None:
    part = read(7, 9, meta=LogMeta(9, base=3, hole=5, reset=4), is_whole=False)
    assert [resumed(cursor, RECENT, part) for cursor in (3, 4, 5)] == [Lost("reset"), Lost("hole"), Unread()]


@given(
    st.integers(0, 12),
    st.integers(0, NOW),
    st.lists(st.integers(1, 10), unique=True).map(sorted),
    st.none() | st.builds(LogMeta, *[st.integers(0, 10)] * 4),
    st.none() | st.integers(0, NOW),
    st.booleans(),
)
def test_every_outcome_is_a_run_of_the_entries_behind_the_cursor(
    cursor: int, t_us: int, ids: list[int], meta: LogMeta | None, since_us: int | None, is_whole: bool
) -> None:
    found = read(*ids, meta=meta, since_us=since_us, is_whole=is_whole or not ids)
    outcome = resumed(cursor, t_us, found)
    if isinstance(outcome, Continued):
        assert [each.id for each in outcome.entries] == [number for number in ids if number > cursor]
    if meta is not None and cursor < max(meta.hole, meta.reset):
        assert isinstance(outcome, Lost)


# A log in memory, with a clock that steps


@dataclass
class Client:
    """The position of a client that has seen everything until it left."""

    cursor: int
    t_us: int
    seen: int


class World:
    """One log, everything that was ever stored in it, and clients that leave and come back."""

    def __init__(self, bounds: LogBounds) -> None:
        self.now_us, self.bounds = 1_000 * S, bounds
        self.content = MemoryLogContent()
        self.logs = MemoryLogs(self.content, lambda: self.now_us, lambda *_: 0)
        self.history: list[int] = []
        self.clients: list[Client] = []

    async def begin(self) -> None:
        await self.logs.begin("")
        self.now_us += 1
        self.clients.append(Client(self.history[-1] if self.history else 0, self.now_us, len(self.history)))

    async def act(self, kind: str, number: int) -> None:
        match kind:
            case "append":
                for _ in range(number % 5 + 1):
                    await self.append()
            case "wait":
                self.now_us += (1, S, 30 * S, 150 * S, 1800 * S, 3500 * S, 3700 * S, 9000 * S)[number % 8]
            case "leave":
                seen = len(self.history)
                cursor = self.history[-1] if seen else 0
                self.clients.append(Client(cursor, self.now_us, seen))
            case "delete":
                await self.logs.delete(LOG, entry(1).envelope)
            case "empty":
                self.content.empty()
                await self.begin()

    async def append(self) -> None:
        self.now_us += 1
        body = entry(1, f"{len(self.history)}").envelope
        (answer,) = self.logs.append([Append(LOG, body, self.bounds)])
        self.history.append((await answer).entry)

    async def check(self, last: int | None) -> set[str]:
        """Resume every client; return the outcomes."""
        found, outcomes = await self.logs.read(LOG, last), set()
        for client in self.clients:
            outcome = resumed(client.cursor, client.t_us, found)
            if isinstance(outcome, Unread):
                outcome = resumed(client.cursor, client.t_us, await self.logs.read(LOG))
                assert not isinstance(outcome, Unread)
            if isinstance(outcome, Continued):
                assert [each.id for each in outcome.entries] == self.history[client.seen :]
            elif client.seen == len(self.history) and self.now_us - client.t_us < QUIET_US:
                assert self.was_emptied, "a quiet log is continued"
            outcomes.add(outcome.code if isinstance(outcome, Lost) else type(outcome).__name__)
        return outcomes

    was_emptied = False


STEPS = st.tuples(
    st.sampled_from(["append", "append", "wait", "leave", "leave", "delete", "empty"]), st.integers(0, 7)
)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(STEPS, max_size=25),
    st.sampled_from([LogBounds(4, 10_000, 120), LogBounds(100, 300, 10), LogBounds(100, 10_000, 3_000)]),
    st.none() | st.integers(1, 4),
)
def test_whoever_continues_has_missed_nothing(
    steps: list[tuple[str, int]], bounds: LogBounds, last: int | None
) -> None:
    async def live() -> None:
        world = World(bounds)
        await world.begin()
        for kind, number in steps:
            await world.act(kind, number)
            world.was_emptied |= kind == "empty"
            await world.check(last)

    asyncio.run(live())


@pytest.mark.parametrize(
    ("steps", "outcome"),
    [
        ("append leave append", "Continued"),
        ("leave append", "Continued"),
        ("append leave wait3 append leave wait3 append", "trimmed"),
        ("append leave append4 append4", "trimmed"),
        ("append leave append delete", "reset"),
        ("append leave empty", "reset"),
        ("append leave append wait6", "unknown"),
    ],
)
def test_world_of_this_test_has_each_outcome(steps: str, outcome: Code) -> None:
    async def live() -> set[str]:
        world = World(LogBounds(4, 10_000, 120))
        await world.begin()
        for step in steps.split():
            kind = step.rstrip("0123456789")
            await world.act(kind, int(step[len(kind) :] or 0))
        world.was_emptied = True
        return await world.check(None)

    assert outcome in asyncio.run(live())


def test_meta_lasts_longer_than_what_it_proves() -> None:
    assert META_LASTS_S * S - QUIET_US >= 60 * S
