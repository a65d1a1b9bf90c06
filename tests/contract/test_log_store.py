"""``ports.LogStore`` on every backend."""

import asyncio
import math
import struct
from dataclasses import replace

import pytest

from fastapi_websocket_stabilizer import MessageError, WebSocketConfig
from fastapi_websocket_stabilizer.backends.log_ports import (
    META_LASTS_S,
    Append,
    Appended,
    Heard,
    LogBounds,
    LogEntry,
    LogKind,
    LogName,
    Trimmed,
    Verdict,
)
from fastapi_websocket_stabilizer.backends.ports import Backend, Watcher
from fastapi_websocket_stabilizer.backends.redis import RedisBackend
from fastapi_websocket_stabilizer.backends.redis.keys import Keys
from fastapi_websocket_stabilizer.names import NodeId
from fastapi_websocket_stabilizer.runtime.metrics import Counters
from fastapi_websocket_stabilizer.wire.channels import ALL, Channel, box_of
from fastapi_websocket_stabilizer.wire.envelopes import Envelope, Kind
from tests.contract.conftest import TIMEOUT_S, OpenPeer
from tests.contract.log_content import Content, Inside
from tests.contract.support import AWKWARD_NAMES
from tests.support.waiting import eventually
from tests.support.watchers import watcher

LOBBY = LogName(LogKind.ROOM, "lobby")
EVERYBODY = LogName(LogKind.ALL)
BOX = LogName(LogKind.BOX, "alice")
LOGS = pytest.mark.parametrize("log", [LOBBY, EVERYBODY, BOX], ids=["room", "all", "box"])
BOUNDS = LogBounds(messages=1000, bytes=1_000_000, seconds=600)
S = 1_000_000


def message(log: LogName, body: str, sequence: int = 1) -> Envelope:
    targets = (log.name,) if log.name else ()
    return Envelope(NodeId("n1"), sequence, 0, Kind.BROADCAST, targets, ("bob",), body=body)


def notice(log: LogName) -> Envelope:
    return Envelope(NodeId("n1"), 1, 0, Kind.LOST, (log.name,) if log.name else (), body="hole")


def bodies(entries: tuple[LogEntry, ...] | list[LogEntry]) -> list[str | bytes]:
    return [each.envelope.body for each in entries]


def ids(entries: tuple[LogEntry, ...] | list[LogEntry]) -> list[int]:
    return [each.id for each in entries]


async def store(
    backend: Backend, log: LogName, *texts: str, bounds: LogBounds = BOUNDS, key: str = "", age_s: float = 0.0
) -> list[Appended]:
    appends = [Append(log, message(log, text, int(text)), bounds, key, age_s) for text in texts]
    return [await answer for answer in backend.logs.append(appends)]


async def listen(backend: Backend) -> None:
    """Subscribe to the channels of ``LOGS``."""
    await backend.bus.subscribe_room(LOBBY.name)
    await backend.bus.subscribe_box(BOX.name)


@pytest.fixture
def inside(backend: Backend, namespace: str) -> Inside:
    return Inside(backend, namespace)


@pytest.fixture
def with_keys(inside: Inside) -> Inside:
    if not inside.has_keys:
        pytest.skip("memory has no keys that another program could set")
    return inside


# Append and read


@LOGS
async def test_entries_are_read_as_they_were_stored_and_in_order(backend: Backend, log: LogName) -> None:
    stored = [*await store(backend, log, "1"), *await store(backend, log, "2", "3")]
    found = await backend.logs.read(log)
    assert ids(found.entries) == [each.entry for each in stored] == sorted({each.entry for each in stored})
    assert [each.envelope for each in found.entries] == [message(log, f"{n}", n) for n in (1, 2, 3)]
    assert [each.previous for each in stored] == [0, stored[0].entry, stored[1].entry]
    assert (found.is_whole, found.last, [each.is_new for each in stored]) == (
        True,
        stored[-1].entry,
        [True] * 3,
    )
    assert found.meta is not None
    assert (found.meta.top, found.meta.base) == (stored[-1].entry, 0)
    assert await backend.logs.tops([log, LogName(LogKind.ROOM, "nowhere")]) == [stored[-1].entry, 0]


async def test_log_without_entries_is_unknown(backend: Backend) -> None:
    found = await backend.logs.read(LOBBY)
    assert (found.entries, found.meta, found.last, found.is_whole) == ((), None, 0, True)


async def test_newest_entries_are_read_and_said_to_be_a_part(backend: Backend) -> None:
    await store(backend, LOBBY, "1", "2", "3")
    found = await backend.logs.read(LOBBY, 2)
    assert (bodies(found.entries), found.is_whole) == (["2", "3"], False)
    assert (await backend.logs.read(LOBBY, 4)).is_whole


async def test_ids_are_the_time_of_the_store(backend: Backend) -> None:
    before_us = (await backend.logs.read(LOBBY)).at_us
    (stored,) = await store(backend, LOBBY, "1")
    assert before_us <= stored.entry <= (await backend.logs.read(LOBBY)).at_us


async def test_ids_grow_while_the_clock_is_behind(backend: Backend, inside: Inside) -> None:
    await store(backend, LOBBY, "1", "2")
    ahead = (await inside.content(LOBBY)).shifted(60 * S)
    await inside.put(LOBBY, ahead)
    stored = await store(backend, LOBBY, "3", "4")
    top = ahead.meta["top"]
    assert [(each.previous, each.entry) for each in stored] == [(top, top + 1), (top + 1, top + 2)]
    assert bodies((await backend.logs.read(LOBBY)).entries) == ["1", "2", "3", "4"]


