"""Stored messages on real servers: plain sockets in recorded rooms, and what the bus loses comes back."""

import asyncio
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest

from fastapi_websocket_stabilizer import (
    BackendUnavailableError,
    BroadcastResult,
    ConfigurationError,
    History,
    InvalidCursorError,
    Mailbox,
    MessageError,
    Published,
    Publisher,
    SyncPublisher,
    WebSocketConfig,
    WebSocketConnectionManager,
)
from fastapi_websocket_stabilizer.backends.log_ports import LogKind, LogName
from fastapi_websocket_stabilizer.backends.redis.doctor.diagnosis import Finding, Level
from fastapi_websocket_stabilizer.backends.redis.doctor.examination import examine
from fastapi_websocket_stabilizer.backends.redis.keys import Keys
from fastapi_websocket_stabilizer.cli.policy import run_policy
from fastapi_websocket_stabilizer.registry import history
from tests.faults.verbs import Failover, frozen
from tests.integration.cluster import (
    Managers,
    Socket,
    counter,
    everyone_hears,
    first_row,
    hears,
    join,
    register,
)
from tests.support.proxy import TcpProxy
from tests.support.servers import RedisServer
from tests.support.waiting import eventually

STORED: dict[str, Any] = {"history": {"chat:": History()}, "history_for_all": History()}
LONG_LEASE: dict[str, Any] = {"lease_ttl_s": 20.0, "renew_interval_s": 0.4}


async def stored(manager: WebSocketConnectionManager, *texts: str, room: str = "chat:1") -> list[int]:
    """Broadcast each text, and return the ids."""
    results = [await manager.broadcast(text, room=room) for text in texts]
    return [result.id or 0 for result in results]


async def flow_again(manager: WebSocketConnectionManager, sockets: list[Socket], text: str) -> None:
    """Wait until stored messages reach each socket. Those of an emptied log may be lost until it is subscribed."""

    async def do_flow() -> bool:
        with suppress(BackendUnavailableError):
            await manager.broadcast(text, room="chat:1")
        return all(socket.received[-1:] == [text] for socket in sockets)

    await eventually(do_flow, timeout_s=20, what="stored messages reach the sockets again")


# Sending


async def test_stored_messages_reach_every_member_in_order_and_have_ids(managers: Managers) -> None:
    here, there = await managers.start_many(2, **STORED)
    sockets = [await join(here, "alice", "chat:1"), await join(there, "bob", "chat:1")]
    outside = await join(there, "carol", "chat:2")
    ids = await stored(here, *map(str, range(5))) + await stored(there, *map(str, range(5, 10)))
    await everyone_hears(sockets, *map(str, range(10)))
    assert ids == sorted(set(ids))
    assert ids[0] > 1_600_000_000_000_000
    assert outside.received == []
    assert counter(here, "history_appends") == 5


async def test_result_counts_as_that_of_a_message_that_is_not_stored(managers: Managers) -> None:
    here, there = await managers.start_many(2, **STORED)
    alice, _ = await join(here, "alice", "chat:1"), await join(there, "bob", "chat:1")
    result = await here.broadcast("hello", room="chat:1", exclude_client="alice")
    assert (result.total, result.succeeded, result.nodes, result.heard) == (1, 0, 2, True)
    assert result.ids == {"chat:1": result.id}
    everybody = await here.broadcast("all")
    assert everybody.ids == {"": everybody.id}
    await hears(alice, "all")
    confirmed = await here.broadcast("sure", room="chat:1", confirm=5)
    assert (confirmed.total, confirmed.succeeded, confirmed.missing) == (2, 2, [])
    assert confirmed.id


