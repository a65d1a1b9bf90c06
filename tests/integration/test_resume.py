"""Clients of ``stabilizer.v1`` that come back, on real servers: nothing is missed, or the loss is told first."""

import asyncio
import json
import math
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Self

import pytest
import redis.asyncio
from fastapi import FastAPI, Query
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from fastapi_websocket_stabilizer import (
    Connection,
    History,
    Identity,
    Mailbox,
    WebSocketConfig,
    WebSocketConnectionManager,
)
from fastapi_websocket_stabilizer.backends.ports import SessionName
from fastapi_websocket_stabilizer.local.lifecycle import Ended
from fastapi_websocket_stabilizer.names import ConnectionId
from fastapi_websocket_stabilizer.registry import history
from fastapi_websocket_stabilizer.registry.history import READS
from fastapi_websocket_stabilizer.registry.opening import MAX_SKIPPED
from fastapi_websocket_stabilizer.testing import MemoryCluster
from tests.integration.cluster import Managers, counter
from tests.integration.test_sessions import V1, coded
from tests.support.proxy import TcpProxy
from tests.support.servers import RedisServer
from tests.support.waiting import eventually
from tests.wire.inprocess import Served, serving

STORED: dict[str, Any] = {
    "history": {"chat:": History()},
    "history_for_all": History(),
    "log_level": "CRITICAL",
}
KIND_OF_MAILBOX, KIND_OF_EVERYBODY = 0, 1
REMEMBERED = 256
"""Values of ``u`` that a client remembers, as the protocol says."""


@dataclass
class Node:
    manager: WebSocketConnectionManager
    served: Served


@asynccontextmanager
async def node(managers: Managers, **settings: Any) -> AsyncIterator[Node]:
    """Serve one manager on a port of its own."""
    manager = managers.make(**{**STORED, **settings})
    app = FastAPI(lifespan=manager.lifespan)

    async def on_message(connection: Connection, message: str | bytes) -> None:
        word, _, room = str(message).partition(" ")
        await (connection.join(room) if word == "join" else connection.leave(room))

    @manager.websocket(app, "/ws/{client_id}", on_message=on_message)
    async def identify(client_id: str, rooms: str = Query("")) -> Identity:
        return Identity(client_id, rooms=[room for room in rooms.split(",") if room])

    async with serving(app) as served:
        yield Node(manager, served)


@asynccontextmanager
async def nodes(managers: Managers, count: int = 2, **settings: Any) -> AsyncIterator[list[Node]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(node(managers, **settings)) for _ in range(count)]


@dataclass
class Client:
    """A client object: its cursor and everything that its application was given outlive its sockets."""

    name: str
    rooms: str = "chat:1"
    sid: str = ""
    t: int = 0
    at: dict[str, int] = field(default_factory=dict)
    all: int | None = None
    box: int | None = None
    got: list[Any] = field(default_factory=list)
    events: list[Any] = field(default_factory=list)
    known: list[str] = field(default_factory=list)
    socket: ClientConnection | None = None
    hi: dict[str, Any] = field(default_factory=dict)
    live: int | None = None
    reading: "asyncio.Task[None] | None" = None
    may_read: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.may_read.set()

    async def open(self, at: Node) -> Self:
        offer = [V1]
        if self.sid:
            others = {"all": self.all, "box": self.box}
            cursor = {"s": self.sid, "t": self.t, "at": self.at}
            cursor |= {name: position for name, position in others.items() if position is not None}
            offer.append(f"{V1}.resume.{coded(json.dumps(cursor))}")
        url = f"ws://127.0.0.1:{at.served.port}/ws/{self.name}?rooms={self.rooms}"
        subprotocols = [Subprotocol(item) for item in offer]
        self.hi, self.live = {}, None
        # Before the connect, because the handshake announces the size of the buffer.
        connection = await asyncio.to_thread(little_buffer, at.served.port)
        self.socket = await connect(
            url,
            subprotocols=subprotocols,
            proxy=None,
            compression=None,
            close_timeout=1,
            max_queue=1,
            sock=connection,
        )
        self.reading = asyncio.create_task(self._read(self.socket))
        await eventually(lambda: self.live is not None, what="live")
        return self

    async def close(self) -> None:
        assert self.socket is not None
        assert self.reading is not None
        await self.socket.close()
        await self.reading

    async def _read(self, socket: ClientConnection) -> None:
        try:
            while True:
                await self.may_read.wait()
                self._take(json.loads(await socket.recv()))
        except ConnectionClosed:
            pass

    def _take(self, frame: Any) -> None:
        if isinstance(frame, list):
            self._message(*frame)
            return
        self.events.append(frame)
        kind: str = next(iter(frame), "")
        value: Any = frame.get(kind)
        if kind == "hi":
            self.hi, self.sid, self.t = value, value["sid"], value["t"]
            self._move(value)
            self.got += [("lost", *row) for row in value.get("lost", ())]
        elif kind in ("at", "in"):
            self._move(frame if kind == "at" else {"at": {value: frame["at"]}})
        elif kind == "lost":
            self._lose(value)
        elif kind == "out":
            self.at.pop(value, None)
        elif kind in ("t", "live"):
            setattr(self, kind, value)

    def _lose(self, rows: list[Any]) -> None:
        for log, top, code in rows:
            self._set(log, top)
            self.got.append(("lost", log, top, code))

    def _move(self, positions: dict[str, Any]) -> None:
        for room, position in positions["at"].items():
            if position is None:
                self.at.pop(room, None)
            else:
                self.at[room] = position
        self.all, self.box = positions.get("all", self.all), positions.get("box", self.box)

    def _set(self, log: str | int, position: int) -> None:
        if isinstance(log, str):
            self.at[log] = position
        elif log == KIND_OF_MAILBOX:
            self.box = position
        else:
            self.all = position

    def _message(self, id_: int, log: str | int, data: Any, key: str = "") -> None:
        if id_:
            self._set(log, id_)
        if key in self.known:
            return
        self.known += [key] * bool(key)
        del self.known[:-REMEMBERED]
        self.got.append(data)


