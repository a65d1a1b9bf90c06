"""What broke other clients: one test for each rule that a client must survive, on real sockets."""

import asyncio
import json
from base64 import urlsafe_b64decode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from clients.python.tests.scripted import Peer, Scripted, scripted
from tests.support.waiting import eventually

from fastapi_websocket_stabilizer_client import Client, Lost, Message, Status


@asynccontextmanager
async def connected(**options: Any) -> AsyncIterator[tuple[Client, Scripted, Peer]]:
    """Yield a client that is live, its server, and the server's end of the connection."""
    async with scripted() as server:
        greeting = asyncio.create_task(server.greeted())
        async with Client(server.url, proxy=None, **options) as client:
            yield client, server, await greeting


def cursor(peer: Peer) -> Any:
    """Return the cursor in the header of a connection, or None."""
    prefix = "stabilizer.v1.resume."
    coded = [item.removeprefix(prefix) for item in peer.items if item.startswith(prefix)]
    return json.loads(urlsafe_b64decode(coded[0] + "=" * (-len(coded[0]) % 4))) if coded else None


async def test_handler_that_reconnects_sees_each_message_once() -> None:
    seen = []
    async with connected() as (client, server, peer):

        @client.room("a").on
        def note(message: Message) -> None:
            seen.append(message.data)
            if message.data == 2:
                client.reconnect()

        await peer.send([1, "a", 1], [2, "a", 2])
        following = await server.peer()
        assert cursor(following)["at"] == {"a": 2}
        await following.greet("s2", re=True, at={"a": 2})
        assert await peer.ended() == 1000
        await following.send([3, "a", 3])
        await eventually(lambda: seen == [1, 2, 3])


async def test_position_moves_before_the_handler_runs() -> None:
    async with connected() as (client, server, peer):
        client.room("a").on(lambda _: client.reconnect())
        await peer.send([7, "a", "once"])
        assert cursor(await server.peer())["at"] == {"a": 7}


async def test_handler_may_join_another_room() -> None:
    seen = []
    async with connected() as (client, _, peer):

        @client.room("a").on
        async def enter(message: Message) -> None:
            await client.join("other")
            seen.append(message.data)

        await peer.send([1, "a", "x"])
        assert await peer.receive() == {"join": "other", "q": 1}
        assert seen == []
        await peer.send({"in": "other", "at": 0}, {"a": 1, "d": None})
        await eventually(lambda: seen == ["x"])
        assert client.rooms == {"a", "other"}


async def test_handler_that_leaves_its_room_is_not_called_again() -> None:
    seen = []
    async with connected() as (client, _, peer):
        room = client.room("a")

        @room.on
        async def note(message: Message) -> None:
            seen.append(message.data)
            room.off(note)
            await client.leave("a")

        await peer.send([1, "a", 1])
        assert await peer.receive() == {"leave": "a", "q": 1}
        await peer.send([2, "a", 2], {"out": "a"}, {"a": 1, "d": None})
        await eventually(lambda: not client.rooms)
        assert seen == [1]


async def test_close_event_that_comes_twice_leads_to_one_attempt() -> None:
    async with connected() as (client, server, peer):
        runner = client._runner
        peer.abort()
        following = await server.greeted("s2", re=True)
        await client.wait_for(Status.LIVE)
        for code in (1006, 4500):
            runner.ended(1, code, "")  # of the first socket, once more
        assert client.status is Status.LIVE
        await following.send([1, "a", "x"])
        assert await anext(aiter(client)) == Message("a", 1, "x")
        assert server._peers.empty()


async def test_close_event_that_never_comes_keeps_nothing_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    async with connected() as (client, server, _):
        monkeypatch.setattr(client._runner, "ended", lambda *_: None)
        client.reconnect()
        await server.greeted("s2", re=True)
        await client.wait_for(Status.LIVE)
        monkeypatch.undo()


async def test_token_that_comes_after_close_opens_no_socket() -> None:
    asked, given = asyncio.Event(), asyncio.Event()

    async def auth() -> str:
        asked.set()
        while not given.is_set():  # a function that does not end when it is cancelled
            try:
                await given.wait()
            except asyncio.CancelledError:
                continue
        return "late"

    async with scripted() as server:
        client = Client(server.url, proxy=None, auth=auth)
        opening = asyncio.create_task(client.__aenter__())
        await asked.wait()
        closing = asyncio.create_task(client.close())
        await client.wait_for(Status.CLOSED)
        given.set()
        await closing
        opening.cancel()
        await asyncio.wait([opening])
        assert client.status is Status.CLOSED
        assert (client._runner._sockets, server._peers.empty()) == ({}, True)


async def test_resume_without_a_message_is_whole() -> None:
    events: list[Message | Lost] = []
    async with connected() as (client, server, peer):
        client.on(events.append)
        client.on_lost(events.append)
        peer.abort()
        following = await server.greeted("s2", re=True)
        await client.wait_for(Status.LIVE)
        await following.send([1, "a", "next"])
        await eventually(lambda: events == [Message("a", 1, "next")])
