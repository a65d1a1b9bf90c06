"""``ports.PresenceStore`` on every backend."""

import asyncio
import json
import re
from dataclasses import replace
from itertools import permutations

import pytest
import redis.asyncio

from fastapi_websocket_stabilizer import WebSocketConfig
from fastapi_websocket_stabilizer.backends.ports import (
    Backend,
    Claim,
    IndexEntry,
    Removed,
    SessionName,
    succession,
)
from fastapi_websocket_stabilizer.backends.redis import RedisBackend
from fastapi_websocket_stabilizer.names import ConnectionId, NodeId, visit_of
from fastapi_websocket_stabilizer.runtime.metrics import Counters
from fastapi_websocket_stabilizer.wire.envelopes import Part
from fastapi_websocket_stabilizer.wire.messages import Form
from fastapi_websocket_stabilizer.wire.outgoing import Outgoing
from tests.contract.conftest import OpenPeer
from tests.contract.support import AWKWARD_NAMES, claim, holders, lines, place
from tests.support.servers import RedisServer
from tests.support.watchers import watcher

N1 = NodeId("n1")


def presence(connection_id: str) -> IndexEntry:
    return IndexEntry(ConnectionId(connection_id), "alice", None)


async def test_the_first_claim_of_a_client_is_told_so(backend: Backend) -> None:
    first = await backend.presence.claim(claim("n1.1"))
    second = await backend.presence.claim(claim("n1.2"))
    assert (first.first, second.first) == (True, False)


async def test_a_new_claim_outranks_the_older_one(backend: Backend) -> None:
    older = await backend.presence.claim(claim("n1.1"))
    newer = await backend.presence.claim(claim("n2.1"))
    assert newer.stamp > older.stamp
    assert newer.others == ("n1.1",)


async def test_a_claim_that_waited_for_the_store_has_the_rank_of_its_beginning(backend: Backend) -> None:
    await backend.presence.claim(claim("n1.1", stamp=-2_000_000))
    await backend.presence.claim(claim("n2.1", stamp=-1_000_000))
    late = await backend.presence.claim(claim("n3.1", stamp=-3_000_000))
    again = await backend.presence.claim(claim("n3.1", stamp=-9_000_000))
    assert await holders(backend) == ["n2.1", "n1.1", "n3.1"]
    assert again.stamp == late.stamp


async def test_an_outranked_entry_stays_until_it_is_released(backend: Backend) -> None:
    await backend.presence.claim(claim("n1.1"))
    await backend.presence.claim(claim("n2.1"))
    assert await holders(backend) == ["n2.1", "n1.1"]


async def test_a_client_may_have_several_connections_and_the_oldest_gives_way(backend: Backend) -> None:
    answers = [await backend.presence.claim(claim(f"n1.{i}", top=2)) for i in range(3)]
    assert [answer.others for answer in answers] == [(), (), ("n1.0",)]


async def test_an_entry_is_returned_as_it_was_given(backend: Backend) -> None:
    body = b'{"name": "a b \xc3\xa4 \x00"}'
    await backend.presence.claim(replace(claim("n1.1"), entry=body))
    ((entry,),) = await backend.presence.entries(["alice"])
    assert entry.entry == body


async def test_entries_answer_each_client_in_the_order_asked(backend: Backend) -> None:
    for name in ("alice", "bob"):
        await backend.presence.claim(claim(f"n1.{name}", name))
    found = await backend.presence.entries(["bob", "nobody", "alice"])
    assert [[entry.connection_id for entry in entries] for entries in found] == [["n1.bob"], [], ["n1.alice"]]


async def test_a_repeated_claim_changes_nothing(backend: Backend) -> None:
    once = await backend.presence.claim(claim("n1.1"))
    again = await backend.presence.claim(claim("n1.1", stamp=once.stamp))
    assert again.others == ()
    assert await holders(backend) == ["n1.1"]