async def test_published_entry_has_its_place_and_is_received_in_order(open_peer: OpenPeer) -> None:
    sender, receiver = await open_peer("n1"), await open_peer("n2")
    await receiver.backend.bus.subscribe_room("lobby")
    stored = await store(sender.backend, LOBBY, "1", "2", "3")
    assert [each.nodes for each in stored] == [1, 1, 1]
    await eventually(lambda: len(receiver.heard) == 3)
    assert {channel for channel, _ in receiver.heard} == {Channel("room", "lobby")}
    assert [envelope.entry for _, envelope in receiver.heard] == [(e.entry, e.previous) for e in stored]
    assert [replace(e, entry=None) for _, e in receiver.heard] == [
        message(LOBBY, f"{n}", n) for n in (1, 2, 3)
    ]


async def test_entry_for_everybody_is_published_to_all_nodes(open_peer: OpenPeer) -> None:
    peers = [await open_peer(f"n{number}") for number in range(2)]
    (stored,) = await store(peers[0].backend, EVERYBODY, "1")
    assert stored.nodes == 2
    await eventually(lambda: all(peer.heard for peer in peers))
    for peer in peers:
        assert [(channel, e.entry) for channel, e in peer.heard] == [(ALL, (stored.entry, 0))]


async def test_entry_of_a_mailbox_is_published_to_the_nodes_of_its_client(open_peer: OpenPeer) -> None:
    peer, other = await open_peer("n1"), await open_peer("n2")
    assert (await store(peer.backend, BOX, "1"))[0].nodes == 0
    for client_id in ("alice", "bob"):
        await peer.backend.bus.subscribe_box(client_id)
    (stored,) = await store(other.backend, BOX, "2")
    assert stored.nodes == 1
    await eventually(lambda: len(peer.heard) == 1)
    ((channel, envelope),) = peer.heard
    assert (channel, envelope.entry) == (box_of("alice"), (stored.entry, stored.previous))
    assert replace(envelope, entry=None) == message(BOX, "2", 2)
    peer.backend.bus.unsubscribe_box("alice")

    async def is_unsubscribed() -> bool:
        return not (await store(other.backend, BOX, "3"))[0].nodes

    await eventually(is_unsubscribed)


async def test_appends_of_one_tick_keep_their_order_among_other_messages(open_peer: OpenPeer) -> None:
    sender, receiver = await open_peer("n1"), await open_peer("n2")
    await receiver.backend.bus.subscribe_room("lobby")
    calls, answers = list[asyncio.Future[int]](), list[asyncio.Future[Appended]]()
    for number in range(1, 151):
        answers += sender.backend.logs.append([Append(LOBBY, message(LOBBY, f"{number}", number), BOUNDS)])
        if number % 50 == 0:
            volatile = message(LOBBY, f"after {number}", number)
            calls.append(
                asyncio.ensure_future(sender.backend.bus.publish(Channel("room", "lobby"), volatile))
            )
            await asyncio.sleep(0)
    await asyncio.gather(*answers, *calls)
    await eventually(lambda: len(receiver.heard) == 153)
    expected = [text for n in range(1, 151) for text in ([f"{n}"] + [f"after {n}"] * (n % 50 == 0))]
    assert [envelope.body for _, envelope in receiver.heard] == expected
    assert len({(await answer).entry for answer in answers}) == 150


async def test_appends_to_several_logs_in_one_tick_are_each_in_order(backend: Backend) -> None:
    logs = [LogName(LogKind.ROOM, f"room {number}") for number in range(5)] + [EVERYBODY, BOX]
    appends = [Append(log, message(log, f"{n}", n), BOUNDS) for n in range(1, 9) for log in logs]
    stored = [await answer for answer in backend.logs.append(appends)]
    for number, log in enumerate(logs):
        found = await backend.logs.read(log)
        assert bodies(found.entries) == [f"{n}" for n in range(1, 9)]
        assert ids(found.entries) == [each.entry for each in stored[number :: len(logs)]]


async def test_two_logs_of_one_slot_in_one_call_do_not_mix(backend: Backend) -> None:
    one, other = LogName(LogKind.ROOM, "alice"), BOX  # one partition
    turns = (one, "1"), (other, "2"), (one, "3"), (other, "4")
    appends = [Append(log, message(log, text, int(text)), BOUNDS) for log, text in turns]
    stored = [await answer for answer in backend.logs.append(appends)]
    assert [each.entry for each in stored] == sorted({each.entry for each in stored})
    assert bodies((await backend.logs.read(one)).entries) == ["1", "3"]
    assert bodies((await backend.logs.read(other)).entries) == ["2", "4"]


async def test_large_entry_comes_back_whole(backend: Backend) -> None:
    text = "ä" * 1_500_000
    large = Append(LOBBY, message(LOBBY, text), replace(BOUNDS, bytes=8_000_000))
    small = Append(LOBBY, message(LOBBY, "2", 2), replace(BOUNDS, bytes=8_000_000))
    for answer in backend.logs.append([large, small, large]):
        await answer
    assert bodies((await backend.logs.read(LOBBY)).entries) == [text, "2", text]


async def test_message_larger_than_its_log_is_refused_with_all_others(backend: Backend) -> None:
    fits, bounds = Append(LOBBY, message(LOBBY, "1"), BOUNDS), replace(BOUNDS, bytes=300)
    with pytest.raises(MessageError, match="bytes in its log, the limit is 300"):
        backend.logs.append([fits, Append(LOBBY, message(LOBBY, "x" * 300), bounds)])
    assert (await backend.logs.read(LOBBY)).meta is None


