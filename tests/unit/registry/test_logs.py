"""The position before the newest entries of a log, for a member that is new to it."""

import asyncio
import logging
from typing import Any, cast

import pytest

from fastapi_websocket_stabilizer.backends.log_ports import (
    LogBounds,
    LogEntry,
    LogMeta,
    LogName,
    LogRead,
    LogStore,
)
from fastapi_websocket_stabilizer.exceptions import BackendUnavailableError
from fastapi_websocket_stabilizer.names import NodeId
from fastapi_websocket_stabilizer.registry.feed import Cursor
from fastapi_websocket_stabilizer.registry.logs import LOGS_PER_TURN, Log, begin_in_turns
from fastapi_websocket_stabilizer.registry.starts import before_last
from fastapi_websocket_stabilizer.runtime.tasks import Tasks
from fastapi_websocket_stabilizer.wire.channels import Channel, box_of
from fastapi_websocket_stabilizer.wire.envelopes import Envelope, Kind

AT_US = 1_000


class Store:
    """A log with these ids. ``meta`` is None for a log that is unknown."""

    def __init__(self, *ids: int, meta: LogMeta | None = None) -> None:
        self.ids, self.meta = ids, meta
        self.is_away = False
        self.unreadable = 0

    async def read(self, log: LogName, last: int | None) -> LogRead:
        if self.is_away:
            raise BackendUnavailableError("away")
        ids = [id_ for id_ in self.ids[-(last or 1) :] if id_ > self.unreadable]
        entries = [LogEntry(id_, Envelope(NodeId("n"), 1, 0, Kind.BROADCAST), 60) for id_ in ids]
        is_whole = tuple(ids) == self.ids
        return LogRead(tuple(entries), is_whole, self.meta, self.ids[-1] if self.ids else 0, 1, AT_US, "run")


async def position(store: Any, count: int) -> Cursor | None:
    log = Log(Channel("room", "lobby"), LogBounds(10, 1_000, 60), is_lasting=True)
    return await before_last(log, cast("LogStore", store), count)


@pytest.mark.parametrize(
    ("store", "expected"),
    [
        (Store(5, 7, 9, 11, meta=LogMeta(11)), Cursor(7)),
        (Store(5, 7, 9, meta=LogMeta(9)), Cursor(5)),
        (Store(7, 9, meta=LogMeta(9, base=5)), Cursor(5, AT_US)),
        (Store(9, meta=LogMeta(9)), Cursor(0, AT_US)),
        (Store(), Cursor(0, AT_US)),
    ],
)
async def test_position_is_that_before_two_entries(store: Store, expected: Cursor) -> None:
    assert await position(store, 2) == expected


async def test_new_member_begins_behind_the_last_loss() -> None:
    """A cursor from before it would be told of a loss that is none for a new member."""
    assert await position(Store(5, 9, meta=LogMeta(9, hole=7)), 2) == Cursor(7, AT_US)
    assert await position(Store(9, meta=LogMeta(9, reset=7)), 2) == Cursor(7, AT_US)


async def test_position_is_unknown_without_an_answer_or_a_readable_entry() -> None:
    store = Store(5, 7, 9, meta=LogMeta(9))
    store.unreadable = 9
    assert await position(store, 2) is None
    store.is_away = True
    assert await position(store, 2) is None


async def test_beat_looks_at_many_logs_in_several_turns() -> None:
    bounds = LogBounds(10, 1_000, 60)
    logs = [Log(box_of(f"c{n}"), bounds, is_lasting=True) for n in range(2 * LOGS_PER_TURN + 1)]
    seen, tasks = list[Log](), Tasks(logging.getLogger())
    begin_in_turns(logs, seen.append, tasks)
    assert seen == logs[:LOGS_PER_TURN]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert LOGS_PER_TURN < len(seen) < len(logs)
    await tasks.idle()
    assert seen == logs