async def test_a_reclaim_with_an_old_stamp_does_not_outrank_a_newer_claim(backend: Backend) -> None:
    frozen = await backend.presence.claim(claim("n1.1"))
    await backend.presence.claim(claim("n2.1"))
    again = await backend.presence.claim(replace(claim("n3.1", stamp=frozen.stamp), replaces="n1.1"))
    assert again == replace(frozen, first=False, others=(ConnectionId("n3.1"),))
    assert await holders(backend) == ["n2.1", "n3.1"]


async def test_a_reclaim_takes_the_place_of_the_entry_it_replaces(backend: Backend) -> None:
    before = await backend.presence.claim(claim("n1.1"))
    again = await backend.presence.claim(replace(claim("n9.1", stamp=before.stamp), replaces="n1.1"))
    assert again.others == ()
    assert await holders(backend) == ["n9.1"]


@pytest.mark.parametrize("order", [*permutations((1, 2, 3))])
async def test_reclaims_rank_by_their_stamps_in_any_order_of_arrival(
    backend: Backend, order: tuple[int, ...]
) -> None:
    for stamp in order:
        await backend.presence.claim(claim(f"n{stamp}.1", stamp=stamp))
    assert await holders(backend) == ["n3.1", "n2.1", "n1.1"]


async def test_a_new_claim_outranks_a_stamp_from_the_future(backend: Backend) -> None:
    future = 9_000_000_000_000_000
    await backend.presence.claim(claim("n1.1", stamp=future))
    assert (await backend.presence.claim(claim("n2.1"))).stamp == future + 1


async def test_simultaneous_claims_have_distinct_stamps_and_one_winner(backend: Backend) -> None:
    answers = await asyncio.gather(*(backend.presence.claim(claim(f"n{i}.1")) for i in range(20)))
    assert len({answer.stamp for answer in answers}) == 20
    winner = max(range(20), key=lambda i: answers[i].stamp)
    assert (await holders(backend))[0] == f"n{winner}.1"


async def test_claim_if_free_takes_a_free_place(backend: Backend) -> None:
    answers = [await backend.presence.claim_if_free(claim(f"n1.{i}", top=2)) for i in range(2)]
    assert [(bool(answer.stamp), answer.first) for answer in answers] == [(True, True), (True, False)]
    assert await holders(backend) == ["n1.1", "n1.0"]


async def test_claim_if_free_is_refused_and_told_who_is_there(backend: Backend) -> None:
    await backend.presence.claim_if_free(claim("n1.1"))
    refused = await backend.presence.claim_if_free(claim("n2.1"))
    assert (refused.stamp, refused.others) == (0, ("n1.1",))
    assert await holders(backend) == ["n1.1"]


async def test_claim_if_free_may_be_repeated_by_the_holder(backend: Backend) -> None:
    await backend.presence.claim_if_free(claim("n1.1"))
    assert (await backend.presence.claim_if_free(claim("n1.1"))).stamp


async def test_simultaneous_claims_of_a_free_place_have_one_winner(backend: Backend) -> None:
    answers = await asyncio.gather(*(backend.presence.claim_if_free(claim(f"n{i}.1")) for i in range(20)))
    assert sum(bool(answer.stamp) for answer in answers) == 1


async def test_release_removes_exactly_one_connection_and_tells_the_last(backend: Backend) -> None:
    for i in range(2):
        await backend.presence.claim(claim(f"n1.{i}", top=2))
    assert not (await backend.presence.release("alice", ConnectionId("n1.0"))).left
    assert await holders(backend) == ["n1.1"]
    assert (await backend.presence.release("alice", ConnectionId("n1.1"))).left == visit_of("n1.0")


async def test_release_of_a_replaced_connection_leaves_its_successor(backend: Backend) -> None:
    await backend.presence.claim(claim("n1.1"))
    await backend.presence.claim(claim("n2.1"))
    for _ in range(2):
        assert not (await backend.presence.release("alice", ConnectionId("n1.1"))).left
    assert await holders(backend) == ["n2.1"]


# Visits: what is to be reported stays noted until it is confirmed