async def test_exclusions_count_as_bytes_of_a_message(backend: Backend) -> None:
    names = tuple(f"client-{number:04}" for number in range(100))
    excluding = replace(message(LOBBY, "1"), exclude=names)
    with pytest.raises(MessageError, match="bytes in its log, the limit is 1000"):
        backend.logs.append([Append(LOBBY, excluding, replace(BOUNDS, bytes=1000))])
    (answer,) = backend.logs.append([Append(LOBBY, excluding, BOUNDS)])
    await answer
    (entry,) = (await backend.logs.read(LOBBY)).entries
    assert entry.envelope.exclude == names
    assert entry.size > sum(map(len, names))


async def test_names_of_logs_cannot_collide_or_match_one_another(backend: Backend) -> None:
    logs = [LogName(kind, name) for kind in (LogKind.ROOM, LogKind.BOX) for name in AWKWARD_NAMES]
    for number, log in enumerate(logs, 1):
        await store(backend, log, f"{number}")
    for number, log in enumerate(logs, 1):
        assert bodies((await backend.logs.read(log)).entries) == [f"{number}"]


async def test_appends_that_are_not_gathered_keep_their_order_too(row: str | None, namespace: str) -> None:
    if row is None:
        pytest.skip("memory gathers nothing")
    settings = WebSocketConfig(redis_url=row, namespace=namespace, redis_timeout_s=TIMEOUT_S)
    received: list[Envelope] = []
    alone = RedisBackend(
        settings, watcher(lambda channel, envelope, size: received.append(envelope)), Counters()
    )
    await alone.start(NodeId("n1"))
    try:
        answers, calls = list[asyncio.Future[Appended]](), list[asyncio.Future[int]]()
        for number in range(1, 9):
            answers += alone.logs.append([Append(EVERYBODY, message(EVERYBODY, f"{number}", number), BOUNDS)])
            volatile = message(EVERYBODY, f"after {number}", number)
            calls.append(asyncio.ensure_future(alone.bus.publish(ALL, volatile)))
            await asyncio.sleep(0)
        await asyncio.gather(*answers, *calls)
        await eventually(lambda: len(received) == 16)
        assert [e.body for e in received] == [text for n in range(1, 9) for text in (f"{n}", f"after {n}")]
    finally:
        await alone.stop()


# Bounds


async def test_log_is_trimmed_by_messages_when_it_is_a_quarter_over(backend: Backend) -> None:
    bounds = replace(BOUNDS, messages=8)
    stored = [(await store(backend, LOBBY, f"{n}", bounds=bounds))[0] for n in range(1, 11)]
    assert len((await backend.logs.read(LOBBY)).entries) == 10
    stored += await store(backend, LOBBY, "11", bounds=bounds)
    found = await backend.logs.read(LOBBY)
    assert ids(found.entries) == [each.entry for each in stored[3:]]
    assert found.meta is not None
    assert found.meta.base == stored[2].entry
    assert (
        [each.trimmed for each in stored if any(each.trimmed)]
        == [stored[-1].trimmed]
        == [Trimmed(messages=3)]
    )


async def test_log_is_trimmed_by_bytes_when_it_is_a_quarter_over(backend: Backend) -> None:
    (first,) = await store(backend, LOBBY, "1")
    size = (await backend.logs.read(LOBBY)).entries[0].size
    bounds = replace(BOUNDS, bytes=4 * size)
    await store(backend, LOBBY, "2", "3", "4", "5", bounds=bounds)
    assert len((await backend.logs.read(LOBBY)).entries) == 5
    (newest,) = await store(backend, LOBBY, "6", bounds=bounds)
    assert newest.trimmed == Trimmed(bytes=2)
    found = await backend.logs.read(LOBBY)
    assert bodies(found.entries) == ["3", "4", "5", "6"]
    assert sum(each.size for each in found.entries) <= bounds.bytes
    assert found.meta is not None
    assert found.meta.base > first.entry


async def test_log_is_trimmed_by_age(backend: Backend, inside: Inside) -> None:
    old = [*await store(backend, LOBBY, "1"), *await store(backend, LOBBY, "2")]
    await inside.put(LOBBY, (await inside.content(LOBBY)).shifted(-760 * S))  # 1.25 times 600 s are 750
    (newest,) = await store(backend, LOBBY, "3")
    assert newest.trimmed == Trimmed(age=2)
    found = await backend.logs.read(LOBBY)
    assert bodies(found.entries) == ["3"]
    assert found.meta is not None
    assert found.meta.base == old[1].entry - 760 * S


async def test_entries_of_one_call_are_trimmed_as_well(backend: Backend) -> None:
    stored = await store(backend, LOBBY, *map(str, range(1, 101)), bounds=replace(BOUNDS, messages=10))
    found = await backend.logs.read(LOBBY)
    assert ids(found.entries) == [each.entry for each in stored[-10:]]
    assert sum(each.trimmed.messages for each in stored) == 90


async def test_bounds_that_were_lowered_are_reached_with_further_appends(backend: Backend) -> None:
    await store(backend, LOBBY, *map(str, range(1, 401)))
    for number in range(401, 405):
        await store(backend, LOBBY, f"{number}", bounds=replace(BOUNDS, messages=10))
    found = await backend.logs.read(LOBBY)
    assert bodies(found.entries) == [f"{number}" for number in range(404 - len(found.entries) + 1, 405)]
    assert len(found.entries) <= 12