def little_buffer(port: int) -> socket.socket:
    """Return a connection that receives few bytes before its client reads them."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
    connection.connect(("127.0.0.1", port))
    return connection


async def got(client: Client, *messages: Any) -> None:
    def holds() -> bool:
        assert client.got == list(messages), client.got
        return True

    await eventually(holds, timeout_s=10)


async def say(at: Node, *texts: str, room: str | list[str] | None = "chat:1", **how: Any) -> None:
    for text in texts:
        await at.manager.broadcast(text, room=room, **how)


async def say_fast(at: Node, *texts: str, room: str | list[str]) -> None:
    """Send a hundred messages at a time, in their order."""
    for first in range(0, len(texts), 100):
        await asyncio.gather(*(at.manager.broadcast(text, room=room) for text in texts[first : first + 100]))


async def test_client_that_moves_gets_what_it_missed_in_order_and_once(managers: Managers) -> None:
    async with nodes(managers) as (here, there):
        ann = await Client("ann").open(here)
        assert ann.hi["at"] == {"chat:1": 0}
        assert ann.hi["all"] == 0
        assert "re" not in ann.hi
        await say(there, "1", "2")
        await say(here, "all 1", room=None)
        await got(ann, "1", "2", "all 1")
        for number, other in enumerate([there, here, there], 1):
            await ann.close()
            await say(here, f"missed {number}")
            await say(there, f"all missed {number}", room=None)
            await ann.open(other)
            assert ann.hi["re"] is True
            assert "lost" not in ann.hi
            assert ann.live == 2
            await say(here, f"live {number}")
            await got_last(ann, f"missed {number}", f"all missed {number}", f"live {number}")
        assert len(ann.got) == 3 + 3 * 3
        assert ann.at["chat:1"] > 0
        assert counter(here.manager, "history_replayed") + counter(there.manager, "history_replayed") == 6


async def got_last(client: Client, *messages: Any, timeout_s: float = 10) -> None:
    def holds() -> bool:
        return client.got[-len(messages) :] == list(messages)

    await eventually(holds, timeout_s=timeout_s, what=f"{[str(each)[:40] for each in messages]}")


async def test_first_mark_of_a_session_is_kept_although_its_connection_ends_at_once(
    managers: Managers,
) -> None:
    async with node(managers) as here:
        ann = await Client("ann", rooms="").open(here)
        (connection,) = here.manager._state.shards
        here.manager._registry.keeping.mark(connection, 1)
        await connection.close(4000)
        await ann.close()
        await ann.open(here)
        assert ann.hi["n"] == 1
        await ann.close()


async def test_client_whose_write_failed_may_come_back(managers: Managers) -> None:
    async with node(managers) as here:
        ann = await Client("ann").open(here)
        (connection,) = here.manager._state.shards
        connection.lost(Ended.FAILED, "a write raised")
        assert ann.reading is not None
        assert ann.socket is not None
        await ann.reading
        assert (ann.socket.close_code, ann.socket.close_reason) == (1011, "a write failed")
        await ann.open(here)
        assert ann.hi["re"] is True
        await ann.close()


async def test_resume_without_missed_entries_is_a_success(managers: Managers) -> None:
    async with nodes(managers) as (here, there):
        ann = await Client("ann").open(here)
        for other in (there, here):
            await ann.close()
            await ann.open(other)
            assert (ann.hi["re"], ann.live) == (True, 0)
        await say(here, "1")
        await got(ann, "1")
        await ann.close()
        await ann.open(there)
        assert (ann.hi["re"], ann.live) == (True, 0)
        await got(ann, "1")


async def test_nothing_is_missed_while_messages_flow_and_the_client_moves(managers: Managers) -> None:
    async with nodes(managers) as (here, there):
        ann = await Client("ann", "chat:1,chat:2").open(here)
        sent: list[str] = []

        async def talk(at: Node, room: str | None) -> None:
            for number in range(150):
                sent.append(text := f"{room} {number}")
                await at.manager.broadcast(text, room=room)
                await asyncio.sleep(0)

        talking = asyncio.gather(talk(here, "chat:1"), talk(there, "chat:2"), talk(there, None))
        for number in range(6):
            await ann.close()
            await ann.open([here, there][number % 2])
            assert ann.hi["re"] is True, ann.hi
        await talking
        await eventually(lambda: len(ann.got) >= len(sent), timeout_s=10, what="all messages")
        assert sorted(ann.got) == sorted(sent)
        for room in ("chat:1", "chat:2", None):
            mine = [text for text in ann.got if text.startswith(f"{room} ")]
            assert mine == [f"{room} {number}" for number in range(150)]


async def test_losses_are_told_before_anything_later(managers: Managers) -> None:
    bounds: dict[str, Any] = {"history": {"chat:": History(messages=4)}}
    async with nodes(managers, **bounds) as (here, there):
        ann = await Client("ann").open(here)
        await say(here, "1")
        await got(ann, "1")
        await ann.close()
        await say(here, *map(str, range(2, 40)))
        await ann.open(there)
        assert ann.hi["re"] is False
        assert ann.live == 0
        ((log, top, code),) = ann.hi["lost"]
        assert (log, code) == ("chat:1", "trimmed")
        assert top == ann.hi["at"]["chat:1"]
        await say(here, "40")
        await got(ann, "1", ("lost", "chat:1", top, "trimmed"), "40")
        assert counter(there.manager, "history_lost_trimmed") == 1


WIDE: dict[str, Any] = {"history": {"chat:": History(messages=1000, bytes=16 << 20)}}
"""A log that has all of what a slow client missed."""


@pytest.mark.parametrize("uvicorn_protocol", [True, False])
async def test_slow_client_goes_on_from_the_log_on_the_same_socket(
    managers: Managers, *, uvicorn_protocol: bool
) -> None:
    settings = {**WIDE, "uvicorn_protocol": uvicorn_protocol, "write_timeout_s": 60.0}
    async with nodes(managers, **settings) as (here, there):
        ann, bob = await Client("ann", "chat:1,plain").open(here), await Client("bob").open(here)
        (connection,) = here.manager._state.shards.of_client("ann")
        ann.may_read.clear()
        texts = [f"{number} {'x' * 16_384}" for number in range(200)]
        longest = 0
        for text in texts:
            await there.manager.broadcast(text, room="chat:1")
            longest = max(longest, connection.writer.queued_bytes)
        assert longest < 64 * 1024 + 2 * 17_000, "its outbox is not filled with copies"
        await got(bob, *texts)
        # Messages that no log has are queued as ever, and may come before those of a log.
        await here.manager.broadcast("unstored", room="plain")
        await there.manager.broadcast("typing", room="chat:1", store=False)
        await got_last(bob, "typing")
        reads = counter(here.manager, "history_reads")
        ann.may_read.set()
        await eventually(lambda: len(ann.got) == 201, timeout_s=30, what="all messages")
        assert [text for text in ann.got if text != "unstored"] == texts
        assert counter(here.manager, "history_reads") == reads, "no read of everything that it missed"
        assert 10 < counter(here.manager, "history_parts") < 120, (
            "parts of 128 KiB, of which it takes a half at least"
        )
        await say(there, "live")
        await got_last(ann, "live")
        assert connection.ended is None
        assert counter(here.manager, "history_stops") >= 1
        assert counter(here.manager, "messages_dropped") == 1, (
            "the volatile message to a client that was slow"
        )
        assert counter(here.manager, "slow_consumers") == 0
        assert here.manager._registry.history.members._behind == {}
        assert here.manager._state.shards.of("ann").held == {}


async def test_slow_client_costs_redis_about_what_it_missed(
    own_managers: Managers, server: RedisServer
) -> None:
    async with nodes(own_managers, **WIDE, write_timeout_s=60.0) as (here, there):
        ann = await Client("ann").open(here)
        ann.may_read.clear()
        texts = [f"{number} {'x' * 8000}" for number in range(900)]
        await say(there, *texts)
        await eventually(lambda: counter(here.manager, "history_stops") == 1, what="a slow client")
        async with redis.asyncio.from_url(server.url) as client:
            before = (await client.info("stats"))["total_net_output_bytes"]
            ann.may_read.set()
            await eventually(lambda: len(ann.got) == len(texts), timeout_s=60, what="all messages")
            sent = (await client.info("stats"))["total_net_output_bytes"] - before
        assert ann.got == texts
        assert sent < 4 * sum(map(len, texts)), "it does not grow with the square of what was missed"


async def test_slow_client_that_leaves_and_is_back_during_a_read_goes_on_once(
    managers: Managers, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with nodes(managers, **WIDE, write_timeout_s=60.0) as (here, there):
        ann = await Client("ann").open(here)
        (connection,) = here.manager._state.shards.of_client("ann")
        logs, asked, may_answer = here.manager._state.backend.logs, asyncio.Event(), asyncio.Event()
        after = logs.after

        async def late(*arguments: Any) -> Any:
            found = await after(*arguments)
            asked.set()
            await may_answer.wait()
            return found

        monkeypatch.setattr(logs, "after", late)
        ann.may_read.clear()
        await say(there, *(f"{number} {'x' * 16_384}" for number in range(100)))
        ann.may_read.set()
        await asyncio.wait_for(asked.wait(), 30)
        await connection.leave("chat:1")
        await connection.join("chat:1")
        await eventually(lambda: any("in" in each for each in ann.events), what="the join")
        received = len(ann.got)
        may_answer.set()
        await say(there, "live", "more")
        await got_last(ann, "live", "more")
        assert len(ann.got) == received + 2, "nothing of the stay before"
        assert here.manager._state.shards.of("ann").held == {}


async def test_slow_client_goes_on_from_its_mailbox_on_the_same_socket(managers: Managers) -> None:
    mailbox = Mailbox(messages=1000, bytes=16 << 20)
    async with nodes(managers, mailbox=mailbox, write_timeout_s=60.0) as (here, there):
        ann = await Client("ann").open(here)
        (connection,) = here.manager._state.shards.of_client("ann")
        ann.may_read.clear()
        texts = [f"{number} {'x' * 16_384}" for number in range(200)]
        longest = 0
        for text in texts:
            assert await there.manager.send_to_client("ann", text, store=True)
            longest = max(longest, connection.writer.queued_bytes)
        await there.manager.broadcast("to everybody", store=False)
        assert longest < 64 * 1024 + 2 * 17_000, "its outbox is not filled with copies"
        ann.may_read.set()
        await eventually(lambda: len(ann.got) == 201, timeout_s=30, what="all messages")
        assert [text for text in ann.got if text != "to everybody"] == texts
        assert await there.manager.send_to_client("ann", "live", store=True)
        await got_last(ann, "live")
        assert connection.ended is None
        assert counter(here.manager, "history_stops") >= 1
        assert here.manager._state.shards.of("ann").held == {}


@pytest.mark.parametrize(("count", "size"), [(700, 300), (700, 3000)], ids=["in memory", "in parts"])
async def test_slow_client_gets_messages_to_several_rooms_once(
    managers: Managers, count: int, size: int
) -> None:
    """One log after the other would bring the second copies when the client has forgotten the first ones."""
    async with nodes(managers, **WIDE, write_timeout_s=60.0) as (here, there):
        ann = await Client("ann", "chat:1,chat:2").open(here)
        both, members = ["chat:1", "chat:2"], here.manager._registry.history.members
        await say(there, "first", room="chat:2")
        await got(ann, "first")
        ann.may_read.clear()
        await say(there, *(f"{number} {'x' * 16_384}" for number in range(40)), room="chat:1")
        await eventually(lambda: counter(here.manager, "history_stops") >= 1, what="a slow client")
        texts = [f"to both {number} {'x' * size}" for number in range(count)]
        await say_fast(there, *texts, room=both)
        ann.may_read.set()
        await got_last(ann, texts[-1], timeout_s=60)
        await eventually(lambda: members._behind == {}, what="a client that reads again")
        await say(there, "live", room=["chat:2", "chat:1"])
        await say(there, "end", room="chat:2")
        await got_last(ann, "live", "end")
        assert ann.got[41:-2] == texts
        assert here.manager._state.shards.of("ann").held == {}


async def test_message_that_a_slow_client_has_in_two_logs_waits_for_those_before_it(
    managers: Managers,
) -> None:
    """Its copy in a log that goes on would come far earlier than the one in the log that does not."""
    async with nodes(managers, **WIDE, write_timeout_s=60.0) as (here, there):
        ann = await Client("ann", "chat:1,chat:2").open(here)
        await say(there, "first", room="chat:2")
        await got(ann, "first")
        ann.may_read.clear()
        await say(there, *(f"{number} {'x' * 16_384}" for number in range(40)))
        await eventually(lambda: counter(here.manager, "history_stops") >= 1, what="a slow client")
        texts = [f"{number} {'x' * 500}" for number in range(400)]
        await say_fast(there, *texts, room=["chat:1", "chat:9"])
        await say(there, "both", room=["chat:2", "chat:1"])
        ann.may_read.set()
        await got_last(ann, "both", timeout_s=60)
        await say(there, "end")
        await got_last(ann, "end")
        assert ann.got[41:] == [*texts, "both", "end"]


async def test_slow_client_that_the_log_has_outrun_is_told_of_the_loss_first(managers: Managers) -> None:
    async with nodes(managers, write_timeout_s=60.0) as (here, there):
        ann = await Client("ann").open(here)
        (connection,) = here.manager._state.shards
        ann.may_read.clear()
        texts = [f"{number} {'x' * 16_384}" for number in range(200)]  # the log has about 16 of them
        await say(there, *texts)
        ann.may_read.set()
        await eventually(lambda: any(each[0] == "lost" for each in ann.got), timeout_s=30, what="a loss")
        await say(there, "later")
        await got_last(ann, "later")
        received = [each for each in ann.got if isinstance(each, str)]
        assert received[:-1] == texts[: len(received) - 1], (
            "a contiguous run, and then nothing before the loss"
        )
        ((_, log, _, code),) = [each for each in ann.got if not isinstance(each, str)]
        assert (log, code) == ("chat:1", "trimmed")
        assert ann.got[-2][0] == "lost"
        assert connection.ended is None


async def test_slow_client_may_leave_the_room_or_end(managers: Managers) -> None:
    async with node(managers, **WIDE, write_timeout_s=60.0) as here:
        ann, bob = await Client("ann").open(here), await Client("bob").open(here)
        (connection,) = here.manager._state.shards.of_client("ann")
        for each in (ann, bob):
            each.may_read.clear()
        await say(here, *(f"{number} {'x' * 16_384}" for number in range(60)))
        members = here.manager._registry.history.members
        assert len(members._behind) == 2
        await connection.leave("chat:1")
        assert bob.socket is not None
        bob.socket.transport.abort()
        await eventually(lambda: members._behind == {}, what="both forgotten")
        ann.may_read.set()
        await eventually(lambda: {"out": "chat:1"} in ann.events, what="the leave")
        await connection.join("chat:1")
        await say(here, "again")
        await got_last(ann, "again")
        assert here.manager._state.shards.of("ann").held == {}
        assert here.manager._state.shards.of("bob").held == {}


async def test_unknown_cursor_and_deleted_history_are_losses(managers: Managers) -> None:
    async with nodes(managers) as (here, there):
        ann = await Client("ann").open(here)
        await say(here, "1", "2")
        await got(ann, "1", "2")
        await ann.close()
        ann.at["chat:1"] -= 1
        await ann.open(there)
        assert ann.hi["re"] is False
        assert [row[2] for row in ann.hi["lost"]] == ["unknown"]
        await ann.close()
        ann.got.clear()
        await say(here, "deleted")
        await here.manager.delete_history("chat:1")
        await ann.open(there)
        assert [row[2] for row in ann.hi["lost"]] == ["reset"]
        await say(here, "3")
        await got_last(ann, "3")
        assert "deleted" not in ann.got


async def test_live_clients_are_told_of_a_deletion(managers: Managers) -> None:
    async with nodes(managers) as (here, there):
        ann = await Client("ann").open(here)
        await say(there, "1")
        await got(ann, "1")
        await there.manager.delete_history("chat:1")
        await say(there, "2")
        await eventually(lambda: ann.got[-1:] == ["2"])
        # A deletion of what the client has is no loss.
        assert ann.got == ["1", "2"]


async def test_room_that_is_joined_later_continues_from_the_cursor(managers: Managers) -> None:
    async with nodes(managers) as (here, there):
        ann = await Client("ann", "").open(here)
        assert ann.socket is not None
        await ann.socket.send('{"m":"join chat:9"}')
        await eventually(lambda: {"in": "chat:9", "at": 0} in ann.events, what="in")
        await say(there, "1", room="chat:9")
        await got(ann, "1")
        await ann.close()
        await say(there, "2", room="chat:9")
        await ann.open(there)
        assert ann.hi["re"] is True  # the session has kept the room
        await got(ann, "1", "2")
        await ann.socket.send('{"m":"leave chat:9"}')
        await eventually(lambda: {"out": "chat:9"} in ann.events, what="out")
        await say(there, "unheard", room="chat:9")
        await ann.socket.send('{"m":"join chat:9"}')
        await eventually(lambda: next(iter(ann.events[-1])) == "in", what="in")
        await say(there, "3", room="chat:9")
        await eventually(lambda: ann.got[-1:] == ["3"], what="3")
        assert "unheard" not in ann.got


async def test_excluded_clients_move_on_and_get_no_excluded_entry(managers: Managers) -> None:
    async with nodes(managers) as (here, there):
        ann = await Client("ann").open(here)
        await say(there, "1")
        await say(there, "not for ann", exclude_client="ann")
        await got(ann, "1")
        await eventually(
            lambda: any("at" in event and "in" not in event for event in ann.events), 10, what="at"
        )
        await ann.close()
        await say(there, "2")
        await say(there, "not for ann either", exclude_client="ann")
        await ann.open(there)
        assert ann.hi["re"] is True
        assert ann.live == 1
        await got(ann, "1", "2")
        position = ann.at["chat:1"]
        await ann.close()
        await ann.open(here)
        assert (ann.live, ann.at["chat:1"]) == (0, position)


async def test_excluded_connection_is_told_its_position(managers: Managers) -> None:
    async with node(managers) as here:
        ann = await Client("ann").open(here)
        connection = here.manager._state.shards.newest("ann")
        result = await here.manager.broadcast("unheard", room="chat:1", exclude_connection=connection)
        await eventually(lambda: ann.at["chat:1"] == result.id, timeout_s=10, what="its position")
        assert ann.got == []


async def test_excluded_connection_gets_no_excluded_entry_after_its_end(managers: Managers) -> None:
    async with nodes(managers) as (here, there):
        ann = await Client("ann").open(here)
        assert ann.socket is not None
        await ann.socket.send(json.dumps({"m": "join attic", "n": 1}))
        await eventually(lambda: {"n": 1} in ann.events, what="the room is kept")
        connection = here.manager._state.shards.newest("ann")
        await here.manager.broadcast("by herself", room="chat:1", exclude_connection=connection)
        await ann.close()
        await eventually(lambda: here.manager.get_connection_count() == 0)
        await say(there, "by another")
        await ann.open(there)
        assert (ann.hi["re"], ann.live) == (True, 1)
        await got(ann, "by another")


async def test_excluded_client_is_told_no_position_past_its_replay(managers: Managers) -> None:
    async with nodes(managers) as (here, there):
        ann = await Client("ann").open(here)
        await say(here, "1")
        await got(ann, "1")
        await ann.close()
        await say(here, "2", "3")
        bob = await Client("bob").open(there)  # this node begins behind "3", so ann's replay must be read
        ann.rooms, ann.sid = "", "unknown"  # a former session would bring its rooms
        await ann.open(there)
        reading = there.manager._registry.history._reading
        for _ in range(READS):
            await reading.acquire()
        assert ann.socket is not None
        await ann.socket.send('{"m":"join chat:1"}')
        held = there.manager._state.shards.of("ann").held
        await eventually(lambda: "chat:1" in held, what="a member that is held")
        others = [f"not for ann {number}" for number in range(MAX_SKIPPED + 1)]
        await say(here, *others, exclude_client="ann")
        await got(bob, *others)
        await ann.close()
        for _ in range(READS):
            reading.release()
        ann.rooms = "chat:1"
        await ann.open(here)
        assert ann.hi["re"] is True
        await got(ann, "1", "2", "3")
        await bob.close()


async def test_message_to_several_rooms_is_given_once_across_a_move(managers: Managers) -> None:
    async with nodes(managers) as (here, there):
        ann = await Client("ann", "chat:1,chat:2").open(here)
        await say(there, "both", room=["chat:1", "chat:2"])
        await got(ann, "both")
        await ann.close()
        await say(there, "missed both", room=["chat:2", "chat:1"])
        await ann.open(there)
        await say(here, "end", room="chat:2")
        await got(ann, "both", "missed both", "end")


SINCE_JOIN: dict[str, Any] = {
    "history": {"secret:": History(visible="since_join")},
    "history_for_all": History(visible="since_join"),
}


async def test_messages_since_the_join_only(managers: Managers) -> None:
    async with nodes(managers, **SINCE_JOIN) as (here, there):
        await say(here, "before", room="secret:1")
        await say(here, "before, to all", room=None)
        ann = await Client("ann", "secret:1").open(there)
        assert min(ann.hi["at"]["secret:1"], ann.hi["all"]) > 0
        for number, at in enumerate([here, there, here]):
            await ann.close()
            ann.at["secret:1"], ann.all = 0, 0  # it asks for more than it may see
            await say(there, f"{number}", room="secret:1")
            await say(there, f"all {number}", room=None)
            await ann.open(at)
            assert (ann.hi["re"], ann.hi.get("lost")) == (True, None)
            assert ann.got[-2 * (number + 1) :] == [
                text for each in range(number + 1) for text in (f"{each}", f"all {each}")
            ]
        assert "before" not in ann.got
        assert "before, to all" not in ann.got
        await ann.close()


async def test_messages_from_before_a_second_join_are_not_seen(managers: Managers) -> None:
    """The application has taken the room from the client's Identity for a while."""
    async with nodes(managers, **SINCE_JOIN) as (here, there):
        ann = await Client("ann", "secret:1,other").open(there)
        await ann.close()
        ann.rooms = "other"
        await ann.open(here)
        await ann.close()
        await say(here, "secret", room="secret:1")
        ann.rooms = "secret:1,other"
        await ann.open(there)
        assert [row[::2] for row in ann.hi["lost"]] == [["secret:1", "unknown"]]
        await say(here, "later", room="secret:1")
        await got_last(ann, "later")
        assert "secret" not in ann.got
        await ann.close()