async def test_claim_that_is_repeated_is_the_first_until_that_is_confirmed(backend: Backend) -> None:
    answers = [await backend.presence.claim(claim("n1.1")) for _ in range(2)]
    await backend.presence.reported(presence("n1.1"), "joined")
    answers.append(await backend.presence.claim(claim("n1.1")))
    assert [answer.first for answer in answers] == [True, True, False]


async def test_release_that_is_repeated_has_the_same_answer_until_that_is_confirmed(backend: Backend) -> None:
    await backend.presence.claim(claim("n1.1"))
    await backend.presence.reported(presence("n1.1"), "joined")
    gone = [await backend.presence.release("alice", ConnectionId("n1.1")) for _ in range(2)]
    assert gone == [Removed(was_there=True, joined="", left=visit_of("n1.1"))] * 2
    await backend.presence.reported(presence("n1.1"), "left")
    gone = [await backend.presence.release("alice", ConnectionId("n1.1"))]
    assert gone == [Removed(was_there=False, joined="", left="")]


async def test_beginnings_of_many_visits_and_stays_are_confirmed_together(backend: Backend) -> None:
    names = [f"client {number}" for number in range(20)]
    claims = [
        replace(claim(f"n1.{number}"), client_id=name, entry=b"{}") for number, name in enumerate(names)
    ]
    visits = [IndexEntry(each.connection_id, each.client_id, None) for each in claims]
    stays = [replace(visit, room=f"room {number % 3}", stay=7) for number, visit in enumerate(visits)]
    assert all([(await backend.presence.claim(each)).first for each in claims])
    assert all([await backend.rooms.join(stay) for stay in stays])
    await backend.presence.begun([*visits[1:], *stays[1:]])
    firsts = [(await backend.presence.claim(each)).first for each in claims]
    joined = [await backend.rooms.join(stay) for stay in stays]
    assert firsts == joined == [True] + [False] * 19, "the first ones were not confirmed"


async def test_release_that_is_repeated_is_not_the_last_because_the_client_left_meanwhile(
    backend: Backend,
) -> None:
    for connection_id in ("n1.1", "n2.1"):
        await backend.presence.claim(claim(connection_id))
    await backend.presence.release("alice", ConnectionId("n1.1"))
    assert (await backend.presence.release("alice", ConnectionId("n2.1"))).left == visit_of("n1.1")
    again = await backend.presence.release("alice", ConnectionId("n1.1"))
    assert (again.was_there, again.left) == (True, "")


async def test_release_that_is_repeated_is_the_last_though_the_client_came_back(backend: Backend) -> None:
    await backend.presence.claim(claim("n1.1"))
    await backend.presence.release("alice", ConnectionId("n1.1"))
    assert (await backend.presence.claim(claim("n2.1"))).first
    assert (await backend.presence.release("alice", ConnectionId("n1.1"))).left == visit_of("n1.1")


async def test_release_names_a_join_that_nothing_confirmed(backend: Backend) -> None:
    await backend.presence.claim(claim("n1.1"))
    assert (await backend.presence.release("alice", ConnectionId("n1.1"))).joined


@pytest.mark.parametrize("way", ["claim", "claim_if_free"])
async def test_visit_goes_on_with_every_further_connection(backend: Backend, way: str) -> None:
    enter = getattr(backend.presence, way)
    visits = [(await enter(claim(f"n{number}.1", top=3))).visit for number in (1, 2, 3)]
    await backend.presence.release("alice", ConnectionId("n1.1"))
    visits += [entry.visit for entry in (await backend.presence.entries(["alice"]))[0]]
    assert visits == [visit_of("n1.1")] * 5


async def test_visit_goes_on_under_a_new_id_of_its_socket(backend: Backend) -> None:
    before = await backend.presence.claim(claim("n1.1"))
    again = await backend.presence.claim(replace(claim("n9.1", stamp=before.stamp), replaces="n1.1"))
    assert (again.visit, again.first) == (before.visit, False)


