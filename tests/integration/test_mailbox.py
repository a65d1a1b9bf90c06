"""Mailboxes on real servers: a client that is away gets what was stored for it, in order and once, or is told."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.typing import Subprotocol

from fastapi_websocket_stabilizer import (
    BackendUnavailableError,
    ConfigurationError,
    Mailbox,
    MessageError,
    Publisher,
    Sent,
    SyncPublisher,
)
from fastapi_websocket_stabilizer.backends.log_ports import LogKind, LogName
from tests.faults.verbs import frozen
from tests.integration.cluster import Managers, counter
from tests.integration.test_resume import Client, Node, got, got_last, node
from tests.integration.test_sessions import V1
from tests.support.proxy import TcpProxy
from tests.support.servers import RedisServer
from tests.support.waiting import eventually

LONG_LEASE: dict[str, Any] = {"lease_ttl_s": 20.0, "renew_interval_s": 0.4}
BOXES: dict[str, Any] = {"history": {}, "history_for_all": None, "mailbox": Mailbox()}


@asynccontextmanager
async def two(managers: Managers, **settings: Any) -> AsyncIterator[tuple[Node, Node]]:
    settings = {**BOXES, **settings}
    async with node(managers, **settings) as here, node(managers, **settings) as there:
        yield here, there


async def store(at: Node, *messages: Any, to: str = "ann", **how: Any) -> list[Sent]:
    return [await at.manager.send_to_client(to, each, store=True, **how) for each in messages]


def ann() -> Client:
    return Client("ann", rooms="")


async def test_client_that_is_away_gets_what_was_stored_when_it_comes(managers: Managers) -> None:
    async with two(managers) as (here, there):
        one, other = await store(here, "1", {"two": 2})
        assert one
        assert (one.stored, one.delivered) == (True, False)
        assert 0 < one.id < other.id
        client = await ann().open(there)
        await got(client, "1", {"two": 2})
        assert (client.hi["box"], client.live, client.box) == (0, 2, other.id)
        assert "re" not in client.hi


async def test_client_that_is_there_gets_it_at_once_and_what_it_missed_later(managers: Managers) -> None:
    async with two(managers) as (here, there):
        client = await ann().open(here)
        (mine,) = await store(here, "mine")
        (theirs,) = await store(there, "theirs")
        assert mine.delivered
        assert theirs.delivered
        await got(client, "mine", "theirs")
        assert client.box == theirs.id
        for number, other in enumerate([there, here, there], 1):
            await client.close()
            await eventually(lambda: not here.manager.get_connection_count(), what="the end")
            await eventually(lambda: not there.manager.get_connection_count(), what="the end")
            (sent,) = await store(here, f"missed {number}")
            assert not sent.delivered
            await client.open(other)
            assert client.hi["re"] is True
            assert client.live == 1
            await store(here, f"live {number}")
            await got_last(client, f"missed {number}", f"live {number}")
        assert len(client.got) == 2 + 3 * 2


async def test_plain_sockets_get_the_frames_of_other_messages(managers: Managers) -> None:
    async with two(managers) as (here, there), connect(url(here), proxy=None) as plain:
        await eventually(lambda: here.manager.get_connection_count() == 1)
        sent = [*await store(there, "text", {"json": 1}), *await store(here, b"bytes")]
        assert all(each.delivered for each in sent)
        assert [await plain.recv() for _ in range(3)] == ["text", '{"json":1}', b"bytes"]


def url(at: Node, client_id: str = "ann") -> str:
    return f"ws://127.0.0.1:{at.served.port}/ws/{client_id}"


async def test_messages_keep_their_form(managers: Managers) -> None:
    async with two(managers) as (here, there):
        sent = await store(here, "text", ["json", 1], b"\x00bytes")
        async with connect(url(there), subprotocols=[Subprotocol(V1)], proxy=None) as socket:
            assert json.loads(await socket.recv())["hi"]["box"] == 0
            for each, data in zip(sent, ("text", ["json", 1]), strict=False):
                assert json.loads(await socket.recv()) == [each.id, 0, data]
            head = bytes([1]) + sent[2].id.to_bytes(8) + bytes(2)
            assert await socket.recv() == head + b"\x00bytes"
            assert json.loads(await socket.recv()) == {"live": 3}


async def test_two_sockets_of_a_client_get_all_and_each_has_a_position_of_its_own(managers: Managers) -> None:
    async with two(managers, max_connections_per_client=2) as (here, there):
        tab, phone = await ann().open(here), await ann().open(there)
        await store(here, "1")
        await got(tab, "1")
        await got(phone, "1")
        await phone.close()
        await store(there, "2")
        await got(tab, "1", "2")
        await phone.open(here)
        await got(phone, "1", "2")
        await store(there, "3")
        await got(tab, "1", "2", "3")
        await got(phone, "1", "2", "3")
        assert (tab.hi["box"], phone.live) == (0, 1)


# Marks


async def mark(client: Client, id_: int) -> None:
    assert client.socket is not None
    await client.socket.send(json.dumps({"k": id_}))


async def marked(at: Node, id_: int) -> None:
    log = LogName(LogKind.BOX, "ann")

    async def is_marked() -> bool:
        return (await at.manager._state.backend.logs.unread(log)).position == id_

    await eventually(is_marked, what="the mark is written")


async def test_client_without_a_cursor_begins_behind_its_mark_on_any_device(managers: Managers) -> None:
    async with two(managers, max_connections_per_client=2) as (here, there):
        sent = await store(here, "1", "2", "3")
        tab = await ann().open(there)
        await got(tab, "1", "2", "3")
        await mark(tab, sent[1].id)
        await mark(tab, sent[0].id)  # it only rises
        await marked(here, sent[1].id)
        phone = await ann().open(here)
        await got(phone, "3")
        assert (phone.hi["box"], "lost" in phone.hi, "re" in phone.hi) == (sent[1].id, False, False)
        await tab.close()
        await tab.open(here)  # a mark says nothing to a client with a cursor
        assert (tab.hi["re"], tab.live) == (True, 0)


async def test_mark_of_what_was_never_stored_is_counted_and_harmless(managers: Managers) -> None:
    async with two(managers) as (here, _):
        client = await ann().open(here)
        (first,) = await store(here, "1")
        await got(client, "1")
        await mark(client, first.id + 1)
        await mark(client, 2**53 - 1)
        await eventually(lambda: counter(here.manager, "mailbox_marks_refused") >= 1)
        await mark(client, first.id)
        await marked(here, first.id)
        await store(here, "2")
        await got(client, "1", "2")


async def test_mark_without_mailboxes_is_ignored(managers: Managers) -> None:
    async with node(managers) as here:
        client = await ann().open(here)
        await mark(client, 1)
        await eventually(lambda: counter(here.manager, "client_frames_ignored") == 1)
        assert "box" not in client.hi
        await client.close()


# Losses


async def test_what_was_dropped_behind_a_position_or_a_mark_is_a_loss(managers: Managers) -> None:
    async with two(managers, mailbox=Mailbox(messages=4)) as (here, there):
        client = await ann().open(here)
        (first,) = await store(here, "0")
        await got(client, "0")
        await mark(client, first.id)
        await marked(here, first.id)
        await client.close()
        sent = await store(here, *map(str, range(1, 20)))
        await client.open(there)
        assert client.hi["re"] is False
        row = [0, sent[-1].id, "trimmed"]
        assert (client.hi["lost"], client.live) == ([row], 0)
        await store(here, "20")
        await got(client, "0", ("lost", *row), "20")
        page = await ann().open(there)
        assert "re" not in page.hi
        assert [log for log, _, code in page.hi["lost"] if code == "trimmed"] == [0]


async def test_client_without_a_mark_gets_what_is_there(managers: Managers) -> None:
    async with two(managers, mailbox=Mailbox(messages=4)) as (here, there):
        sent = await store(here, *map(str, range(20)))
        client = await ann().open(there)
        assert client.got == [str(number) for number in range(20)][-len(client.got) :]
        assert 4 <= len(client.got) <= 5
        assert client.hi["box"] == sent[-len(client.got) - 1].id
        assert "lost" not in client.hi


async def test_deleted_mailbox_is_told_to_those_who_missed_it(managers: Managers) -> None:
    async with two(managers) as (here, there):
        client = await ann().open(here)
        (first,) = await store(here, "1")
        await got(client, "1")
        await mark(client, first.id)
        await client.close()
        (second,) = await store(here, "2")
        assert await there.manager.delete_mailbox("ann")
        assert not await there.manager.delete_mailbox("bob")
        page = await ann().open(there)
        assert (page.hi["box"], page.live, "lost" in page.hi) == (second.id, 0, False)
        await page.close()
        await client.open(there)
        assert client.hi["lost"] == [[0, second.id, "reset"]]
        await store(here, "3")
        await got_last(client, "3")
        assert "2" not in client.got


# Senders


@pytest.mark.parametrize("kind", ["async", "sync", "signed"])
async def test_publishers_store_and_reach_the_client(managers: Managers, kind: str) -> None:
    keys: Any = {"envelope_keys": ("k" * 32,)} if kind == "signed" else {}
    sync = SyncPublisher(managers.url, namespace=managers.namespace, **keys)
    publisher = Publisher(managers.url, namespace=managers.namespace, **keys)

    async def publish(message: str, **how: Any) -> Sent:
        if kind == "sync":
            return await asyncio.to_thread(lambda: sync.send_to_client("ann", message, store=True, **how))
        return await publisher.send_to_client("ann", message, store=True, **how)

    async with two(managers, **keys) as (here, there):
        away = await publish("1")
        client = await ann().open(here)
        live, again = [await publish("2", key="k") for _ in range(2)]
        assert [each.delivered for each in (away, live, again)] == [False, True, False]
        assert away.id < live.id == again.id
        assert again
        await store(there, "3")
        await got(client, "1", "2", "3")
        with pytest.raises(ConfigurationError, match="a key needs a message that is stored"):
            await publisher.send_to_client("ann", "4", key="k")  # type: ignore[call-overload]  # that is the test
        await publisher.close()
        sync.close()


async def test_message_with_a_key_is_stored_once(managers: Managers) -> None:
    async with two(managers) as (here, there):
        client = await ann().open(here)
        sent = [await store(at, "once", key="order-42") for at in (here, there, here)]
        assert len({each.id for (each,) in sent}) == 1
        await store(here, "end")
        await got(client, "once", "end")


async def test_confirmed_message_was_written_to_a_socket(managers: Managers) -> None:
    async with two(managers) as (here, there):
        (away,) = await store(here, "1", confirm=5.0)
        client = await ann().open(there)
        (live,) = await store(here, "2", confirm=5.0)
        (own,) = await store(there, "3", confirm=5.0)
        assert [each.delivered for each in (away, live, own)] == [False, True, True]
        await got(client, "1", "2", "3")


async def test_messages_of_one_manager_keep_their_order(managers: Managers) -> None:
    async with two(managers) as (here, there):
        mine, theirs = await ann().open(here), await Client("bob", rooms="").open(there)
        calls: list[Any] = []
        for number in range(50):
            for name in ("ann", "bob"):
                calls.append(here.manager.send_to_client(name, f"{number} stored", store=True))
                calls.append(here.manager.send_to_client(name, f"{number}"))
            calls.append(here.manager.broadcast(f"{number} all"))
        await asyncio.gather(*calls)
        wanted = [text for n in range(50) for text in (f"{n} stored", f"{n}", f"{n} all")]
        await got(mine, *wanted)
        await got(theirs, *wanted)


async def test_wrong_call_is_refused_and_nothing_is_stored(managers: Managers) -> None:
    async with node(managers) as plain, two(managers, namespace="other") as (here, _):
        with pytest.raises(ConfigurationError, match="needs a mailbox for client 'ann': set mailbox"):
            await store(plain, "1")
        with pytest.raises(ConfigurationError, match="'ann' has no mailbox: set mailbox"):
            await plain.manager.delete_mailbox("ann")
        with pytest.raises(MessageError, match="the limit is 262144"):
            await store(here, "x" * 262_144)
        for key in ("", "x" * 513, "a\ud800"):
            with pytest.raises(ConfigurationError, match="key must be a string of 1 to 512"):
                await store(here, "1", key=key)
        client = await ann().open(here)
        assert (client.hi["box"], client.live) == (0, 0)


# Redis is away


@pytest.mark.parametrize("policy", ["degrade", "refuse"])
async def test_without_redis_a_stored_send_raises_and_delivers_nothing(
    own_managers: Managers, server: RedisServer, policy: str
) -> None:
    settings = {**BOXES, "on_backend_loss": policy, "redis_timeout_s": 0.5}
    async with node(own_managers, **settings) as here:
        client = await ann().open(here)
        server.kill()
        with pytest.raises(BackendUnavailableError):
            await store(here, "lost")
        await eventually(lambda: here.manager._state.is_away, what="the outage is known")
        with pytest.raises(BackendUnavailableError):
            await store(here, "lost")
        server.start()

        async def is_back() -> bool:
            with suppress(BackendUnavailableError):
                await store(here, "back")
            return "back" in client.got

        await eventually(is_back, timeout_s=20)
        assert "lost" not in client.got


async def test_append_whose_answer_is_lost_is_stored_once(
    own_managers: Managers, server: RedisServer
) -> None:
    async with TcpProxy("127.0.0.1", server.port) as proxy:
        address = f"redis://127.0.0.1:{proxy.port}"
        here = await own_managers.start(**BOXES, **LONG_LEASE, redis_url=address)
        async with node(own_managers, **BOXES) as there:
            client = await ann().open(there)
            async with frozen(server):
                send = asyncio.create_task(here.send_to_client("ann", "once", store=True))
                await eventually(
                    lambda: counter(here, "redis_commands") and not here.statistics().redis_queued_bytes
                )
                await asyncio.sleep(0.05)  # until the proxy has passed it to the frozen server
                proxy.cut()
                proxy.resume()
            assert (await send).id
            await store(there, "end")
            await got(client, "once", "end")
            await here.graceful_shutdown(1.0)


@pytest.mark.parametrize("has_cursor", [True, False])
async def test_client_that_comes_while_redis_is_away_gets_its_mailbox_later(
    own_managers: Managers, server: RedisServer, has_cursor: bool
) -> None:
    async with TcpProxy("127.0.0.1", server.port) as proxy, node(own_managers, **BOXES) as there:
        address = f"redis://127.0.0.1:{proxy.port}"
        async with node(own_managers, **BOXES, redis_url=address, redis_timeout_s=0.5) as here:
            client = await ann().open(there)
            (first,) = await store(there, "1")
            await got(client, "1")
            await mark(client, first.id)
            await marked(there, first.id)
            await client.close()
            proxy.cut()
            await eventually(lambda: here.manager._state.is_away, what="Redis is away")
            await store(there, "missed")
            if not has_cursor:
                client = ann()
            client.hi = {}
            opening = asyncio.create_task(client.open(here))
            await eventually(lambda: bool(client.hi), timeout_s=10)
            assert client.hi.get("re") == ("later" if has_cursor else None)
            proxy.resume()
            async with asyncio.timeout(20):
                await opening
            await got_last(client, "missed")
            await store(there, "live")
            await got_last(client, "missed", "live")
            assert client.box
            await client.close()


async def test_what_the_bus_lost_is_delivered_in_its_place(
    own_managers: Managers, server: RedisServer
) -> None:
    async with two(own_managers) as (here, there):
        client = await ann().open(here)
        wanted = []
        for gap in range(3):
            server.kill_pubsub()
            texts = [f"{gap} {number}" for number in range(20)]
            await asyncio.gather(*(there.manager.send_to_client("ann", text, store=True) for text in texts))
            wanted += texts
            await got_last(client, texts[-1])
        await got(client, *wanted)