async def test_message_to_several_rooms_is_stored_in_each_and_reaches_a_socket_once(
    managers: Managers,
) -> None:
    here, there = await managers.start_many(2, **STORED)
    sockets = [
        await join(here, "both", "chat:1", "chat:2"),
        await join(here, "second", "chat:2"),
        await join(there, "all three", "chat:1", "plain", "chat:2"),
        await join(there, "plain", "plain"),
    ]
    result = await here.broadcast("hello", room=["chat:1", "plain", "chat:2"])
    assert set(result.ids) == {"chat:1", "chat:2"}
    assert result.id == result.ids["chat:1"]
    assert (result.total, result.succeeded, result.nodes) == (2, 2, 2)
    confirmed = await here.broadcast("sure", room=["chat:2", "plain"], confirm=5)
    assert (confirmed.total, confirmed.succeeded) == (4, 4)
    await here.broadcast("end")
    await everyone_hears(sockets, "hello", "sure", "end")


async def test_messages_of_one_manager_to_its_own_sockets_keep_their_order(managers: Managers) -> None:
    here, _ = await managers.start_many(2, **STORED)
    socket = await join(here, "alice", "chat:1", "plain")
    sends: list[Any] = []
    for number in range(40):
        sends.append(here.broadcast(f"{number} stored", room="chat:1"))
        sends.append(here.send_to_client("alice", f"{number} direct"))
        sends.append(here.broadcast(f"{number} volatile", room="chat:1", store=False))
        sends.append(here.broadcast(f"{number} all"))
        sends.append(here.broadcast(f"{number} plain", room=["plain", "chat:1"]))
        sends.append(here.broadcast(f"{number} alone", room="plain"))
    await asyncio.gather(*sends)
    kinds = ("stored", "direct", "volatile", "all", "plain", "alone")
    await hears(socket, *(f"{number} {kind}" for number in range(40) for kind in kinds))


async def test_caller_decides_whether_a_message_is_stored(managers: Managers) -> None:
    here, there = await managers.start_many(2, **STORED)
    socket = await join(there, "alice", "chat:1", "plain")
    volatile = await here.broadcast("typing", room="chat:1", store=False)
    assert volatile.id is None
    assert volatile.ids == {}
    assert (await here.broadcast("kept", room="chat:1", store=True)).id
    assert (await here.broadcast("plain", room="plain")).id is None
    await hears(socket, "typing", "kept", "plain")
    assert counter(there, "history_unlogged") == 0
    wrong: dict[str, Any]
    for wrong in (
        {"store": True, "room": ["chat:1", "plain"]},
        {"key": "a", "room": ["chat:1", "plain"]},
        {"store": True, "room": "plain"},
    ):
        with pytest.raises(ConfigurationError, match="history"):
            await here.broadcast("x", **wrong)
    for key in ("", 7, "x" * 513, "a\ud800"):
        with pytest.raises(ConfigurationError, match="key must be a string of 1 to 512"):
            await here.broadcast("x", room="chat:1", key=key)  # type: ignore[arg-type]  # that is the test
    with pytest.raises(ConfigurationError, match="store is False"):
        await here.broadcast("x", room="chat:1", key="a", store=False)
    assert len(socket.received) == 3


async def test_message_with_a_key_is_published_once(managers: Managers) -> None:
    here, there = await managers.start_many(2, **STORED)
    sockets = [await join(here, "alice", "chat:1"), await join(there, "bob", "chat:1")]
    results: list[BroadcastResult] = [
        await manager.broadcast("order", room="chat:1", key="42") for manager in (here, there, here)
    ]
    assert len({result.id for result in results}) == 1
    assert [result.nodes for result in results] == [2, 0, 0]
    await stored(here, "end")
    await everyone_hears(sockets, "order", "end")


async def test_message_that_its_history_cannot_hold_is_refused(managers: Managers) -> None:
    manager = await managers.start(history={"": History(bytes=1000)})
    socket = await join(manager, "alice", "r")
    with pytest.raises(MessageError, match="the limit is 1000"):
        await manager.broadcast("x" * 1000, room="r")
    await manager.broadcast("ok", room="r")
    await hears(socket, "ok")
    assert manager.statistics().unheard_bytes == 0


# Reading and deleting