async def test_list_expires_before_its_meta(backend: Backend) -> None:
    (stored,) = await store(backend, LOBBY, "1", bounds=replace(BOUNDS, seconds=1))

    async def is_gone() -> bool:
        return not (await backend.logs.read(LOBBY)).entries

    await eventually(is_gone)
    found = await backend.logs.read(LOBBY)
    assert found.meta is not None
    assert (found.meta.top, found.meta.base, found.last) == (stored.entry,) * 3
    (newest,) = await store(backend, LOBBY, "2")
    assert (newest.previous, newest.trimmed) == (stored.entry, Trimmed(age=1))
    found = await backend.logs.read(LOBBY)
    assert bodies(found.entries) == ["2"]
    assert found.meta is not None
    assert found.meta.base == stored.entry


async def test_list_in_use_does_not_expire(backend: Backend, with_keys: Inside) -> None:
    await store(backend, LOBBY, "1")
    lasts_ms = 1000 * BOUNDS.seconds
    assert lasts_ms < await with_keys.lasts_ms(with_keys.key(LOBBY)) <= 1.25 * lasts_ms
    meta = await with_keys.content(LOBBY)
    await store(backend, LOBBY, "2")
    assert (await with_keys.content(LOBBY)).meta["touched"] == meta.meta["touched"]
    await with_keys.put(LOBBY, meta.shifted(-100 * S))  # an eighth of 600 s are 75
    await store(backend, LOBBY, "3")
    assert lasts_ms < await with_keys.lasts_ms(with_keys.key(LOBBY)) <= 1.25 * lasts_ms


@pytest.mark.parametrize(("seconds", "lasts_s"), [(60, META_LASTS_S), (86_400, 3 * 86_400)])
async def test_meta_outlives_the_list(
    backend: Backend, with_keys: Inside, seconds: int, lasts_s: int
) -> None:
    await store(backend, LOBBY, "1", bounds=replace(BOUNDS, seconds=seconds))
    assert lasts_s - 60 < await with_keys.lasts_ms(with_keys.meta_key(LOBBY)) / 1000 <= lasts_s


# Keys and retries


@LOGS
async def test_message_with_a_key_is_stored_and_published_once(open_peer: OpenPeer, log: LogName) -> None:
    peer = await open_peer("n1")
    await listen(peer.backend)
    (first,) = await store(peer.backend, log, "1", key="order-42")
    again = await store(peer.backend, log, "2", key="order-42")
    assert again == [Appended(first.entry, 0, 0, is_new=False)]
    (other,) = await store(peer.backend, log, "3", key="order-43")
    assert other.is_new
    assert bodies((await peer.backend.logs.read(log)).entries) == ["1", "3"]
    await eventually(lambda: [e.body for _, e in peer.heard] == ["1", "3"])


async def test_key_counts_for_one_log(backend: Backend) -> None:
    logs = LogName(LogKind.ROOM, "alice"), BOX, LogName(LogKind.ROOM, "lobby"), EVERYBODY
    found = [(await store(backend, log, "1", key="order-42"))[0].is_new for log in logs]
    assert found == [True] * 4


async def test_message_with_a_key_among_others_of_its_tick_keeps_its_place(backend: Backend) -> None:
    appends = [Append(LOBBY, message(LOBBY, f"{n}", n), BOUNDS, "k" * (n in (2, 4))) for n in range(1, 6)]
    stored = [await answer for answer in backend.logs.append(appends)]
    assert [each.is_new for each in stored] == [True, True, True, False, True]
    assert bodies((await backend.logs.read(LOBBY)).entries) == ["1", "2", "3", "5"]


@LOGS
async def test_retry_finds_what_the_first_try_has_stored(open_peer: OpenPeer, log: LogName) -> None:
    peer = await open_peer("n1")
    await listen(peer.backend)
    first, tried, *_ = await store(peer.backend, log, *map(str, range(1, 301)))
    again = await store(peer.backend, log, "2", age_s=5.0)
    assert again == [Appended(tried.entry, first.entry, 0, is_new=False)]
    assert await store(peer.backend, log, "1", age_s=5.0) == [Appended(first.entry, 0, 0, is_new=False)]
    assert len((await peer.backend.logs.read(log)).entries) == 300
    await eventually(lambda: len(peer.heard) == 300)


@LOGS
async def test_retry_stores_what_the_first_try_has_not(backend: Backend, log: LogName) -> None:
    (first,) = await store(backend, log, "1")
    (again,) = await store(backend, log, "2", age_s=5.0)
    assert (again.is_new, again.previous) == (True, first.entry)
    assert bodies((await backend.logs.read(log)).entries) == ["1", "2"]


async def test_retry_does_not_look_past_the_first_try(backend: Backend, inside: Inside) -> None:
    await store(backend, LOBBY, "1")
    await inside.put(LOBBY, (await inside.content(LOBBY)).shifted(-10 * S))
    assert (await store(backend, LOBBY, "1", age_s=2.0))[0].is_new


async def test_retry_with_a_key_names_the_entry_before(backend: Backend) -> None:
    (first,) = await store(backend, BOX, "1")
    (tried,) = await store(backend, BOX, "2", key="k")
    again = await store(backend, BOX, "2", key="k", age_s=1.0)
    assert again == [Appended(tried.entry, first.entry, 0, is_new=False)]


# Pages, and the end of a log


async def test_pages_go_back_from_the_newest(backend: Backend) -> None:
    stored = await store(backend, LOBBY, *map(str, range(1, 26)))
    page = await backend.logs.page(LOBBY, None, 10)
    assert bodies(page) == [f"{n}" for n in range(16, 26)]
    page = await backend.logs.page(LOBBY, page[0].id, 10)
    assert bodies(page) == [f"{n}" for n in range(6, 16)]
    await store(backend, LOBBY, "26")
    assert bodies(await backend.logs.page(LOBBY, page[0].id, 10)) == [f"{n}" for n in range(1, 6)]
    assert await backend.logs.page(LOBBY, stored[0].entry, 10) == []
    assert await backend.logs.page(LogName(LogKind.ROOM, "nowhere"), None, 10) == []