async def test_visit_that_the_store_lost_goes_on_and_is_not_the_first(backend: Backend) -> None:
    lost = replace(claim("n9.1", stamp=1_000), visit=visit_of("n1.1"))
    answer = await backend.presence.claim(lost)
    assert (answer.visit, answer.first) == (visit_of("n1.1"), False)


async def test_visit_that_another_claim_began_is_not_replaced_by_a_lost_one(backend: Backend) -> None:
    await backend.presence.claim(claim("n2.1"))
    assert (await backend.presence.claim(replace(claim("n9.1"), visit=visit_of("n1.1")))).visit == visit_of(
        "n2.1"
    )


async def test_connections_of_the_dead_hold_no_place_and_the_visit_goes_on(backend: Backend) -> None:
    await backend.presence.claim_if_free(claim("n1.1"))
    claimed = await backend.presence.claim_if_free(claim("n2.1"), [ConnectionId("n1.1")])
    assert (bool(claimed.stamp), claimed.first, claimed.visit) == (True, False, visit_of("n1.1"))
    assert await holders(backend) == ["n2.1", "n1.1"]
    assert not (await backend.presence.release("alice", ConnectionId("n1.1"))).left


async def test_the_index_has_a_claim_before_it_is_answered_and_until_it_is_forgotten(
    backend: Backend,
) -> None:
    line = IndexEntry(ConnectionId("n1.1"), "alice", None)
    await backend.presence.claim(claim("n1.1"))
    assert await lines(backend, N1) == {line}
    await backend.presence.release("alice", line.connection_id)
    assert await lines(backend, N1) == {line}
    await backend.nodes.forget(N1, [line])
    assert await lines(backend, N1) == set()


async def test_redis_sees_the_index_written_before_the_entry(redis_row: RedisServer, namespace: str) -> None:
    backend = RedisBackend(
        WebSocketConfig(redis_url=redis_row.url, namespace=namespace), watcher(), Counters()
    )
    await backend.start(N1)
    async with redis.asyncio.Redis.from_url(redis_row.url) as client, client.monitor() as monitor:
        await backend.presence.claim(claim("n1.1"))
        await backend.presence.claim_if_free(claim("n1.2", "bob"))
        await backend.rooms.join(place("n1.1"))
        await client.echo("end")
        commands = await commands_until(monitor, "ECHO end")
    await backend.stop()
    keys = [command.partition(f"{namespace}:")[2] for command in commands if namespace in command]
    kinds = [re.split("[: ]", key)[1] for key in keys]
    assert kinds == ["connections", "client", "connections", "client", "memberships", "room"]


async def commands_until(monitor: redis.asyncio.client.Monitor, last: str) -> list[str]:
    """Return what clients sent (not what scripts called) up to the command ``last``."""
    seen: list[str] = []
    async for command in monitor.listen():
        if command["command"] == last:
            break
        if command["client_type"] != "lua":
            seen.append(command["command"])
    return seen


async def test_names_cannot_collide_or_match_one_another(backend: Backend) -> None:
    for number, name in enumerate(AWKWARD_NAMES):
        await backend.presence.claim(claim(f"n1.{number}", name))
    found = await backend.presence.entries(AWKWARD_NAMES)
    assert [[entry.connection_id for entry in entries] for entries in found] == [
        [f"n1.{number}"] for number in range(len(AWKWARD_NAMES))
    ]
    indexed = {(line.connection_id, line.client_id) for line in await lines(backend, N1)}
    assert indexed == {(f"n1.{number}", name) for number, name in enumerate(AWKWARD_NAMES)}


async def test_a_claim_with_an_old_stamp_takes_the_place_of_every_former_id_of_its_socket(
    backend: Backend,
) -> None:
    first = await backend.presence.claim(claim("n1.1"))
    # Claimed again, and Redis was lost before the answer came; so again, under one more id.
    await backend.presence.claim(claim("n2.1", stamp=first.stamp))
    again = await backend.presence.claim(claim("n3.1", stamp=first.stamp))
    repeated = await backend.presence.claim(claim("n3.1", stamp=first.stamp))
    assert (again.stamp, again.others, repeated.others) == (first.stamp, (), ())
    assert await holders(backend) == ["n3.1"]


