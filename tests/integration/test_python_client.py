"""The Python client with replicas in processes: messages, calls, a replica that is killed, and one that drains."""

import asyncio
from typing import Any

import pytest

from fastapi_websocket_stabilizer import RequestFailedError as AskedInVainError
from fastapi_websocket_stabilizer import RequestTimeoutError, WebSocketConnectionManager
from fastapi_websocket_stabilizer_client import (
    MAILBOX,
    Client,
    InterruptedRequestError,
    Lost,
    Message,
    RequestFailedError,
    Status,
    StatusChange,
)
from tests.integration.client_replicas import Replica, door
from tests.support.waiting import eventually


async def test_messages_and_calls_of_one_connection(endpoints: list[Replica]) -> None:
    await endpoints[0].ready()
    async with (
        door(endpoints[0]) as opened,
        Client(f"{opened.url}?name=ann&room=lobby", proxy=None) as client,
    ):
        assert client.client_id == "ann"
        assert client.rooms == {"lobby"}
        await client.send({"text": "hi"})
        await client.send(b"\x00\xff")
        await client.send("confirmed", confirm=True)
        seen = []
        async for event in client:
            assert isinstance(event, Message)
            seen.append(event.data)
            if len(seen) == 3:
                break
        assert seen == ['{"text":"hi"}', b"\x00\xff", "confirmed"]
        assert await client.request("double", 21) == 42
        for name, data, code in (
            ("double", 0, "conflict"),
            ("double", "x", "invalid"),
            ("nothing", None, "not_found"),
        ):
            with pytest.raises(RequestFailedError) as raised:
                await client.request(name, data)
            assert raised.value.code == code
        await client.join("open:1")
        assert client.rooms == {"lobby", "open:1"}
        with pytest.raises(RequestFailedError, match="forbidden"):
            await client.join("closed")
        await client.leave("open:1")
        assert client.rooms == {"lobby"}
        asking = asyncio.create_task(client.request("wait", "long"))
        await eventually(lambda: _asked(client, ["long"]))
        asking.cancel()
        await eventually(lambda: _asked(client, []))


async def test_requests_of_another_replica_are_answered(
    endpoints: list[Replica], publisher: WebSocketConnectionManager
) -> None:
    await endpoints[0].ready()
    cancelled = asyncio.Event()
    async with door(endpoints[0]) as opened, Client(f"{opened.url}?name=ann", proxy=None) as client:

        @client.on_request("confirm")
        async def confirm(data: dict[str, str]) -> bool:
            if not data["text"]:
                raise RequestFailedError("empty", "nothing to confirm", retry=True)
            return data["text"] == "sure?"

        @client.on_request("wait")
        async def wait(data: None) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()

        assert await publisher.request("ann", "confirm", {"text": "sure?"}) is True
        for name, data, code in (("confirm", {"text": ""}, "empty"), ("nothing", None, "not_found")):
            with pytest.raises(AskedInVainError) as raised:
                await publisher.request("ann", name, data)
            assert raised.value.code == code
        with pytest.raises(RequestTimeoutError):
            await publisher.request("ann", "wait", timeout=0.5)
        async with asyncio.timeout(5):
            await cancelled.wait()


async def test_members_of_a_room_are_shown_while_they_come_and_go(endpoints: list[Replica]) -> None:
    await asyncio.gather(*(replica.ready() for replica in endpoints))
    async with door(endpoints[0]) as opened, Client(f"{opened.url}?name=ann&room=lobby", proxy=None) as ann:
        lobby = ann.room("lobby")
        shown: list[set[str]] = []
        lobby.on_presence(lambda members: shown.append(set(members)))
        await eventually(lambda: shown == [{"ann"}])
        async with (
            door(endpoints[1]) as other,
            Client(f"{other.url}?name=bob&room=lobby", proxy=None) as bob,
        ):
            await eventually(lambda: set(lobby.members) == {"ann", "bob"})
            bob.reconnect()
            await bob.wait_for(Status.LIVE)
        await eventually(lambda: set(lobby.members) == {"ann"}, timeout_s=10)
        endpoints[0].process.kill()
        opened.replicas.append(endpoints[1])
        await eventually(lambda: ann.status is Status.LIVE and ann.rooms == {"lobby"}, timeout_s=10)
        async with Client(f"{opened.url}?name=eve&room=lobby", proxy=None):
            await eventually(lambda: set(lobby.members) == {"ann", "eve"}, timeout_s=10)


async def _asked(client: Client, wanted: list[str]) -> bool:
    return bool(await client.request("asked") == wanted)


async def test_client_of_a_replica_that_is_killed_goes_on_at_another(
    endpoints: list[Replica], publisher: WebSocketConnectionManager
) -> None:
    await asyncio.gather(*(replica.ready() for replica in endpoints))
    async with door(*endpoints) as opened, Client(f"{opened.url}?name=ann&room=lobby", proxy=None) as client:
        asking = asyncio.create_task(client.request("wait", "long"))
        await eventually(lambda: _asked(client, ["long"]))
        endpoints[0].process.kill()
        with pytest.raises(InterruptedRequestError):
            await asking
        await client.send("confirmed on the next replica", confirm=True)
        assert await client.request("double", 21) == 42

        async def hears() -> bool:
            await publisher.broadcast("to all", room="lobby")
            return "to all" in received

        received: list[Any] = []
        client.on(lambda message: received.append(message.data))
        await eventually(hears)