@LOGS
async def test_part_of_a_log_begins_with_an_entry_and_has_about_as_many_bytes(
    backend: Backend, log: LogName
) -> None:
    stored = await store(backend, log, *map(str, range(1, 31)))
    size = (await backend.logs.read(log, 1)).entries[0].size
    for number, each in enumerate(stored, 1):
        part = await backend.logs.after(log, each.entry, 11 * size)
        assert bodies(part.entries)[:10] == [f"{n}" for n in range(number, 31)][:10]
        assert len(part.entries) <= 12
        assert part.last == part.entries[-1].id
    whole = await backend.logs.read(log)
    part = await backend.logs.after(log, stored[20].entry, 1_000_000)
    assert (bodies(part.entries), part.meta) == ([f"{n}" for n in range(21, 31)], whole.meta)
    assert (part.since_us, part.run_id) == (whole.since_us, whole.run_id)
    assert bodies((await backend.logs.after(log, stored[4].entry, 1)).entries) == ["5", "6"]


async def test_part_of_a_log_from_an_id_that_no_entry_has(backend: Backend) -> None:
    nowhere = await backend.logs.after(LogName(LogKind.ROOM, "nowhere"), 5, 1000)
    assert (nowhere.entries, nowhere.meta, nowhere.last) == ((), None, 0)
    (first,) = await store(backend, LOBBY, "1")
    between = (await store(backend, LOBBY, "2"))[0].entry + 1
    await asyncio.sleep(0.001)  # the next id is not that one
    await store(backend, LOBBY, "3")
    assert bodies((await backend.logs.after(LOBBY, first.entry - 1, 1000)).entries) == ["1", "2", "3"]
    assert bodies((await backend.logs.after(LOBBY, between, 1000)).entries) == ["2", "3"]
    assert bodies((await backend.logs.after(LOBBY, between + S, 1000)).entries) == ["3"]


@LOGS
async def test_deleted_log_has_no_entries_and_its_ids_go_on(open_peer: OpenPeer, log: LogName) -> None:
    peer = await open_peer("n1")
    await listen(peer.backend)
    *_, last = await store(peer.backend, log, "1", "2")
    assert await peer.backend.logs.delete(log, notice(log)) == last.entry
    found = await peer.backend.logs.read(log)
    assert found.meta is not None
    assert (found.entries, found.last) == ((), last.entry)
    assert (found.meta.top, found.meta.base, found.meta.reset) == (last.entry,) * 3
    (after,) = await store(peer.backend, log, "3")
    assert after.previous == last.entry
    found = await peer.backend.logs.read(log)
    assert found.meta is not None
    assert (bodies(found.entries), found.meta.base) == (["3"], last.entry)
    await eventually(lambda: len(peer.heard) == 4)
    assert peer.heard[2][1] == replace(notice(log), entry=(last.entry, last.entry))


async def test_deleting_an_unknown_log_is_no_loss(backend: Backend) -> None:
    assert await backend.logs.delete(LOBBY, notice(LOBBY)) == 0
    assert (await backend.logs.read(LOBBY)).meta is None


# After a failover


def heard(entries: tuple[LogEntry, ...], previous: int = -1) -> Heard:
    return Heard(entries[-1].id, entries, previous)


@LOGS
async def test_log_that_has_what_was_heard_is_left_alone(backend: Backend, log: LogName) -> None:
    await store(backend, log, "1", "2", "3")
    found = (await backend.logs.read(log)).entries
    for each in (heard(found), heard(found[:2]), Heard(found[0].id), Heard(found[-1].id)):
        assert await backend.logs.verify(log, each, BOUNDS, notice(log)) is Verdict.KNOWN
    assert (await backend.logs.read(log)).entries == found


@LOGS
@pytest.mark.parametrize("kept", [0, 1, 3])
async def test_lost_tail_is_put_back_under_its_ids(
    backend: Backend, inside: Inside, log: LogName, kept: int
) -> None:
    await store(backend, log, *"12345"[:kept])
    before = await inside.content(log)
    await store(backend, log, *"12345"[kept:])
    found = await backend.logs.read(log)
    await inside.put(log, before)
    assert len((await backend.logs.read(log)).entries) == kept
    told = heard(found.entries[1:], found.entries[0].id) if kept else heard(found.entries, 0)
    assert await backend.logs.verify(log, told, BOUNDS, notice(log)) is Verdict.RESTORED
    after = await backend.logs.read(log)
    assert found.meta is not None
    base = (
        0 if kept else found.entries[0].id - 1
    )  # without a meta, a client may have been told that it is empty
    assert (after.entries, after.meta) == (found.entries, replace(found.meta, base=base))
    assert await backend.logs.verify(log, told, BOUNDS, notice(log)) is Verdict.KNOWN
    (later,) = await store(backend, log, "6")
    assert later.previous == found.last
    assert bodies((await backend.logs.read(log)).entries) == ["1", "2", "3", "4", "5", "6"]


async def test_tail_that_continues_what_another_node_has_put_back_is_put_back(
    backend: Backend, inside: Inside
) -> None:
    await store(backend, LOBBY, "1")
    before = await inside.content(LOBBY)
    await store(backend, LOBBY, "2", "3")
    found = (await backend.logs.read(LOBBY)).entries
    await inside.put(LOBBY, before)
    for told in (heard(found[:2]), heard(found)):
        assert await backend.logs.verify(LOBBY, told, BOUNDS, notice(LOBBY)) is Verdict.RESTORED
    assert (await backend.logs.read(LOBBY)).entries == found