async def test_pages_have_all_messages_the_newest_first_and_other_kinds(managers: Managers) -> None:
    here, there = await managers.start_many(2, **STORED)
    kinds = ["text", b"\x00\xff", {"a": [1, None]}, [1, "two"]]
    sent = [await here.broadcast(message, room="chat:1") for message in kinds * 3]  # type: ignore[arg-type]  # all kinds
    found: list[Any] = []
    before, pages = None, 0
    while pages == 0 or before is not None:
        page = await there.history("chat:1", limit=5, before=before)
        found, before, pages = [*page.entries, *found], page.cursor, pages + 1
    assert [entry.message for entry in found] == kinds * 3
    assert [entry.id for entry in found] == [result.id for result in sent]
    assert pages == 3
    assert abs((datetime.now(UTC) - found[-1].at).total_seconds()) < 60
    assert len(await there.history("chat:none")) == 0
    await here.broadcast("all")
    assert [entry.message for entry in await there.history()] == ["all"]
    for wrong in (0, -1, "7", True):
        with pytest.raises(InvalidCursorError):
            await there.history("chat:1", before=wrong)  # type: ignore[arg-type]  # that is the test
    with pytest.raises(ConfigurationError, match="set history"):
        await there.history("plain")


async def test_deleted_history_is_gone_and_goes_on(managers: Managers) -> None:
    here, there = await managers.start_many(2, **STORED)
    socket = await join(here, "alice", "chat:1")
    assert await there.delete_history("chat:1") is False
    ids = await stored(here, "1", "2")
    assert await there.delete_history("chat:1") is True
    assert len(await here.history("chat:1")) == 0
    (later,) = await stored(there, "3")
    assert later > max(ids)
    assert [entry.message for entry in await here.history("chat:1")] == ["3"]
    await hears(socket, "1", "2", "3")
    with pytest.raises(ConfigurationError, match="set history"):
        await there.delete_history("plain")


# What the bus loses


async def test_what_the_bus_lost_is_delivered_in_its_place(
    own_managers: Managers, server: RedisServer
) -> None:
    here, there = await own_managers.start_many(2, **STORED)
    socket = await join(here, "alice", "chat:1")
    await stored(there, "0")
    await hears(socket, "0")
    for gap in range(3):
        server.kill_pubsub()
        texts = [f"{gap} {number}" for number in range(50)]
        await asyncio.gather(*(there.broadcast(text, room="chat:1") for text in texts[:-1]))
        await there.broadcast(texts[-1], room="chat:1")
        await eventually(lambda last=texts[-1]: socket.received[-1] == last, what="the gap is closed")  # type: ignore[misc]  # mypy cannot infer a lambda with a default
    assert sorted(socket.received) == sorted({"0", *(f"{g} {n}" for g in range(3) for n in range(50))})
    first = [text for text in socket.received if text.startswith("2 ")]
    assert first == [f"2 {number}" for number in range(50)]