# Sessions: a connection that continues a session takes the place of the former connection


def continued(
    connection_id: str, sid: str, former: str = "", *, top: int = 1, stamp: int = 0, replaces: str = ""
) -> Claim:
    entry = json.dumps({**succession(sid, former), "since": 0}, separators=(",", ":")).encode()
    return Claim("alice", ConnectionId(connection_id), top, entry, stamp, replaces, sid=sid, former=former)


async def test_claim_supersedes_the_former_connection_and_displaces_no_other(backend: Backend) -> None:
    for name in ("healthy", "own", "other"):
        await backend.presence.claim(continued(f"n1.{name}", name, top=3))
    claimed = await backend.presence.claim(continued("n2.own", "own-2", "own", top=3))
    assert (claimed.superseded, claimed.others) == (("n1.own",), ())
    assert await holders(backend) == ["n2.own", "n1.other", "n1.healthy", "n1.own"]


async def test_claim_with_a_limit_of_one_supersedes_and_displaces_at_the_same_time(backend: Backend) -> None:
    await backend.presence.claim(continued("n1.1", "s1"))
    await backend.presence.claim(continued("n1.2", "s2"))
    claimed = await backend.presence.claim(continued("n2.1", "s3", "s1"))
    assert (claimed.superseded, claimed.others) == (("n1.1",), ("n1.2",))


async def test_visit_goes_on_when_a_connection_is_superseded(backend: Backend) -> None:
    before = await backend.presence.claim(continued("n1.1", "s1"))
    after = await backend.presence.claim(continued("n2.1", "s2", "s1"))
    assert (after.visit, after.first) == (before.visit, False)
    assert not (await backend.presence.release("alice", ConnectionId("n1.1"))).left
    assert (await backend.presence.release("alice", ConnectionId("n2.1"))).left == before.visit


async def test_claim_shows_whether_the_client_may_have_left_a_session(backend: Backend) -> None:
    presence, session = backend.presence, SessionName("alice", "s1", ConnectionId("n1.1"))
    assert not (await presence.claim(continued("n1.1", "s1", top=9))).has_left
    assert not (await presence.claim(continued("n2.1", "s2", "s1", top=9))).has_left
    assert not (await presence.claim_if_free(continued("n2.2", "s3", "s1", top=9))).has_left
    await backend.sessions.begin(session)
    assert (await presence.claim(continued("n2.3", "s4", "s1", top=9))).has_left
    claimed = await presence.claim_if_free(continued("n2.4", "s5", "s1", top=9))
    assert (claimed.has_left, set(claimed.superseded)) == (True, {"n1.1"})
    assert not (await presence.claim(continued("n2.5", "s6", top=9))).has_left, "it continues none"
    await backend.sessions.release(session, 0)
    assert not (await presence.claim(continued("n2.6", "s7", "s1", top=9))).has_left


async def test_session_that_no_connection_has_supersedes_nothing(backend: Backend) -> None:
    await backend.presence.claim(continued("n1.1", "s1", top=2))
    await backend.presence.claim(claim("n1.2", top=2))
    claimed = await backend.presence.claim(continued("n2.1", "s3", "unknown", top=2))
    assert (claimed.superseded, claimed.others) == ((), ("n1.1",))


async def test_metadata_cannot_pass_for_a_session(backend: Backend) -> None:
    forged = json.dumps({"metadata": succession("s1", "s9")}, separators=(",", ":")).encode()
    await backend.presence.claim(replace(claim("n1.1", top=2), entry=forged))
    claimed = await backend.presence.claim(continued("n2.1", "s2", "s1", top=2))
    assert (claimed.superseded, claimed.others) == ((), ())