async def test_restored_entries_are_not_published(open_peer: OpenPeer, namespace: str) -> None:
    peer = await open_peer("n1")
    inside = Inside(peer.backend, namespace)
    await store(peer.backend, EVERYBODY, "1", "2")
    found = (await peer.backend.logs.read(EVERYBODY)).entries
    await inside.put(EVERYBODY, Content())
    told = heard(found, 0)
    assert await peer.backend.logs.verify(EVERYBODY, told, BOUNDS, notice(EVERYBODY)) is Verdict.RESTORED
    await store(peer.backend, EVERYBODY, "3")
    await eventually(lambda: peer.bodies[-1:] == ["3"])
    assert peer.bodies == ["1", "2", "3"]


@pytest.mark.parametrize("has_newer", [False, True])
@pytest.mark.parametrize("has_tail", [False, True])
async def test_loss_that_cannot_be_mended_is_marked_and_published(
    open_peer: OpenPeer, namespace: str, has_newer: bool, has_tail: bool
) -> None:
    peer = await open_peer("n1")
    inside = Inside(peer.backend, namespace)
    await peer.backend.bus.subscribe_room("lobby")
    await store(peer.backend, LOBBY, "1")
    before = await inside.content(LOBBY)
    await store(peer.backend, LOBBY, "2", "3")
    found = (await peer.backend.logs.read(LOBBY)).entries
    await inside.put(LOBBY, before)
    newer = await store(peer.backend, LOBBY, "4") if has_newer else []
    told = heard(found if has_newer else found[2:]) if has_tail else Heard(found[-1].id)
    assert await peer.backend.logs.verify(LOBBY, told, BOUNDS, notice(LOBBY)) is Verdict.LOST
    after = await peer.backend.logs.read(LOBBY)
    hole = (newer[0].entry if newer else found[-1].id) + 1
    assert after.meta is not None
    assert (after.meta.hole, after.meta.top, after.meta.base) == (hole, hole, 0)
    assert bodies(after.entries) == ["1"] + ["4"] * has_newer
    assert await peer.backend.logs.verify(LOBBY, told, BOUNDS, notice(LOBBY)) is Verdict.KNOWN
    assert (await store(peer.backend, LOBBY, "5"))[0].previous == hole
    await eventually(lambda: len(peer.heard) == 5 + has_newer)
    assert peer.heard[-2][1] == replace(notice(LOBBY), entry=(hole, hole))


async def test_id_that_a_slow_clock_has_used_again_is_a_loss(backend: Backend, inside: Inside) -> None:
    await store(backend, LOBBY, "1")
    before = await inside.content(LOBBY)
    await store(backend, LOBBY, "2")
    found = (await backend.logs.read(LOBBY)).entries
    await inside.put(LOBBY, before)
    (other,) = await store(backend, LOBBY, "3")
    content = await inside.content(LOBBY)
    content.entries[-1], content.meta["top"] = (found[-1].id, content.entries[-1][1]), found[-1].id
    await inside.put(LOBBY, content)
    assert await backend.logs.verify(LOBBY, heard(found), BOUNDS, notice(LOBBY)) is Verdict.LOST
    after = await backend.logs.read(LOBBY)
    assert after.meta is not None
    assert after.meta.hole == after.meta.top == found[-1].id + 1 != other.entry


async def test_expired_log_whose_newest_entry_was_heard_is_known(backend: Backend, inside: Inside) -> None:
    await store(backend, LOBBY, "1")
    found = (await backend.logs.read(LOBBY)).entries
    await inside.expire_list(LOBBY)
    assert await backend.logs.verify(LOBBY, heard(found), BOUNDS, notice(LOBBY)) is Verdict.KNOWN


# Signed registries


async def test_stored_messages_are_signed_for_their_log(row: str | None, namespace: str) -> None:
    if row is None:
        pytest.skip("memory signs nothing")
    received: list[Envelope] = []
    listener = watcher(lambda channel, envelope, size: received.append(envelope))
    trusted, counters = signed(row, namespace, "a key " * 6, listener), Counters()
    stranger = RedisBackend(config(row, namespace, "another key " * 6), watcher(), counters)
    await trusted.start(NodeId("n1"))
    await stranger.start(NodeId("n2"))
    try:
        await listen(trusted)
        for log in (LOBBY, EVERYBODY, BOX):
            first, tried = await store(trusted, log, "1", "2")
            assert bodies((await trusted.logs.read(log)).entries) == ["1", "2"]
            assert (await stranger.logs.read(log)).entries == ()
            again = await store(trusted, log, "2", age_s=5.0)
            assert again == [Appended(tried.entry, first.entry, 0, is_new=False)]
            told = heard((await trusted.logs.read(log)).entries, 0)
            await Inside(trusted, namespace).put(log, Content())
            assert await trusted.logs.verify(log, told, BOUNDS, notice(log)) is Verdict.RESTORED
            assert await trusted.logs.verify(log, told, BOUNDS, notice(log)) is Verdict.KNOWN
            assert bodies((await trusted.logs.read(log)).entries) == ["1", "2"]
        await eventually(lambda: [envelope.body for envelope in received] == ["1", "2"] * 3)
        assert all(envelope.entry for envelope in received)
        content = await Inside(trusted, namespace).content(LOBBY)
        await Inside(trusted, namespace).put(LogName(LogKind.ROOM, "secret"), content)
        assert (await trusted.logs.read(LogName(LogKind.ROOM, "secret"))).entries == ()
        assert counters.redis_malformed > 0
    finally:
        await trusted.stop()
        await stranger.stop()