async def test_messages_that_wait_are_given_once_and_not_to_the_next_client_object(
    endpoints: list[Replica], publisher: WebSocketConnectionManager
) -> None:
    await asyncio.gather(*(replica.ready() for replica in endpoints))
    away = await publisher.send_to_client("ann", "1", store=True)
    received: list[Any] = []

    def note(message: Message) -> None:
        received.append((message.log, message.id, message.data))

    async with door(*endpoints) as opened:
        client = Client(f"{opened.url}?name=ann", proxy=None)
        client.on(note)
        async with client:
            await eventually(lambda: received == [(MAILBOX, away.id, "1")])
            endpoints[0].process.kill()
            meanwhile = await publisher.send_to_client("ann", {"number": 2}, store=True)
            await eventually(lambda: received[1:] == [(MAILBOX, meanwhile.id, {"number": 2})], timeout_s=20)
        last = await publisher.send_to_client("ann", b"3", store=True)
        page = Client(f"{opened.url}?name=ann", proxy=None)
        page.on(note)
        async with page:
            await eventually(lambda: received[2:] == [(MAILBOX, last.id, b"3")], timeout_s=20)


async def test_client_of_a_replica_that_drains_is_never_without_a_connection(
    endpoints: list[Replica],
) -> None:
    await asyncio.gather(*(replica.ready() for replica in endpoints))
    async with door(*endpoints) as opened, Client(f"{opened.url}?name=ann", proxy=None) as client:
        changes: list[StatusChange] = []
        client.on_status(changes.append)
        opened.replicas.reverse()
        stopping = asyncio.create_task(asyncio.to_thread(endpoints[0].process.stop))
        await eventually(lambda: [change.new for change in changes] == ["catching-up", "live"])
        assert await client.request("double", 21) == 42
        await stopping
        assert [change.new for change in changes] == ["catching-up", "live"]
        assert client.status is Status.LIVE


class Numbers:
    """What a client received of a log of numbers: a run without a hole, or a loss."""

    def __init__(self) -> None:
        self.last = 0
        self.lost: list[Lost] = []

    def take(self, message: Message) -> None:
        assert message.data == [self.last + 1], f"{message} came after {self.last}"
        self.last += 1

    def lose(self, lost: Lost) -> None:
        self.lost.append(lost)


async def test_client_misses_nothing_of_a_room_while_its_replica_is_killed(
    endpoints: list[Replica], publisher: WebSocketConnectionManager
) -> None:
    await asyncio.gather(*(replica.ready() for replica in endpoints))
    async with door(*endpoints) as opened, Client(f"{opened.url}?name=ann&room=chat", proxy=None) as client:
        numbers = Numbers()
        client.on(numbers.take)
        client.on_lost(numbers.lose)
        for number in range(1, 11):
            await publisher.broadcast([number], room="chat")
        endpoints[0].process.kill()
        for number in range(11, 31):
            await publisher.broadcast([number], room="chat")
        await eventually(lambda: numbers.last == 30)
        await publisher.broadcast([31], room="chat")
        await eventually(lambda: numbers.last == 31)
        assert numbers.lost == []


async def test_client_misses_nothing_of_a_room_while_replicas_drain(
    endpoints: list[Replica], publisher: WebSocketConnectionManager
) -> None:
    await asyncio.gather(*(replica.ready() for replica in endpoints))
    numbers, sent = Numbers(), 0
    async with door(*endpoints) as opened, Client(f"{opened.url}?name=ann&room=chat", proxy=None) as client:
        client.on(numbers.take)
        client.on_lost(numbers.lose)
        opened.replicas.reverse()
        stopping = asyncio.create_task(asyncio.to_thread(endpoints[0].process.stop))
        while not stopping.done():
            sent += 1
            await publisher.broadcast([sent], room="chat")
            await asyncio.sleep(0.01)
        await eventually(lambda: numbers.last == sent)
        assert numbers.lost == []
        assert sent > 10


async def test_room_that_was_trimmed_while_the_client_was_away_is_lost_before_its_next_message(
    endpoints: list[Replica], publisher: WebSocketConnectionManager
) -> None:
    await asyncio.gather(*(replica.ready() for replica in endpoints))
    async with (
        door(*endpoints) as opened,
        Client(f"{opened.url}?name=ann&room=chat:short", proxy=None) as client,
    ):
        await publisher.broadcast([1], room="chat:short")
        seen: list[Message | Lost] = []
        client.on(seen.append)
        client.on_lost(seen.append)
        await eventually(lambda: len(seen) == 1)
        client.offline()
        for number in range(2, 20):
            await publisher.broadcast([number], room="chat:short")
        client.online()
        await client.wait_for(Status.LIVE)
        await publisher.broadcast([20], room="chat:short")
        await eventually(lambda: len(seen) == 3)
        lost, message = seen[1:]
        assert isinstance(lost, Lost)
        assert isinstance(message, Message)
        assert (lost.room, lost.code, message.data) == ("chat:short", "trimmed", [20])