async def test_last_message_that_the_bus_lost_is_found_by_comparison(
    managers: Managers, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, seconds in (("COMPARE_S", 0.1), ("QUIET_S", 0.0)):
        monkeypatch.setattr(history, name, seconds)
    here, there = await managers.start_many(2, **STORED)
    socket = await join(here, "alice", "chat:1")
    await stored(there, "first")
    await hears(socket, "first")
    # An append that published nothing to this node: its publication was lost.
    subscriber = here._state.backend.bus._subscriber  # type: ignore[attr-defined]  # of Redis
    channel = Keys(managers.namespace).room("chat:1")
    subscriber.listen(channel, lambda *_: None)
    await stored(there, "lost")
    await hears(socket, "first", "lost")
    subscriber.listen_no_more(channel)
    await stored(there, "next")
    await hears(socket, "first", "lost", "next")


@pytest.mark.parametrize("policy", ["degrade", "refuse"])
async def test_without_redis_a_stored_send_raises_and_delivers_nothing(
    own_managers: Managers, server: RedisServer, policy: str
) -> None:
    manager = await own_managers.start(**STORED, on_backend_loss=policy, redis_timeout_s=0.5)
    socket = await join(manager, "alice", "chat:1", "plain")
    server.kill()
    with pytest.raises(BackendUnavailableError):  # before the outage is known
        await manager.broadcast("lost", room=["plain", "chat:1"])
    await eventually(lambda: manager._state.is_away, what="the outage is known")
    sent: dict[str, Any]
    for sent in ({"room": "chat:1"}, {"room": ["plain", "chat:1"]}, {}):
        with pytest.raises(BackendUnavailableError):
            await manager.broadcast("lost", **sent)
    server.start()

    await flow_again(manager, [socket], "back")
    assert "lost" not in socket.received


async def test_append_whose_answer_is_lost_is_stored_once(
    own_managers: Managers, server: RedisServer
) -> None:
    async with TcpProxy("127.0.0.1", server.port) as proxy:
        url = f"redis://127.0.0.1:{proxy.port}"
        here = await own_managers.start(**STORED, **LONG_LEASE, redis_url=url)
        there = await own_managers.start(**STORED)
        socket = await join(there, "alice", "chat:1")
        async with frozen(server):
            send = asyncio.create_task(here.broadcast("once", room="chat:1"))
            await eventually(
                lambda: counter(here, "broadcasts") == 1 and not here.statistics().redis_queued_bytes
            )
            await asyncio.sleep(0.05)  # until the proxy has passed it to the frozen server
            proxy.cut()
            proxy.resume()
        result = await send
        await stored(there, "end")
        await hears(socket, "once", "end")
        assert result.id
        assert counter(here, "history_repeats") >= 1
        await here.graceful_shutdown(1.0)


async def test_empty_restart_loses_no_later_message(own_managers: Managers, server: RedisServer) -> None:
    here, there = await own_managers.start_many(2, **STORED, **LONG_LEASE)
    sockets = [await join(here, "alice", "chat:1"), await join(there, "bob", "chat:1")]
    await stored(there, "before")
    await everyone_hears(sockets, "before")
    server.restart_empty()

    await flow_again(there, sockets, "back")
    await stored(there, "1", "2", "3")
    await eventually(lambda: all(s.received[-4:] == ["back", "1", "2", "3"] for s in sockets), timeout_s=15)
    with server.client() as client:
        keys = f"{own_managers.namespace}:*:since"
        await eventually(
            lambda: len(client.keys(keys)) == 257, what="it is known since when there is content"
        )


async def test_failover_that_loses_messages_puts_them_back(namespace: str) -> None:
    with RedisServer(first_row()) as leader, RedisServer(first_row()) as follower:
        async with TcpProxy("127.0.0.1", leader.port) as proxy:
            failover = Failover(leader, follower, proxy)
            managers = Managers(failover.url, namespace)
            here, there = await managers.start_many(2, **STORED, **LONG_LEASE)
            sockets = [await join(here, "alice", "chat:1"), await join(there, "bob", "chat:1")]
            await stored(here, "0")
            follower.follow(leader)
            await eventually(failover.is_in_sync, timeout_s=20, what="the replica is in sync")
            await asyncio.to_thread(follower.promote)  # what the leader accepts from now on is lost
            ids = await stored(here, "1", "2")
            await everyone_hears(sockets, "0", "1", "2")
            await asyncio.to_thread(leader.kill)
            proxy.retarget("127.0.0.1", follower.port)
            await eventually(
                lambda: counter(here, "history_restored") + counter(there, "history_restored") > 0, 20
            )
            found = await here._state.backend.logs.read(LogName(LogKind.ROOM, "chat:1"))
            assert [entry.id for entry in found.entries][1:] == ids
            assert [entry.envelope.body for entry in found.entries] == ["0", "1", "2"]
            await stored(there, "3")
            await everyone_hears(sockets, "0", "1", "2", "3")
            await managers.close()


# Publishers


@pytest.mark.parametrize("kind", ["async", "sync", "signed"])
async def test_publishers_store_what_the_replicas_store(managers: Managers, kind: str) -> None:
    keys: Any = {"envelope_keys": ("k" * 32,)} if kind == "signed" else {}
    node = await managers.start(**STORED, **keys)
    sockets = [await join(node, "alice", "chat:1", "chat:2"), await join(node, "bob", "chat:2", "plain")]
    sync = SyncPublisher(managers.url, namespace=managers.namespace, **keys)
    publisher = Publisher(managers.url, namespace=managers.namespace, **keys)

    async def publish(message: str, **how: Any) -> Published:
        if kind == "sync":
            return await asyncio.to_thread(lambda: sync.broadcast(message, **how))
        return await publisher.broadcast(message, **how)

    one = await publish("1", room="chat:1")
    assert (one, one.ids) == (1, {"chat:1": one.id})
    assert one.id
    several = await publish("2", room=["chat:1", "plain", "chat:2"])
    assert set(several.ids) == {"chat:1", "chat:2"}
    assert several.id == several.ids["chat:1"]
    assert (await publish("3", room="chat:2", store=False)).id is None
    assert (await publish("4")).ids.keys() == {""}
    assert (await publish("5", room="plain")).id is None
    first, again = [await publish("6", room="chat:2", key="k") for _ in range(2)]
    assert (first, again, first.id) == (1, 0, again.id)
    with pytest.raises(ConfigurationError, match="needs a history for room 'plain'"):
        await publish("7", room="plain", store=True)
    await node.broadcast("end")
    await hears(sockets[0], "1", "2", "3", "4", "6", "end")
    await hears(sockets[1], "2", "3", "4", "5", "6", "end")
    assert [entry.message for entry in await node.history("chat:1")] == ["1", "2"]
    assert [entry.message for entry in await node.history("chat:2")] == ["2", "6"]
    assert counter(node, "history_unlogged") == 0
    await publisher.close()
    sync.close()


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_publisher_that_could_not_read_the_policy_asks_again_before_it_publishes(
    own_managers: Managers, server: RedisServer, kind: str
) -> None:
    await own_managers.start(**STORED)
    sync = SyncPublisher(own_managers.url, namespace=own_managers.namespace)
    publisher = Publisher(own_managers.url, namespace=own_managers.namespace)

    async def publish(message: str) -> Published:
        if kind == "sync":
            return await asyncio.to_thread(lambda: sync.broadcast(message, room="chat:1"))
        return await publisher.broadcast(message, room="chat:1")

    policy = Keys(own_managers.namespace).policy
    with server.client() as client:
        text = client.get(policy)
        assert text
        client.set(policy, "{")
        for _ in range(2):
            with pytest.raises(ConfigurationError, match="cannot be read"):
                await publish("refused")
        client.set(policy, text)
    assert (await publish("stored")).id
    await publisher.close()
    sync.close()


async def test_stored_messages_of_a_publisher_arrive_in_the_order_of_its_calls(managers: Managers) -> None:
    node = await managers.start(**STORED)
    socket = await join(node, "alice", "chat:1")
    async with Publisher(managers.url, namespace=managers.namespace) as publisher:
        calls: list[Any] = []
        for number in range(50):
            calls.append(publisher.broadcast(f"{number} stored", room="chat:1"))
            calls.append(publisher.send_to_client("alice", f"{number} direct"))
            calls.append(publisher.broadcast(f"{number} volatile", room="chat:1", store=False))
        await asyncio.gather(*calls)
    kinds = ("stored", "direct", "volatile")
    await hears(socket, *(f"{number} {kind}" for number in range(50) for kind in kinds))


async def test_publisher_stores_once_when_the_answer_is_lost(
    own_managers: Managers, server: RedisServer
) -> None:
    node = await own_managers.start(**STORED)
    socket = await join(node, "alice", "chat:1")
    async with TcpProxy("127.0.0.1", server.port) as proxy:
        url = f"redis://127.0.0.1:{proxy.port}"
        with SyncPublisher(url, namespace=own_managers.namespace) as publisher:
            assert (await asyncio.to_thread(publisher.broadcast, "1", room="chat:1")).id
            async with frozen(server):
                send = asyncio.create_task(asyncio.to_thread(publisher.broadcast, "2", room="chat:1"))
                await asyncio.sleep(0.2)  # until the proxy has passed it to the frozen server
                proxy.cut()
                proxy.resume()
            assert (await send).id
    await stored(node, "end")
    await hears(socket, "1", "2", "end")


async def test_publisher_of_a_registry_without_history_publishes_as_before(managers: Managers) -> None:
    node = await managers.start()
    socket = await join(node, "alice", "chat:1")
    async with Publisher(managers.url, namespace=managers.namespace) as publisher:
        result = await publisher.broadcast("1", room="chat:1")
        assert (result, result.id, result.ids) == (1, None, {})
    await hears(socket, "1")


# The policy


async def test_replica_that_stores_other_messages_does_not_start(managers: Managers) -> None:
    await managers.start(**STORED)
    await managers.start(history={"chat:": History(seconds=7)}, history_for_all=History(messages=3))
    for other in (
        {"history": {"chat:": History()}},
        {**STORED, "history_for_all": None},
        {"history": {"": History()}},
        {**STORED, "mailbox": Mailbox()},
    ):
        manager = managers.make(**other)
        with pytest.raises(ConfigurationError, match=r'store .*, and the registry stores "chat:", everybody'):
            await manager.start()


async def test_replica_without_a_history_does_not_start_beside_one_with_it(managers: Managers) -> None:
    await managers.start(**STORED)
    for _ in range(2):  # the one that failed leaves nothing
        with pytest.raises(ConfigurationError) as caught:
            await managers.make().start()
        assert 'this node store nothing, and the registry stores "chat:", everybody' in str(caught.value)
        assert "stabilizer policy --reset" in str(caught.value)


async def test_replica_with_a_history_does_not_start_beside_one_without_it(managers: Managers) -> None:
    old = await managers.start(node_name="old one")
    for _ in range(2):
        with pytest.raises(
            ConfigurationError,
            match=r"and replica 'old one' \(with a lease for \d.* s\) stores nothing; .*policy --reset",
        ):
            await managers.make(**STORED).start()
    await old.graceful_shutdown(1.0)
    await managers.start(**STORED)


async def test_history_is_switched_on_and_off_by_a_rolling_deploy(managers: Managers) -> None:
    config = managers.config()
    old = await managers.start()
    await run_policy(config, resets=True)
    new = await managers.start(**STORED)
    assert (await run_policy(config, resets=False)).endswith('stores "chat:", everybody')
    assert (await new.broadcast("stored", room="chat:1")).id
    await old.graceful_shutdown(1.0)

    await run_policy(config, resets=True)
    plain = await managers.start()
    assert (await run_policy(config, resets=False)).endswith("stores nothing")
    assert (await plain.broadcast("volatile", room="chat:1")).id is None
    with pytest.raises(ConfigurationError, match="and the registry stores nothing"):
        await managers.make(**STORED).start()
    await managers.start()


async def test_replicas_that_start_together_after_a_reset_agree(managers: Managers) -> None:
    await run_policy(managers.config(), resets=True)
    started = [managers.make(**STORED), managers.make(history={"": History()}), managers.make()]
    outcomes = await asyncio.gather(*(each.start() for each in started), return_exceptions=True)
    assert sorted(isinstance(outcome, ConfigurationError) for outcome in outcomes) == [False, True, True]


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_publisher_goes_on_storing_until_the_next_replica_decides(
    managers: Managers, kind: str
) -> None:
    config = managers.config()
    node = await managers.start(**STORED)
    await run_policy(config, resets=True)
    if kind == "sync":
        sync = SyncPublisher(managers.url, namespace=managers.namespace)
        result = await asyncio.to_thread(sync.broadcast, "1", room="chat:1")
        sync.close()
    else:
        async with Publisher(managers.url, namespace=managers.namespace) as publisher:
            result = await publisher.broadcast("1", room="chat:1")
    assert result.id
    assert [entry.message for entry in await node.history("chat:1")] == ["1"]


async def test_policy_that_cannot_be_read_is_reset(own_managers: Managers, server: RedisServer) -> None:
    config = own_managers.config()
    with server.client() as client:
        client.set(Keys(own_managers.namespace).policy, "{")
    for settings in (STORED, {}):
        with pytest.raises(ConfigurationError, match="cannot be read"):
            await own_managers.make(**settings).start()
    assert (await run_policy(config, resets=True)).endswith(
        "stores nothing; the next replica that starts decides anew"
    )
    await own_managers.start(**STORED)
    assert (await run_policy(config, resets=False)).endswith('stores "chat:", everybody')


async def test_operator_lets_the_next_replica_decide(managers: Managers) -> None:
    old = await managers.start(**STORED)
    config = managers.config()
    assert await run_policy(config, resets=False) == (
        f'namespace {managers.namespace!r} stores "chat:", everybody'
    )
    with pytest.raises(ConfigurationError):
        await managers.make(history={"": History()}).start()
    opened = f"namespace {managers.namespace!r} stores "
    opened += '"chat:", everybody; the next replica that starts decides anew'
    assert await run_policy(config, resets=True) == opened
    assert await run_policy(config, resets=False) == opened
    new = await managers.start(history={"": History()})
    assert (await run_policy(config, resets=False)).endswith('stores ""')
    with pytest.raises(ConfigurationError):
        await managers.make(**STORED).start()
    socket = await join(new, "alice", "chat:1")
    assert (await old.broadcast("old", room="chat:1")).id
    await hears(socket, "old")
    with pytest.raises(ConfigurationError, match="no Redis URL"):
        await run_policy(WebSocketConfig(), resets=False)


async def test_doctor_names_replicas_that_do_not_store(managers: Managers) -> None:
    async def found() -> list[Finding]:
        return [each for each in await examine(managers.url, managers.namespace) if each.check == "history"]

    old = await managers.start(node_name="old one")
    assert await found() == []
    await run_policy(managers.config(), resets=True)
    await managers.start(**STORED)
    (finding,) = await found()
    assert finding.found == 'stores "chat:", everybody'
    assert "different: old one" in finding.advice
    assert finding.level is Level.CHANGE
    await old.graceful_shutdown(1.0)
    (finding,) = await found()
    assert finding == Finding("history", "", 'stores "chat:", everybody')


async def test_replica_without_history_takes_part_and_is_counted(managers: Managers) -> None:
    old = await managers.start()
    await run_policy(managers.config(), resets=True)
    new = await managers.start(**STORED)
    sockets = [
        await join(new, "alice", "chat:1", "chat:2"),
        await join(old, "bob", "chat:1", "chat:2"),
        await join(old, "carol", "chat:1"),
    ]
    await new.broadcast("stored", room="chat:1")
    await old.broadcast("not stored", room="chat:1")
    await new.broadcast("two rooms", room=["chat:2", "chat:1"])
    await new.broadcast("all")
    await old.broadcast("bye", room="chat:1")
    await everyone_hears(sockets, "stored", "not stored", "two rooms", "all", "bye")
    assert counter(new, "history_unlogged") == 2
    assert counter(old, "bus_malformed") == 0
    assert counter(old, "bus_duplicates") == 0


async def test_room_that_is_left_and_joined_again_is_fed_again(managers: Managers) -> None:
    here, there = await managers.start_many(2, **STORED)
    socket = Socket()
    connection = await register(here, "alice", socket)
    for number in range(20):
        await connection.join("chat:1")
        await there.broadcast(f"{number}", room="chat:1")
        await hears(socket, *map(str, range(number + 1)))
        await connection.leave("chat:1")
        await there.broadcast("unheard", room="chat:1")