def config(row: str, namespace: str, key: str) -> WebSocketConfig:
    return WebSocketConfig(
        redis_url=row, namespace=namespace, redis_timeout_s=TIMEOUT_S, envelope_keys=(key,)
    )


def signed(row: str, namespace: str, key: str, listener: Watcher) -> RedisBackend:
    return RedisBackend(config(row, namespace, key), listener, Counters())


# Where a client without a cursor begins in its mailbox


async def test_client_without_a_mark_begins_with_the_oldest_message(backend: Backend, inside: Inside) -> None:
    empty = await backend.logs.unread(BOX)
    assert (empty.position, empty.is_owed) == (0, False)
    bounds = replace(BOUNDS, messages=2)
    stored = await store(backend, BOX, "1", "2", bounds=bounds)
    found = await backend.logs.unread(BOX)
    assert (found.position, found.is_owed) == (0, True)
    assert empty.at_us < found.at_us
    stored += await store(backend, BOX, "3", bounds=bounds)
    found = await backend.logs.unread(BOX)
    assert (found.position, found.is_owed) == (stored[0].entry, True)
    await inside.put(BOX, Content([], (await inside.content(BOX)).meta))  # it has expired
    found = await backend.logs.unread(BOX)
    assert (found.position, found.is_owed) == (stored[-1].entry, False)


async def test_client_without_a_mark_is_owed_what_a_failover_has_lost(
    backend: Backend, inside: Inside
) -> None:
    await store(backend, BOX, "1")
    before = await inside.content(BOX)
    (lost,) = await store(backend, BOX, "2")
    await inside.put(BOX, before)
    assert await backend.logs.verify(BOX, Heard(lost.entry), BOUNDS, notice(BOX)) is Verdict.LOST
    found = await backend.logs.unread(BOX)
    assert (found.position, found.is_owed) == (0, True)


async def test_mark_only_rises_and_is_never_above_the_newest_message(backend: Backend) -> None:
    assert not await backend.logs.mark(BOX, 1, 60)
    first, second, third = await store(backend, BOX, "1", "2", "3")
    for entry, position in ((second, second), (first, second), (third, third)):
        assert await backend.logs.mark(BOX, entry.entry, 60)
        found = await backend.logs.unread(BOX)
        assert (found.position, found.is_owed) == (position.entry, True)
    for unknown in (third.entry + 1, 2**53 - 1):
        assert not await backend.logs.mark(BOX, unknown, 60)
    assert (await backend.logs.unread(BOX)).position == third.entry
    assert bodies((await backend.logs.read(BOX)).entries) == ["1", "2", "3"]
    assert (await backend.logs.unread(LogName(LogKind.BOX, "bob"))).position == 0


async def test_mark_is_removed_with_its_mailbox(backend: Backend) -> None:
    (first,) = await store(backend, BOX, "1")
    assert await backend.logs.mark(BOX, first.entry, 60)
    await backend.logs.delete(BOX, notice(BOX))
    found = await backend.logs.unread(BOX)
    assert (found.position, found.is_owed) == (first.entry, False)
    (second,) = await store(backend, BOX, "2")
    assert await backend.logs.mark(BOX, second.entry, 60)


@pytest.mark.parametrize(("seconds", "lasts_s"), [(60, 3600), (86_400, 259_200)])
async def test_mark_lasts_as_long_as_the_meta(
    with_keys: Inside, backend: Backend, namespace: str, seconds: int, lasts_s: int
) -> None:
    (first,) = await store(backend, BOX, "1")
    await backend.logs.mark(BOX, first.entry, seconds)
    assert lasts_s - 60 < await with_keys.lasts_ms(Keys(namespace).box_mark("alice")) / 1000 <= lasts_s


async def test_foreign_key_in_place_of_a_mark_is_replaced(
    with_keys: Inside, backend: Backend, namespace: str
) -> None:
    (first,) = await store(backend, BOX, "1")
    await with_keys.send("HSET", Keys(namespace).box_mark("alice"), "field", "value")
    assert (await backend.logs.unread(BOX)).position == 0
    assert await backend.logs.mark(BOX, first.entry, 60)
    assert (await backend.logs.unread(BOX)).position == first.entry


# What the registry agrees on


async def test_content_begins_once(open_peer: OpenPeer) -> None:
    one, other = await open_peer("n1"), await open_peer("n2")
    before = await one.backend.logs.read(LOBBY)
    assert before.since_us is None
    await one.backend.logs.begin("chat:")
    began = await one.backend.logs.read(LOBBY)
    assert began.since_us is not None
    assert before.at_us <= began.since_us <= began.at_us
    await other.backend.logs.begin("chat:")
    for log in (LOBBY, EVERYBODY, BOX):
        since_us = (await other.backend.logs.read(log)).since_us
        assert since_us is not None
        assert before.at_us <= since_us <= began.at_us


async def test_policy_is_that_of_the_first_until_it_is_replaced(open_peer: OpenPeer) -> None:
    one, other = await open_peer("n1"), await open_peer("n2")
    assert await one.backend.logs.policy() == ""
    assert await one.backend.logs.begin("chat:") == "chat:"
    assert await other.backend.logs.begin("news:") == "chat:"
    assert await other.backend.logs.policy() == "chat:"
    assert await other.backend.logs.replace_policy("chat:", "news:") == "news:"
    assert await one.backend.logs.begin("chat:") == "news:"


async def test_policy_that_was_replaced_by_another_node_stays(open_peer: OpenPeer) -> None:
    one, other = await open_peer("n1"), await open_peer("n2")
    assert await one.backend.logs.replace_policy("", "chat:") == "chat:"
    assert await other.backend.logs.replace_policy("", "news:") == "chat:"
    assert await one.backend.logs.replace_policy("sports:", "news:") == "chat:"
    assert await other.backend.logs.policy() == "chat:"


