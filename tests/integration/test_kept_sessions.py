"""Sessions of ``stabilizer.v1`` on a real Redis: they outlive sockets and processes, and presence follows."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

from tests.integration.cluster import Replica
from tests.integration.test_sessions import V1, close_of, coded, heard, say
from tests.support.waiting import eventually


@asynccontextmanager
async def opened(
    replica: Replica, client_id: str, after: str = ""
) -> AsyncIterator[tuple[ClientConnection, dict[str, Any]]]:
    """Connect, perhaps after the session ``after``, and return the client with the content of its first frame."""
    items = [V1]
    if after:
        items.append(f"{V1}.resume.{coded(json.dumps({'s': after, 't': 1, 'at': {}}))}")
    url = f"ws://127.0.0.1:{replica.port}/identified/{client_id}"
    subprotocols = [Subprotocol(item) for item in items]
    async with connect(url, subprotocols=subprotocols, proxy=None, close_timeout=1) as client:
        hi = (await heard(client))["hi"]
        assert await heard(client) == {"live": 0}
        yield client, hi


async def test_session_outlives_a_killed_process(replicas: list[Replica]) -> None:
    first, second, _ = replicas
    async with opened(first, "ann") as (client, hi):
        for room in ("lobby", "vip"):
            await second.call("join", client_id="ann", room=room)
            assert (await heard(client))["in"] == room
        await say(client, {"m": "hello", "n": 1})
        assert await heard(client) == [0, 0, "hello"]
        assert await heard(client) == {"n": 1}
        await first.call("room_members", room="lobby")  # Redis answers it after the command for the mark
        first.process.kill()
        await second.call("leave", client_id="ann", room="vip")
    async with opened(second, "ann", hi["sid"]) as (_, again):
        assert (again["n"], sorted(again["at"])) == (1, ["lobby"])
        assert again["sid"] != hi["sid"]
    async with opened(second, "ann", hi["sid"]) as (_, third):
        assert ("n" in third, third["at"]) == (False, {})


async def test_socket_that_is_half_open_gives_way_to_its_successor(replicas: list[Replica]) -> None:
    first, second, _ = replicas
    async with opened(first, "bob") as (old, hi), opened(second, "bob", hi["sid"]) as (new, again):
        code, reason = await close_of(old)
        assert (code, json.loads(reason or "")) == (4500, {"by": again["sid"]})
        await say(new, {"ping": 1})
        assert await heard(new) == {}


async def test_watcher_sees_members_of_other_replicas_until_they_are_swept(replicas: list[Replica]) -> None:
    first, second, third = replicas
    room = "stage-1"
    async with opened(first, "ann") as (client, _), opened(second, "bob"), opened(third, "carol"):
        for name in ("ann", "bob", "carol"):
            await first.call("join", client_id=name, room=room)
        assert (await heard(client))["in"] == room
        await say(client, {"p": room, "v": 0})
        frame = await heard(client)
        members = dict(frame["="])
        while set(members) != {"ann", "bob", "carol"}:
            frame = await heard(client)
            members |= dict(frame.get("+", ()))
        second.process.kill()
        frame = await heard(client)
        assert frame == {"p": room, "v": frame["v"], "-": ["bob"]}
        await third.call("leave", client_id="carol", room=room)
        assert await heard(client) == {"p": room, "v": frame["v"] + 1, "-": ["carol"]}

    async def nobody_is_left() -> bool:
        members: list[str] = await first.call("room_members", room=room)
        return not members

    await eventually(nobody_is_left)
