"""``ports.NodeStore`` on every backend: leases, fences and the index, by the store's own clock."""

import asyncio
from dataclasses import replace

from fastapi_websocket_stabilizer.backends.ports import Backend, IndexEntry, Renewal
from fastapi_websocket_stabilizer.backends.rosters import Shown
from fastapi_websocket_stabilizer.names import ConnectionId, NodeId
from fastapi_websocket_stabilizer.wire.outgoing import Outgoing
from fastapi_websocket_stabilizer.wire.tokens import sha1
from tests.contract.conftest import OpenPeer
from tests.contract.support import claim, lines, place
from tests.support.waiting import eventually

N1, N2 = NodeId("n1"), NodeId("n2")
LONG_MS = 60_000
SHORT_MS = 50


async def look(backend: Backend) -> Renewal:
    """Ask who lives without being anybody."""
    return await backend.nodes.renew(NodeId("nobody"), b"", LONG_MS)


async def lapse(backend: Backend, node: NodeId) -> None:
    """Give a node a lease and wait until it has lapsed."""
    await backend.nodes.register(node, b"", SHORT_MS)

    async def has_lapsed() -> bool:
        return node in (await look(backend)).lapsed

    await eventually(has_lapsed, timeout_s=2)


async def test_a_registered_node_lives_for_its_lease(backend: Backend) -> None:
    await backend.nodes.register(N1, b"info", LONG_MS)
    renewal = await look(backend)
    assert LONG_MS - 5_000 < renewal.live[N1] <= LONG_MS
    assert renewal.lapsed == ()


async def test_live_nodes_are_listed_with_the_time_left(backend: Backend) -> None:
    assert await backend.nodes.live() == {}
    await lapse(backend, N1)
    await backend.nodes.register(N2, b"", LONG_MS)
    live = await backend.nodes.live()
    assert list(live) == [N2]
    assert LONG_MS - 5_000 < live[N2] <= LONG_MS


async def test_listing_live_nodes_neither_extends_nor_sweeps(backend: Backend) -> None:
    await lapse(backend, N1)
    await backend.nodes.register(N2, b"", 5_000)
    first = (await backend.nodes.live())[N2]
    assert (await backend.nodes.live())[N2] <= first <= 5_000
    assert (await look(backend)).lapsed == (N1,)


async def test_fenced_node_is_not_live(backend: Backend) -> None:
    await backend.nodes.register(N1, b"", LONG_MS)
    await backend.nodes.abandon(N1, LONG_MS)
    assert await backend.nodes.live() == {}


async def test_every_node_is_told_the_same_epoch(open_peer: OpenPeer) -> None:
    peers = [await open_peer(f"n{number}") for number in range(3)]
    epochs = {(await look(peer.backend)).epoch for peer in peers for _ in range(2)}
    assert len(epochs) == 1
    assert epochs != {""}


async def test_renewing_extends_a_held_lease_and_the_info(backend: Backend) -> None:
    await backend.nodes.register(N1, b"old", 5_000)
    renewal = await backend.nodes.renew(N1, b"new", LONG_MS)
    assert renewal.held
    assert renewal.live[N1] > 5_000
    assert await backend.nodes.infos([N1]) == [(b"new", 0)]


async def test_a_lease_that_lasts_too_long_is_shortened_and_no_other(backend: Backend) -> None:
    await backend.nodes.register(N1, b"", LONG_MS)
    assert not await backend.nodes.shorten(N1, 2 * LONG_MS)
    assert (await look(backend)).live[N1] > LONG_MS - 5_000
    assert await backend.nodes.shorten(N1, 1_000)
    assert (await look(backend)).live[N1] <= 1_000
    assert not await backend.nodes.shorten(NodeId("unknown"), 1_000)
    assert list((await look(backend)).live) == [N1]


async def test_a_beat_tells_whether_the_store_has_the_secret(backend: Backend) -> None:
    assert (await look(backend)).secret == ""
    secret = await backend.tokens.share_secret(b"one")
    assert (await look(backend)).secret == sha1(secret)


async def test_a_node_that_never_registered_holds_no_lease(backend: Backend) -> None:
    renewal = await backend.nodes.renew(N1, b"", LONG_MS)
    assert renewal == Renewal(held=False, live={}, lapsed=())


async def test_a_lapsed_lease_cannot_be_renewed(backend: Backend) -> None:
    await lapse(backend, N1)
    renewal = await backend.nodes.renew(N1, b"", LONG_MS)
    assert renewal == Renewal(held=False, live={}, lapsed=(N1,))


async def test_a_living_node_cannot_be_fenced(backend: Backend) -> None:
    await backend.nodes.register(N1, b"", LONG_MS)
    assert not await backend.nodes.fence(N1, LONG_MS)
    assert (await backend.nodes.renew(N1, b"", LONG_MS)).held


async def test_an_unknown_node_cannot_be_fenced(backend: Backend) -> None:
    assert not await backend.nodes.fence(N1, LONG_MS)


async def test_one_of_many_sweepers_gets_a_lapsed_node(open_peer: OpenPeer) -> None:
    peers = [await open_peer(f"s{i}") for i in range(4)]
    await lapse(peers[0].backend, N1)
    took = await asyncio.gather(*(peer.backend.nodes.fence(N1, LONG_MS) for peer in peers))
    assert sum(took) == 1