async def test_messages_between_a_join_and_the_end_of_an_outage_are_not_left_out(
    own_managers: Managers, server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client is live before its position is kept."""
    async with nodes(own_managers, **SINCE_JOIN) as (here, there):
        sessions = there.manager._state.backend.sessions
        note, may_write = sessions.note, asyncio.Event()

        async def note_later(*arguments: Any, **how: Any) -> bool:
            await may_write.wait()
            return await note(*arguments, **how)

        monkeypatch.setattr(sessions, "note", note_later)
        monkeypatch.setattr(there.manager._state.config, "redis_timeout_s", 0.2)
        ann = await Client("ann", "secret:1").open(there)
        await say(here, "1", room="secret:1")
        await got(ann, "1")
        ann.at["secret:1"] = ann.hi["at"]["secret:1"]  # the socket broke before the message arrived
        ann.got.clear()
        may_write.set()

        async def is_kept() -> bool:
            held = await sessions.take(ann.sid, SessionName("ann", ann.sid, ConnectionId("n.1")), 60_000)
            return held is not None and "secret:1" in held.rooms

        await eventually(is_kept, what="the position is kept")
        await ann.close()
        await ann.open(here)
        assert ann.hi["re"] is True
        await got(ann, "1")
        await ann.close()


async def test_newest_messages_on_join_and_those_since_the_join_only(managers: Managers) -> None:
    kinds: dict[str, Any] = {
        "history": {"chat:": History(on_join=2), "secret:": History(visible="since_join")},
        "history_for_all": None,
    }
    async with nodes(managers, **kinds) as (here, there):
        await say(here, "1", "2", "3")
        await say(here, "before", room="secret:1")
        ann = await Client("ann", "chat:1,secret:1").open(there)
        await got(ann, "2", "3")
        assert ann.live == 2
        assert ann.hi["at"]["chat:1"] < ann.at["chat:1"], "the position is that before the replay"
        await ann.close()
        await say(here, "4")
        ann.at["secret:1"] = 0
        await ann.open(here)
        assert ann.got == ["2", "3", "4"]
        assert ann.hi["re"] is True


async def test_newest_messages_come_once_to_a_room_that_is_joined_later(managers: Managers) -> None:
    kinds: dict[str, Any] = {"history": {"chat:": History(on_join=2)}, "history_for_all": None}
    async with nodes(managers, **kinds) as (here, there):
        first, *_ = [result.id for result in [await here.manager.broadcast(t, room="chat:9") for t in "123"]]
        ann = await Client("ann", "").open(there)
        assert ann.socket is not None
        await ann.socket.send('{"m":"join chat:9"}')
        await got(ann, "2", "3")
        assert {"in": "chat:9", "at": first} in ann.events
        await ann.socket.send('{"m":"leave chat:9"}')
        await eventually(lambda: {"out": "chat:9"} in ann.events, what="out")
        await ann.socket.send('{"m":"join chat:9"}')
        await eventually(lambda: next(iter(ann.events[-1])) == "in", what="in")
        await say(here, "4", room="chat:9")
        await got(ann, "2", "3", "4")


@pytest.mark.parametrize(("count", "shown"), [(0, []), (1, ["0"]), (2, ["0", "1"]), (9, ["7", "8"])])
async def test_newest_messages_of_any_log(managers: Managers, count: int, shown: list[str]) -> None:
    kinds: dict[str, Any] = {
        "history": {"chat:": History(messages=3, on_join=2)},
        "history_for_all": History(on_join=2),
    }
    async with nodes(managers, **kinds) as (here, there):
        for room in ("chat:1", None):
            await say(here, *map(str, range(count)), room=room)
        for number, at in enumerate([there, there, here]):  # the first of a replica opens the log
            ann = await Client(f"ann{number}").open(at)
            assert sorted(ann.got) == sorted(shown * 2)
            assert ann.live == 2 * len(shown)
            assert "re" not in ann.hi
            assert "lost" not in ann.hi


async def test_newest_messages_behind_a_deletion(managers: Managers) -> None:
    kinds: dict[str, Any] = {"history": {"chat:": History(on_join=5)}, "history_for_all": None}
    async with nodes(managers, **kinds) as (here, there):
        await say(here, "deleted 1", "deleted 2")
        await here.manager.delete_history("chat:1")
        await say(here, "1", "2")
        for at in (there, here):
            ann = await Client("ann").open(at)
            await got(ann, "1", "2")


async def test_new_clients_of_a_busy_room_read_nothing_each(
    own_managers: Managers, server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "COMPARE_S", math.inf)  # a comparison reads as well
    kinds: dict[str, Any] = {"history": {"chat:": History(on_join=2)}, "history_for_all": None}
    async with nodes(own_managers, **kinds) as (here, there), redis.asyncio.Redis(port=server.port) as asking:
        await Client("first").open(there)
        await say(here, "1", "2", "3")

        async def reads() -> int:
            return int((await asking.info("commandstats"))["cmdstat_lrange"]["calls"])

        before = await reads()
        for client in [await Client(f"c{number}").open(there) for number in range(5)]:
            await got(client, "2", "3")
        assert await reads() == before
        await Client("elsewhere").open(here)
        assert await reads() > before


async def test_many_clients_that_return_together_share_reads(managers: Managers) -> None:
    async with nodes(managers) as (here, there):
        clients = [await Client(f"c{number}").open(here) for number in range(20)]
        await say(here, "1")
        for client in clients:
            await got(client, "1")
            await client.close()
        await say(here, "2")
        before = counter(there.manager, "history_reads")
        await asyncio.gather(*(client.open(there) for client in clients))
        for client in clients:
            await got(client, "1", "2")
        # One that opens the room, and a few for each of the two logs; 40 without sharing.
        assert counter(there.manager, "history_reads") - before <= 8


@pytest.mark.parametrize("what", ["kill_pubsub", "restart_empty"])
async def test_clients_that_stay_miss_nothing_or_are_told(
    own_managers: Managers, server: RedisServer, what: str
) -> None:
    settings: dict[str, Any] = {"lease_ttl_s": 20.0, "renew_interval_s": 0.4}
    async with nodes(own_managers, **settings) as (here, there):
        ann = await Client("ann").open(here)
        await say(there, "1")
        await got(ann, "1")
        await asyncio.to_thread(getattr(server, what))
        sent = []
        for number in range(200):
            try:
                await there.manager.broadcast(f"after {number}", room="chat:1")
            except Exception:  # noqa: BLE001 - Redis is away
                await asyncio.sleep(0.05)
                continue
            sent.append(f"after {number}")

        async def flows() -> bool:
            sent.append(f"after {len(sent)} more")
            await there.manager.broadcast(sent[-1], room="chat:1")
            return len(sent) > 1 and sent[-2] in ann.got

        await eventually(flows, timeout_s=10, what="messages flow again")
        await eventually(lambda: ann.got[-1] == sent[-1], what="the last message")
        lost = [item for item in ann.got if isinstance(item, tuple)]
        heard = [item for item in ann.got[1:] if isinstance(item, str)]
        if not lost:
            assert heard == sent
        else:  # what came behind the last loss is without a gap
            behind = ann.got[ann.got.index(lost[-1]) + 1 :]
            assert behind == sent[len(sent) - len(behind) :]
        assert not lost or what == "restart_empty"


# Redis is away


@pytest.mark.parametrize("deleted", [False, True])
async def test_client_that_comes_back_while_redis_is_away_is_told_later(
    own_managers: Managers, server: RedisServer, deleted: bool
) -> None:
    async with TcpProxy("127.0.0.1", server.port) as proxy, node(own_managers) as there:
        url = f"redis://127.0.0.1:{proxy.port}"
        async with node(own_managers, redis_url=url, redis_timeout_s=0.5) as here:
            ann = await Client("ann").open(there)
            await say(there, "1")
            await got(ann, "1")
            await ann.close()
            proxy.cut()
            await eventually(lambda: here.manager._state.is_away, what="Redis is away")
            await say(there, "missed")
            if deleted:
                await there.manager.delete_history("chat:1")
            ann.hi = {}
            opening = asyncio.create_task(ann.open(here))
            await eventually(lambda: bool(ann.hi), timeout_s=10)
            before = ann.at["chat:1"]
            assert (ann.hi["re"], ann.hi["at"], ann.hi["all"]) == ("later", {"chat:1": before}, 0)
            assert not opening.done()
            proxy.resume()
            async with asyncio.timeout(20):
                await opening
            outcome = [event for event in ann.events if "re" in event][-1]
            assert outcome == {"re": not deleted}
            if deleted:
                await got(ann, "1", ("lost", "chat:1", ann.at["chat:1"], "reset"))
            else:
                await got(ann, "1", "missed")
            await say(there, "live")
            await got_last(ann, "live")
            await ann.close()


@pytest.mark.parametrize("is_known", [False, True])
async def test_client_with_many_rooms_is_answered_in_time_while_redis_is_away(is_known: bool) -> None:
    """Some clients give up after 10 s."""
    config = WebSocketConfig(**STORED, drain_on_sigterm=False, redis_timeout_s=1.0)
    rooms = [f"chat:{number}" for number in range(30)]
    async with MemoryCluster(2, config) as cluster:
        here, _ = cluster.managers
        app = FastAPI()

        @here.websocket(app, "/ws/{client_id}")
        async def identify(client_id: str) -> Identity:
            return Identity(client_id, rooms=rooms)

        async with serving(app) as served:
            cluster.cut(here)
            if is_known:
                await here.beat()
            offer = [
                V1,
                f"{V1}.resume.{coded(json.dumps({'s': 'x', 't': 0, 'at': dict.fromkeys(rooms, 1)}))}",
            ]
            url = f"ws://127.0.0.1:{served.port}/ws/ann"
            subprotocols = [Subprotocol(item) for item in offer]
            async with (
                connect(url, subprotocols=subprotocols, proxy=None, close_timeout=1) as client,
                asyncio.timeout(10),
            ):
                hi = json.loads(await client.recv())["hi"]
            assert hi["re"] == "later"
            assert hi["at"].keys() == set(rooms)


# Drain


async def test_nothing_is_missed_by_a_client_that_moves_in_a_drain(managers: Managers) -> None:
    """From the cursor that it takes when it is told to go."""
    async with nodes(managers) as (here, there):
        old = await Client("ann").open(here)
        texts = [f"{number}" for number in range(300)]

        async def talk() -> None:
            for text in texts:
                await say(there, text)

        talking = asyncio.create_task(talk())
        await eventually(lambda: len(old.got) > 20)
        draining = asyncio.create_task(here.manager.drain(20.0))
        await eventually(lambda: any("go" in event for event in old.events), timeout_s=15)
        before = list(old.got)
        new = await Client("ann", sid=old.sid, t=old.t, at=dict(old.at), all=old.all).open(there)
        assert (new.hi["re"], "n" in new.hi) == (True, False)
        assert old.reading is not None
        async with asyncio.timeout(10):
            await old.reading
            await talking
            report = await draining
        await eventually(lambda: before + new.got == texts, what="all messages, in order and once")
        assert (report.closed_count, report.failed_count) == (1, 0)
        await new.close()


async def test_client_whose_session_cannot_be_compared_is_to_come_back(
    own_managers: Managers, server: RedisServer
) -> None:
    async with TcpProxy("127.0.0.1", server.port) as proxy:
        url = f"redis://127.0.0.1:{proxy.port}"
        async with node(own_managers, redis_url=url, redis_timeout_s=0.5) as here:
            is_back = asyncio.Event()

            @here.manager.on_join
            async def may_join(connection: Connection, room: str) -> bool:
                if is_back.is_set():
                    proxy.cut()
                return True

            ann = await Client("ann", "").open(here)
            assert ann.socket is not None
            await ann.socket.send('{"join":"chat:9","q":1}')
            await eventually(lambda: any("a" in event for event in ann.events), what="the answer")
            keeping = here.manager._registry.keeping
            await eventually(lambda: not keeping._unwritten, what="the session is kept")
            await ann.close()
            is_back.set()
            former, opening = ann.socket, asyncio.create_task(ann.open(here))

            def close_code() -> int | None:
                return None if ann.socket is None or ann.socket is former else ann.socket.close_code

            await eventually(lambda: close_code() is not None, 10, what="the close")
            assert close_code() == 1013
            opening.cancel()
            proxy.resume()