# Keys that another program has set


@LOGS
async def test_list_of_another_origin_is_replaced(backend: Backend, with_keys: Inside, log: LogName) -> None:
    await with_keys.send("RPUSH", with_keys.key(log), "foreign", b"\0" * 20)
    assert (await backend.logs.read(log)).entries == ()
    (stored,) = await store(backend, log, "1")
    found = await backend.logs.read(log)
    assert found.meta is not None
    assert (bodies(found.entries), found.meta.base) == (["1"], stored.entry - 1)


async def test_list_without_its_meta_is_of_another_origin(backend: Backend, with_keys: Inside) -> None:
    *_, last = await store(backend, LOBBY, "1", "2")
    await with_keys.send("UNLINK", with_keys.meta_key(LOBBY))
    found = await backend.logs.read(LOBBY)
    assert found.meta is not None
    assert (found.entries, found.meta.top, found.meta.base, found.last) == ((), *[last.entry] * 3)
    (stored,) = await store(backend, LOBBY, "3")
    found = await backend.logs.read(LOBBY)
    assert found.meta is not None
    assert (bodies(found.entries), found.meta.base) == (["3"], stored.entry - 1)


@LOGS
async def test_keys_of_other_types_are_replaced(backend: Backend, with_keys: Inside, log: LogName) -> None:
    await with_keys.send("HSET", with_keys.key(log), "f", "1")
    await with_keys.send("HSET", with_keys.meta_key(log), "f", "1")
    assert await backend.logs.tops([log]) == [0]
    assert await backend.logs.page(log, None, 5) == []
    assert (await backend.logs.after(log, 5, 1000)).entries == ()
    found = await backend.logs.read(log)
    assert (found.entries, found.meta) == ((), None)
    assert await backend.logs.delete(log, notice(log)) == 0
    await with_keys.send("HSET", with_keys.key(log), "f", "1")
    await store(backend, log, "1", age_s=1.0)
    await store(backend, log, "2")
    assert bodies((await backend.logs.read(log)).entries) == ["1", "2"]


@pytest.mark.parametrize(
    ("field", "number"),
    [
        ("top", 2.0**53),
        ("top", math.nan),
        ("base", -math.inf),
        ("bytes", math.inf),
        ("reset", 2.0**52),
    ],
)
async def test_meta_of_another_program_does_not_end_a_log(
    backend: Backend, with_keys: Inside, field: str, number: float
) -> None:
    """Otherwise ids would not rise any more, or leave the integers that clients have."""
    await store(backend, LOBBY, "1")
    meta = {**(await with_keys.content(LOBBY)).meta, field: number}
    await with_keys.send("SET", with_keys.meta_key(LOBBY), struct.pack("<8d", *meta.values()))
    assert (await backend.logs.read(LOBBY)).entries == ()
    stored = [*await store(backend, LOBBY, "2"), *await store(backend, LOBBY, "3")]
    found = await backend.logs.read(LOBBY)
    assert bodies(found.entries) == ["2", "3"]
    assert ids(found.entries) == [each.entry for each in stored]
    assert found.at_us - 60 * S < stored[0].entry < stored[1].entry <= found.at_us


@pytest.mark.parametrize("mark", [b"9007199254740993", b"nan", b"x"])
async def test_mark_of_another_program_is_replaced_by_the_next_one(
    backend: Backend, with_keys: Inside, mark: bytes
) -> None:
    stored = await store(backend, BOX, "1", "2")
    await with_keys.send("SET", with_keys.mark_key(BOX), mark)
    found = await backend.logs.unread(BOX)
    assert found.position < stored[0].entry
    assert await backend.logs.mark(BOX, stored[0].entry, 60)
    assert (await backend.logs.unread(BOX)).position == stored[0].entry


async def test_list_that_another_program_shortens_is_begun_again(backend: Backend, with_keys: Inside) -> None:
    *_, last = await store(backend, LOBBY, "1", "2", "3")
    await with_keys.send("LTRIM", with_keys.key(LOBBY), 0, 0)
    await store(backend, LOBBY, "4")
    found = await backend.logs.read(LOBBY)
    assert found.meta is not None
    assert (bodies(found.entries), found.meta.base) == (["4"], last.entry)


async def test_entry_that_cannot_be_read_ends_the_history_before_it(
    backend: Backend, with_keys: Inside
) -> None:
    stored = await store(backend, LOBBY, "1", "2", "3")
    content = await with_keys.content(LOBBY)
    content.entries[1] = (stored[1].entry, b"\xc1")
    await with_keys.put(LOBBY, content)
    found = await backend.logs.read(LOBBY, 3)
    assert found.meta is not None
    assert (bodies(found.entries), found.meta.base, found.is_whole) == (["3"], stored[1].entry, True)
    content.entries[2] = (stored[2].entry, b"")
    await with_keys.put(LOBBY, content)
    found = await backend.logs.read(LOBBY)
    assert found.meta is not None
    assert (found.entries, found.last) == ((), stored[1].entry)


async def test_entry_of_another_log_is_not_read(backend: Backend, with_keys: Inside) -> None:
    await store(backend, LogName(LogKind.ROOM, "secret"), "1")
    foreign = (await with_keys.content(LogName(LogKind.ROOM, "secret"))).entries[0][1]
    (stored,) = await store(backend, LOBBY, "2")
    content = await with_keys.content(LOBBY)
    content.entries[0] = (stored.entry, foreign)
    await with_keys.put(LOBBY, content)
    assert (await backend.logs.read(LOBBY)).entries == ()
