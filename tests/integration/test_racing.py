"""Many sockets claim one client id at the same moment: one stays open, and everybody knows which."""

import asyncio
import json
from contextlib import AsyncExitStack

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from tests.integration.cluster import REPLACED, Client, Managers, Replica, Socket, register
from tests.support.waiting import eventually

CLAIMS = 9
ROUNDS = 50


async def claim_at_once(replicas: list[Replica], client_id: str, stack: AsyncExitStack) -> list[Client]:
    enter = stack.enter_async_context
    return await asyncio.gather(*(enter(replicas[n % 3].client(client_id)) for n in range(CLAIMS)))


async def only_open(clients: list[Client]) -> Client:
    """Return the one client that is left when all others were told that they were replaced."""
    await eventually(lambda: sum(client.is_open for client in clients) <= 1, what="one open socket")
    (winner,) = [client for client in clients if client.is_open]
    assert {client.closed_with for client in clients if client is not winner} == {REPLACED}
    return winner


async def test_nine_simultaneous_claims_leave_one_socket_that_every_replica_reaches(
    replicas: list[Replica],
) -> None:
    for number in range(ROUNDS):
        client_id = f"racer-{number}"
        async with AsyncExitStack() as stack:
            clients = await claim_at_once(replicas, client_id, stack)
            winner = await only_open(clients)
            await winner.greeted()  # a client can be reached before its own handler has come so far
            known = await asyncio.gather(
                *(replica.call("presence", client_id=client_id) for replica in replicas)
            )
            assert known[0] == known[1] == known[2]
            assert len(known[0]) == 1
            for name, replica in enumerate(replicas):
                assert await replica.call("send_to_client", client_id=client_id, message=f"from {name}")
            await hears_in_any_order(winner, "registered", "from 0", "from 1", "from 2")


async def hears_in_any_order(client: Client, *messages: str) -> None:
    """Wait until a client has received exactly ``messages``.

    What its own replica sends does not wait for what others have published.
    """
    await eventually(lambda: sorted(client.received) == sorted(messages), what=f"{messages} once")


async def handshake(replica: Replica, path: str, stack: AsyncExitStack) -> tuple[int, str]:
    """Connect, stay until the stack ends, and return the status and reason of the answer."""
    url = f"ws://127.0.0.1:{replica.port}/{path}"
    try:
        await stack.enter_async_context(connect(url, proxy=None, ping_interval=None, close_timeout=1))
    except InvalidStatus as error:
        body = error.response.body
        return error.response.status_code, json.loads(body)["detail"] if body else ""
    return 101, ""


@pytest.mark.parametrize("way", ["identified", "served", "block", "connect"])
async def test_a_claim_that_is_outrun_before_accept_is_refused_with_409(
    replicas: list[Replica], way: str
) -> None:
    outrun = 0
    for number in range(ROUNDS):
        path = f"{way}/outrun-{number}"
        async with AsyncExitStack() as stack:
            answers = await asyncio.gather(*(handshake(replicas[n % 3], path, stack) for n in range(CLAIMS)))
        assert {status for status, _ in answers} <= {101, 409}
        reasons = {reason for status, reason in answers if status == 409}
        assert reasons <= {
            f"a newer connection of client 'outrun-{number}' took over before this one was accepted"
        }
        outrun += len(reasons)
        if outrun >= 3:
            return
    raise AssertionError("no claim was outrun before accept")


async def test_after_a_race_exactly_one_entry_is_left_in_redis(managers: Managers) -> None:
    nodes = await managers.start_many(3)
    sockets = [Socket() for _ in range(CLAIMS)]
    await asyncio.gather(*(register(nodes[n % 3], "racer", socket) for n, socket in enumerate(sockets)))
    await eventually(lambda: sum(socket.is_open for socket in sockets) == 1)

    async def count_is_one() -> bool:
        return await nodes[0].cluster_connection_count() == 1

    await eventually(count_is_one, what="the displaced were released")
    assert sum(node.get_connection_count() for node in nodes) == 1