async def test_a_fenced_node_is_neither_alive_nor_to_be_swept_and_cannot_renew(backend: Backend) -> None:
    await lapse(backend, N1)
    await backend.nodes.fence(N1, LONG_MS)
    assert await backend.nodes.renew(N1, b"", LONG_MS) == Renewal(held=False, live={}, lapsed=())


async def test_a_node_whose_sweeper_died_can_be_fenced_again(backend: Backend) -> None:
    await lapse(backend, N1)
    await backend.nodes.fence(N1, SHORT_MS)

    async def is_free_again() -> bool:
        return N1 in (await look(backend)).lapsed

    await eventually(is_free_again, timeout_s=2)
    assert await backend.nodes.fence(N1, LONG_MS)


async def test_a_fence_is_extended(backend: Backend) -> None:
    await lapse(backend, N1)
    await lapse(backend, N2)
    for node in (N1, N2):
        await backend.nodes.fence(node, SHORT_MS)
    await backend.nodes.extend_fence(N1, LONG_MS)

    async def other_fence_lapsed() -> bool:
        return N2 in (await look(backend)).lapsed

    await eventually(other_fence_lapsed, timeout_s=2)
    assert not await backend.nodes.fence(N1, LONG_MS)


async def test_extending_a_fence_that_is_gone_does_not_bring_it_back(backend: Backend) -> None:
    await lapse(backend, N1)
    await backend.nodes.fence(N1, LONG_MS)
    await backend.nodes.retire(N1)
    await backend.nodes.extend_fence(N1, SHORT_MS)
    await lapse(backend, N2)
    assert (await look(backend)).lapsed == (N2,)


async def test_infos_count_connections_and_not_their_rooms(backend: Backend) -> None:
    await backend.nodes.register(N1, b"one", LONG_MS)
    await backend.presence.claim(claim("n1.1"))
    await backend.rooms.join(place("n1.1"))
    assert await backend.nodes.infos([N1, N2]) == [(b"one", 1), (None, 0)]


async def test_the_info_ends_with_the_lease(backend: Backend) -> None:
    await lapse(backend, N1)
    live = (await look(backend)).live
    assert await backend.nodes.infos(list(live)) == []


async def test_an_index_is_read_whole_and_forgotten_line_by_line(backend: Backend) -> None:
    for number in range(700):
        await backend.presence.claim(claim(f"n1.{number}", f"client {number}"))
    in_a_room = place("n1.1", "a room", "client 1")
    await backend.rooms.join(in_a_room)
    expected = {IndexEntry(ConnectionId(f"n1.{i}"), f"client {i}", None) for i in range(700)}
    assert await lines(backend, N1) == {*expected, in_a_room}
    gone = [*list(expected)[:650], in_a_room]
    await backend.nodes.forget(N1, gone)
    assert await lines(backend, N1) == expected - set(gone)


async def test_forgetting_nothing_is_allowed(backend: Backend) -> None:
    await backend.nodes.forget(N1, [])
    assert await lines(backend, N1) == set()


async def test_retiring_drops_lease_info_and_index(backend: Backend) -> None:
    await backend.nodes.register(N1, b"one", LONG_MS)
    await backend.presence.claim(claim("n1.1"))
    await backend.rooms.join(place("n1.1"))
    await backend.nodes.retire(N1)
    assert await look(backend) == Renewal(held=False, live={}, lapsed=())
    assert await backend.nodes.infos([N1]) == [(None, 0)]
    assert await lines(backend, N1) == set()


async def test_retiring_drops_a_fence(backend: Backend) -> None:
    await lapse(backend, N1)
    await backend.nodes.fence(N1, SHORT_MS)
    await backend.nodes.retire(N1)
    await lapse(backend, N2)
    assert (await look(backend)).lapsed == (N2,)


async def test_a_node_id_that_was_given_up_is_swept_whether_or_not_its_lease_is_known(
    backend: Backend,
) -> None:
    await backend.nodes.register(N1, b"{}", 60_000)
    assert await backend.nodes.abandon(N1, 60_000)
    assert await backend.nodes.abandon(N2, 60_000)
    renewal = await backend.nodes.renew(N1, b"{}", 60_000)
    assert (renewal.held, N1 in renewal.live) == (False, False)


async def test_a_node_id_that_another_sweeps_is_not_given_twice(backend: Backend) -> None:
    answers = [await backend.nodes.abandon(N1, 60_000) for _ in range(2)]
    assert answers == [True, False]


async def test_the_index_tells_one_stay_in_a_room_from_the_next(backend: Backend) -> None:
    for stay in (1, 2):
        await backend.rooms.join(place("n1.1", stay=stay))
    found, _ = await backend.nodes.memberships(N1, "", 10)
    assert [(line.room, line.client_id, line.stay) for line in found] == [("lobby", "alice", 2)]


async def test_the_index_has_the_name_of_a_stay_that_began_under_another_id(backend: Backend) -> None:
    continued = replace(place("n1.2", "lobby", stay=4), visit="n0.7:4")
    named = Shown("lobby", "alice", ConnectionId("n1.2"), 4, "n0.7:4")
    await backend.rooms.join(continued, replaces="n0.7", is_known=True)
    assert [(line.stay, line.visit) for line in await lines(backend, N1)] == [(4, "n0.7:4")]
    await backend.rosters.enter(named, b"{}", Outgoing(N1).presence("lobby", '["alice", {}]'))
    assert [(line.stay, line.visit) for line in await lines(backend, N1)] == [(4, "n0.7:4")]