@pytest.mark.parametrize("order", [*permutations(range(3))])
@pytest.mark.parametrize("top", [1, 2, 3])
async def test_claims_of_successive_sessions_commute_and_may_be_repeated(
    backend: Backend, order: tuple[int, ...], top: int
) -> None:
    chain = [
        continued("n1.1", "s1", top=top, stamp=1_000),
        continued("n2.1", "s2", "s1", top=top, stamp=2_000),
        continued("n3.1", "s3", "s2", top=top, stamp=3_000),
    ]
    await backend.presence.claim(continued("n9.1", "other", top=top, stamp=500))
    answers = {}
    for number in (*order, *order):
        answers[number] = await backend.presence.claim(chain[number])
    found = await holders(backend)
    assert found[:2] == ["n3.1", "n9.1"]
    assert sorted(found[2:]) == ["n1.1", "n2.1"]
    assert answers[2].superseded == ("n2.1",)
    assert list(answers[2].others) == ["n9.1", "n1.1"][top - 1 :]
    assert "n1.1" in answers[0].others
    assert "n2.1" in answers[1].others
    assert answers[1].superseded == ("n1.1",)


async def test_superseded_connection_under_a_new_id_stays_behind_its_successor(backend: Backend) -> None:
    old = await backend.presence.claim(continued("n1.1", "s1", top=2))
    await backend.presence.claim(continued("n2.1", "s2", "s1", top=2))
    again = await backend.presence.claim(continued("n8.1", "s1", top=2, stamp=old.stamp, replaces="n1.1"))
    assert again.others == ("n8.1",)
    assert await holders(backend) == ["n2.1", "n8.1"]


async def test_full_client_may_continue_its_session_and_nothing_else(backend: Backend) -> None:
    for number in (1, 2):
        assert (await backend.presence.claim_if_free(continued(f"n1.{number}", f"s{number}", top=2))).stamp
    refused = await backend.presence.claim_if_free(continued("n2.1", "s3", "unknown", top=2))
    assert (refused.stamp, set(refused.others)) == (0, {"n1.1", "n1.2"})
    for _ in range(2):
        claimed = await backend.presence.claim_if_free(continued("n2.1", "s3", "s1", top=2))
        assert (bool(claimed.stamp), claimed.superseded, claimed.others) == (True, ("n1.1",), ())
    assert await holders(backend) == ["n2.1", "n1.2", "n1.1"]
    again = await backend.presence.claim_if_free(continued("n3.1", "s4", "s1", top=2))
    assert (bool(again.stamp), set(again.others)) == (False, {"n1.2", "n2.1"})


async def test_direct_messages_go_to_the_successor_and_not_to_the_superseded_one(open_peer: OpenPeer) -> None:
    old, new = await open_peer("n1"), await open_peer("n2")
    await old.backend.presence.claim(continued("n1.1", "s1", top=2))
    await new.backend.presence.claim(continued("n2.5", "s5", top=2))
    await new.backend.presence.claim(continued("n2.1", "s2", "s1", top=2))
    outgoing = Outgoing(NodeId("n2"))
    part = Part(["alice"], Form.TEXT, "hello")
    assert await new.backend.bus.publish_clients(outgoing.direct([part]), 2) == [["n2"]]


async def test_entry_is_replaced_and_the_rank_stays(backend: Backend) -> None:
    older = await backend.presence.claim(claim("n1.1", top=2))
    await backend.presence.claim(claim("n1.2", top=2))
    assert await backend.presence.update("alice", ConnectionId("n1.1"), b'{"a b": 1}')
    (entries,) = await backend.presence.entries(["alice"])
    found = {entry.connection_id: (entry.stamp, entry.entry, entry.visit) for entry in entries}
    assert found[ConnectionId("n1.1")] == (older.stamp, b'{"a b": 1}', older.visit)
    assert found[ConnectionId("n1.2")][1] == b"n1.2"


async def test_entry_that_is_gone_is_not_replaced(backend: Backend) -> None:
    assert not await backend.presence.update("alice", ConnectionId("n1.1"), b"{}")
    await backend.presence.claim(claim("n1.1"))
    await backend.presence.release("alice", ConnectionId("n1.1"))
    assert not await backend.presence.update("alice", ConnectionId("n1.1"), b"{}")
    assert await holders(backend) == []
