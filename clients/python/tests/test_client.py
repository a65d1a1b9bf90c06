"""The client on real sockets, with a server whose frames the test writes."""

import asyncio
import logging
import os
import signal
import ssl
import sys
from base64 import urlsafe_b64decode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme
from clients.python.tests.scripted import Peer, Scripted, scripted
from tests.support.waiting import eventually

from fastapi_websocket_stabilizer_client import (
    MAILBOX,
    Client,
    ClosedError,
    IncompatibleServerError,
    InterruptedRequestError,
    InvalidDataError,
    Lost,
    Message,
    NotConnectedError,
    ReplacedError,
    RequestFailedError,
    RequestTimeoutError,
    Status,
    StatusChange,
    UnauthorizedError,
)
from fastapi_websocket_stabilizer_client.messages import Members


@asynccontextmanager
async def connected(
    server: Scripted, client: Client | None = None, **hi: Any
) -> AsyncIterator[tuple[Client, Peer]]:
    """Yield a client that is live, and the server's end of its connection."""
    client = client or Client(server.url, proxy=None)
    greeting = asyncio.create_task(server.greeted(**hi))
    async with client:
        yield client, await greeting


async def taken(client: Client, count: int) -> list[Message | Lost]:
    """Return the next events of the iterator."""
    found = []
    async with asyncio.timeout(10):
        async for event in client:
            found.append(event)
            if len(found) == count:
                break
    return found


def resumed(peer: Peer) -> str | None:
    """Return the cursor in the header of a connection."""
    prefix = "stabilizer.v1.resume."
    coded = [item.removeprefix(prefix) for item in peer.items if item.startswith(prefix)]
    return urlsafe_b64decode(coded[0] + "=" * (-len(coded[0]) % 4)).decode() if coded else None


# Messages.


async def test_iterating_yields_messages_and_losses_in_their_order() -> None:
    async with scripted() as server, connected(server) as (client, peer):
        await peer.send(
            [5, "a", {"x": 1}],
            b"\x01" + bytes(10) + b"\xca\xfe",
            {"lost": [["a", 9, "hole"]]},
            [10, "a", "y"],
        )
        assert await taken(client, 4) == [
            Message("a", 5, {"x": 1}),
            Message(MAILBOX, 0, b"\xca\xfe"),
            Lost("a", 9, "hole"),
            Message("a", 10, "y"),
        ]


async def test_rooms_with_handlers_are_left_out_of_the_iterator() -> None:
    seen: list[Any] = []
    async with scripted() as server, connected(server) as (client, peer):
        room = client.room("a")
        room.on(lambda message: seen.append(message.data))
        await peer.send([1, "a", "handled"], [1, "b", "iterated"])
        assert await taken(client, 1) == [Message("b", 1, "iterated")]
        await eventually(lambda: seen == ["handled"])
        assert client.room("a") is room


async def test_handler_of_the_client_gets_what_no_room_handles() -> None:
    seen = []
    async with scripted() as server, connected(server) as (client, peer):
        client.room("a").on(lambda message: seen.append(("room", message.data)))
        client.on(lambda message: seen.append(("client", message.data)))
        await peer.send([1, "a", 1], [1, "b", 2], [0, 0, 3])
        await eventually(lambda: seen == [("room", 1), ("client", 2), ("client", 3)])


async def test_messages_wait_until_a_loss_was_handled() -> None:
    seen, reloaded = [], asyncio.Event()
    async with scripted() as server, connected(server) as (client, peer):
        room = client.room("a")

        @room.on_lost
        async def reload(lost: Lost) -> None:
            seen.append(lost.top)
            await reloaded.wait()

        room.on(lambda message: seen.append(message.data))
        await peer.send({"lost": [["a", 9, "trimmed"]]}, [10, "a", "later"], {"ping": 1})
        assert await peer.receive() == {}
        assert seen == [9]
        reloaded.set()
        await eventually(lambda: seen == [9, "later"])


async def test_loss_that_nothing_handles_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async with scripted() as server, connected(server) as (client, peer):
        client.room("a").on(lambda message: None)
        await peer.send({"lost": [["a", 9, "trimmed"]]})
        await eventually(
            lambda: "messages of a are missing (trimmed): load the state in on_lost" in caplog.text
        )


async def test_handler_that_raises_does_not_stop_the_next(caplog: pytest.LogCaptureFixture) -> None:
    seen = []

    def handle(message: Message) -> None:
        seen.append(message.data)
        if message.data == 1:
            raise ValueError("bad luck")

    async with scripted() as server, connected(server) as (client, peer):
        client.on(handle)
        await peer.send([1, "a", 1], [2, "a", 2])
        await eventually(lambda: seen == [1, 2])
        assert "bad luck" in caplog.text


async def test_handler_that_raises_does_not_keep_the_message_from_the_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    seen = []

    def fail(message: Message) -> None:
        raise ValueError("bad luck")

    async with scripted() as server, connected(server) as (client, peer):
        client.on(fail)
        client.on(lambda message: seen.append(message.data))
        await peer.send([1, "a", 1])
        await eventually(lambda: seen == [1])
        assert "bad luck" in caplog.text


async def test_handler_may_close_the_client() -> None:
    async with scripted() as server, connected(server) as (client, peer):

        @client.on
        async def end(message: Message) -> None:
            await client.close()

        await peer.send([1, "a", 1])
        assert await peer.ended() == 1000
        await client.wait_closed()
        assert client.status == "closed"


async def test_iteration_ends_after_close_with_what_had_come() -> None:
    async with scripted() as server, connected(server) as (client, peer):
        await peer.send([1, "a", 1], [2, "a", 2], {"ping": 1})
        await peer.receive()
        await client.close()
        assert [event async for event in client] == [Message("a", 1, 1), Message("a", 2, 2)]


async def test_iteration_raises_why_the_server_has_ended_the_client() -> None:
    async with scripted() as server, connected(server) as (client, peer):
        await peer.send([1, "a", 1])
        await peer.close(4510, "banned")
        assert await taken(client, 1) == [Message("a", 1, 1)]
        with pytest.raises(ClosedError, match="banned") as raised:
            await taken(client, 1)
        assert raised.value.code == 4510
        with pytest.raises(ClosedError):
            await client.send("x")


async def test_mailbox_is_marked_behind_the_handler() -> None:
    async with scripted() as server, connected(server) as (client, peer):
        await peer.send([7, 0, "first"], [8, 0, "second"])
        async with asyncio.timeout(10):
            async for event in client:
                assert isinstance(event, Message)
                if event.id == 8:
                    break
        assert await peer.receive() == {"k": 7}
        await client.close()
        assert await peer.ended() == 1000


async def test_loss_of_the_mailbox_is_marked_behind_the_handler() -> None:
    async with scripted() as server, connected(server) as (client, peer):
        await peer.send({"lost": [[0, 9, "trimmed"]]}, [10, 0, "next"])
        events = aiter(client)
        async with asyncio.timeout(10):
            assert await anext(events) == Lost(MAILBOX, 9, "trimmed")
            await anext(events)
        assert await peer.receive() == {"k": 9}


async def test_reading_stops_while_too_much_waits_and_goes_on_for_a_call(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with scripted() as server:
        client = Client(server.url, proxy=None, max_waiting=3)
        async with connected(server, client) as (client, peer):
            await peer.send(*([number, "a", number] for number in range(1, 5)), {"ping": 1})
            await eventually(lambda: "3 events wait for the application" in caplog.text)
            asking = asyncio.create_task(client.request("echo", 5))
            assert await peer.receive() == {"q": 1, "m": "echo", "d": 5}
            assert await peer.receive() == {}  # the call reads what is in front of its answer
            await peer.send({"a": 1, "d": 6})
            assert await asking == 6
            assert [event.id for event in await taken(client, 4) if isinstance(event, Message)] == [
                1,
                2,
                3,
                4,
            ]


# Calls.


async def test_data_is_sent_in_its_form() -> None:
    async with scripted() as server, connected(server) as (client, peer):
        for data in ("text", b"bytes", {"x": [1]}):
            await client.send(data)
        assert [await peer.receive() for _ in range(3)] == [
            {"m": "text"}, b"\x03\x00\x00\x00\x00bytes", {"m": {"x": [1]}},
        ]  # fmt: skip
        with pytest.raises(InvalidDataError, match="no JSON"):
            await client.send({"x": float("nan")})


async def test_message_is_confirmed_on_the_next_connection() -> None:
    async with scripted() as server, connected(server) as (client, peer):
        sending = asyncio.create_task(client.send("x", confirm=True))
        assert await peer.receive() == {"m": "x", "n": 1}
        peer.abort()
        peer = await server.greeted("s2", re=True)
        assert await peer.receive() == {"m": "x", "n": 1}
        await peer.send({"n": 1})
        await sending


async def test_refused_message_raises_the_error_of_the_server() -> None:
    async with scripted() as server, connected(server) as (client, peer):
        sending = asyncio.create_task(client.send("x", confirm=True))
        await peer.receive()
        await peer.send({"n": 1, "x": {"code": "invalid", "message": "text is missing"}})
        with pytest.raises(RequestFailedError, match="text is missing") as raised:
            await sending
        assert (raised.value.code, raised.value.retry) == ("invalid", False)


async def test_message_without_a_connection_is_refused_at_once() -> None:
    async with scripted() as server, connected(server) as (client, peer):
        peer.abort()
        await client.wait_for(Status.WAITING, Status.CONNECTING)
        with pytest.raises(NotConnectedError, match="confirm=True"):
            await client.send("x")


async def test_request_ends_with_an_error_or_a_timeout_or_the_connection() -> None:
    async with scripted() as server, connected(server) as (client, peer):
        asking = asyncio.create_task(client.request("rename"))
        assert await peer.receive() == {"q": 1, "m": "rename", "d": None}
        await peer.send({"a": 1, "x": {"code": "busy", "message": "not now", "retry": True}})
        with pytest.raises(RequestFailedError, match="not now"):
            await asking
        with pytest.raises(RequestTimeoutError):
            await client.request("slow", timeout=0.01)
        assert [(await peer.receive())["m"], await peer.receive()] == ["slow", {"c": 2}]
        asking = asyncio.create_task(client.request("interrupted"))
        await peer.receive()
        peer.abort()
        with pytest.raises(InterruptedRequestError):
            await asking


async def test_cancelled_request_is_cancelled_at_the_server() -> None:
    async with scripted() as server, connected(server) as (client, peer):
        asking = asyncio.create_task(client.request("slow"))
        await peer.receive()
        asking.cancel()
        assert await peer.receive() == {"c": 1}
        await peer.send({"a": 1, "d": 1}, {"ping": 1})
        assert await peer.receive() == {}


async def test_room_is_joined_again_when_the_session_has_expired() -> None:
    async with scripted() as server, connected(server) as (client, peer):
        joining = asyncio.create_task(client.join("chat"))
        assert await peer.receive() == {"join": "chat", "q": 1}
        await peer.send({"in": "chat", "at": None}, {"a": 1, "d": None})
        await joining
        assert client.rooms == {"a", "chat"}
        peer.abort()
        peer = await server.greeted("s2", re=True)
        assert await peer.receive() == {"join": "chat", "q": 2}
        left: list[Exception | None] = []
        client.room("chat").on_left(left.append)
        await peer.send({"a": 2, "x": {"code": "forbidden", "message": "not any more"}})
        await eventually(lambda: [str(error) for error in left] == ["not any more (forbidden)"])


async def test_requests_of_the_server_are_answered() -> None:
    async with scripted() as server, connected(server) as (client, peer):

        @client.on_request("double")
        async def double(data: int) -> int:
            if data == 0:
                raise RequestFailedError("zero", "not zero", retry=True)
            return 2 * data

        @client.on_request("strange")
        async def strange(data: Any) -> object:
            return object() if data else 1 / 0

        await peer.send(*({"q": n, "m": "double", "d": n - 1} for n in (1, 2)), {"q": 3, "m": "nothing"})
        await peer.send({"q": 4, "m": "strange", "d": 1}, {"q": 5, "m": "strange"})
        answers = {answer["a"]: answer for answer in [await peer.receive() for _ in range(5)]}
        assert answers[1]["x"] == {"code": "zero", "message": "not zero", "retry": True}
        assert answers[2] == {"a": 2, "d": 2}
        assert [answers[number]["x"]["code"] for number in (3, 4, 5)] == ["not_found", "failed", "failed"]


async def test_request_of_the_server_is_cancelled_with_its_handler() -> None:
    ended = asyncio.Event()
    async with scripted() as server, connected(server) as (client, peer):

        @client.on_request("wait")
        async def wait(data: Any) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

        await peer.send({"q": 1, "m": "wait"}, {"ping": 1})
        assert await peer.receive() == {}
        assert not ended.is_set()
        await peer.send({"c": 1})
        async with asyncio.timeout(10):
            await ended.wait()


async def test_presence_is_watched_by_its_handler() -> None:
    lists: list[Members] = []
    async with scripted() as server, connected(server) as (client, peer):
        room = client.room("a")
        room.on_presence(lists.append)
        assert await peer.receive() == {"p": "a", "v": 0}
        await peer.send(
            {"p": "a", "v": 7, "=": [["ann", 1]], "more": 1}, {"p": "a", "v": 7, "=": [["bob", 2]]}
        )
        await peer.send({"p": "a", "v": 8, "+": [["ann", 3]], "-": ["bob"]})
        await eventually(lambda: lists == [{"ann": 1, "bob": 2}, {"ann": 3}])
        assert room.members == {"ann": 3}


async def test_handler_that_was_removed_is_called_no_more() -> None:
    seen: list[Any] = []
    lists: list[Members] = []

    def of_all(message: Message) -> None:
        seen.append(("all", message.data))

    def of_room(message: Message) -> None:
        seen.append(("room", message.data))

    async def answer(data: Any) -> Any:
        return data

    async with scripted() as server, connected(server) as (client, peer):
        room, changes = client.room("a"), list[StatusChange]()
        client.on(of_all)
        room.on(of_room)
        client.on_status(changes.append)
        client.on_request("echo")(answer)
        room.on_presence(lists.append)
        assert await peer.receive() == {"p": "a", "v": 0}
        await peer.send([1, "a", 1], {"p": "a", "v": 7, "=": [["ann", 1]]}, {"q": 1, "m": "echo", "d": 5})
        assert await peer.receive() == {"a": 1, "d": 5}
        await eventually(lambda: (seen, lists) == ([("room", 1)], [{"ann": 1}]))
        room.off(of_room)
        room.off(lists.append)
        assert (await peer.receive(), room.members) == ({"p": "a", "v": None}, {})
        client.off(answer)
        client.off(changes.append)
        await peer.send([2, "a", 2], {"q": 2, "m": "echo", "d": 5})
        assert (await peer.receive())["x"]["code"] == "not_found"
        await eventually(lambda: seen == [("room", 1), ("all", 2)])
        client.off(of_all)
        await peer.send([3, "a", 3])
        (message,) = await taken(client, 1)
        assert isinstance(message, Message)
        assert message.data == 3
        client.offline()
        assert (changes, lists) == ([], [{"ann": 1}])


# Connections.


async def test_cursor_is_in_the_header_of_the_next_connection() -> None:
    async with scripted() as server, connected(server) as (_, peer):
        assert resumed(peer) is None
        await peer.send([5, "a", "x"], {"t": 9}, {"ping": 1})
        await peer.receive()
        peer.abort()
        assert resumed(await server.greeted("s2", re=True)) == '{"s":"s1","t":9,"at":{"a":5},"all":0,"box":0}'


async def test_drain_moves_to_the_next_socket_before_the_old_one_ends() -> None:
    async with scripted() as server, connected(server) as (client, old):
        await old.send({"go": {"in": 800}})
        new = await server.peer()
        await old.send([5, "a", "held"])
        await client.send("still on the old socket")
        assert await old.receive() == {"m": "still on the old socket"}
        await new.send(
            {"hi": {"v": 1, "id": "ann", "sid": "s2", "t": 2, "ping": 25, "re": True, "at": {"a": 0}}}
        )
        await new.send([5, "a", "held"], {"live": 1})
        assert await old.ended() == 1000
        assert await taken(client, 1) == [Message("a", 5, "held")]
        assert client.status is Status.LIVE


async def test_status_is_told_with_its_cause() -> None:
    changes: list[StatusChange] = []
    async with scripted() as server:
        client = Client(server.url, proxy=None)
        client.on_status(changes.append)
        async with connected(server, client) as (client, peer):
            await peer.close(1012, '{"reconnect_in_ms":0}')
            await server.greeted("s2", re=True)
            await client.wait_for(Status.LIVE)
            await eventually(lambda: len(changes) >= 7)
    assert [change.new for change in changes] == [
        *("connecting", "catching-up", "live", "waiting", "connecting", "catching-up", "live", "closed"),
    ]
    assert changes[3].cause == 'the replica drains (close code 1012): {"reconnect_in_ms":0}'
    assert (changes[3].close_code, changes[3].retry_in_s, changes[3].error) == (1012, 0, None)


async def test_offline_client_waits_for_the_network() -> None:
    async with scripted() as server, connected(server) as (client, peer):
        client.offline()
        assert await peer.ended() == 1000
        assert client.status is Status.OFFLINE
        client.online()
        await server.greeted("s2", re=True)
        await client.wait_for(Status.LIVE)


@pytest.mark.parametrize(
    ("selected", "text"),
    [(None, "upgrade all replicas first"), ("graphql-ws", "the subprotocol 'graphql-ws'")],
)
async def test_server_without_the_protocol_is_named(selected: str | None, text: str) -> None:
    async with scripted(subprotocol=selected) as server:
        with pytest.raises(IncompatibleServerError, match=text):
            async with Client(server.url, proxy=None, open_timeout=5):
                pass


async def test_server_of_another_version_is_named() -> None:
    async with scripted() as server:
        greeting = asyncio.create_task(server.greeted(v=2))
        with pytest.raises(IncompatibleServerError, match=r"version 2 of stabilizer\.v1.*upgrade the client"):
            async with Client(server.url, proxy=None):
                pass
        await greeting


async def test_client_that_is_not_connected_in_time_says_why() -> None:
    with pytest.raises(NotConnectedError, match=r"not connected in 0\.2 s: no connection: ConnectionRefused"):
        async with Client("ws://127.0.0.1:9/ws", proxy=None, open_timeout=0.2):
            pass


async def test_url_of_something_else_is_refused() -> None:
    with pytest.raises(ValueError, match="ws://… or wss://…"):
        Client("http://localhost")


@pytest.mark.parametrize("bound", [0, -1, 2.5, "5", True])
@pytest.mark.parametrize(
    "name",
    ["max_message_bytes", "max_frame_bytes", "max_waiting", "max_unconfirmed", "max_unconfirmed_bytes"],
)
def test_bound_that_would_stop_the_client_is_refused(name: str, bound: Any) -> None:
    with pytest.raises(ValueError, match=f"{name} must be a whole number above 0, got {bound!r}"):
        Client("ws://localhost", **{name: bound})


@pytest.mark.parametrize("auth", [5, b"token"])
def test_auth_that_is_no_token_is_refused_before_the_first_attempt(auth: Any) -> None:
    with pytest.raises(TypeError, match="auth must be a token or a function"):
        Client("ws://localhost", auth=auth)


def test_function_of_the_wrong_kind_is_refused() -> None:
    client = Client("ws://localhost")

    async def waits(_: Any) -> None: ...

    tell: Any = waits
    with pytest.raises(TypeError, match="without async"):
        client.on_status(tell)


async def test_credentials_are_got_before_each_attempt() -> None:
    tokens = iter(("YQ", "Yg"))

    async def auth() -> str:
        return {"YQ": "a", "Yg": "b"}[next(tokens)]

    async with scripted() as server:
        client = Client(server.url, proxy=None, auth=auth)
        async with connected(server, client) as (client, peer):
            assert "stabilizer.v1.auth.YQ" in peer.items
            await peer.close(4401)
            peer = await server.greeted("s2", re=True)
            assert "stabilizer.v1.auth.Yg" in peer.items


async def test_credentials_are_renewed_before_they_expire() -> None:
    async def auth() -> str:
        return "token"

    async with scripted() as server:
        client = Client(server.url, proxy=None, auth=auth)
        async with connected(server, client, exp=0) as (client, peer):
            assert await peer.receive() == {"auth": "token", "q": 1}
            await peer.send({"a": 1, "d": {"exp": 3600}}, {"ping": 1})
            assert await peer.receive() == {}


async def test_token_that_is_refused_ends_the_client() -> None:
    async with (
        scripted() as server,
        connected(server, Client(server.url, proxy=None, auth="t")) as (client, peer),
    ):
        await peer.close(4401)
        with pytest.raises(UnauthorizedError, match=r"close code 4401.*Pass a function as auth="):
            await client.wait_closed()


async def test_function_for_credentials_may_fail_and_is_called_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    calls = []

    async def auth() -> str:
        calls.append(1)
        if len(calls) == 1:
            raise OSError("no identity provider")
        return "token"

    async with scripted() as server, connected(server, Client(server.url, proxy=None, auth=auth)):
        assert len(calls) == 2
        assert "no identity provider" in caplog.text


async def test_function_for_credentials_needs_no_async() -> None:
    async with scripted() as server:
        client = Client(server.url, proxy=None, auth=lambda: "a")
        async with connected(server, client, exp=0) as (client, peer):
            assert "stabilizer.v1.auth.YQ" in peer.items
            assert await peer.receive() == {"auth": "a", "q": 1}


@pytest.mark.parametrize("token", [None, 5, b"token"])
async def test_function_for_credentials_must_return_a_string(token: Any) -> None:
    async def get_token() -> Any:
        return token

    async with scripted() as server:
        with pytest.raises(NotConnectedError, match=f"auth returned {token!r}, not a string"):
            async with Client(server.url, proxy=None, auth=get_token, open_timeout=0.2):
                pass


async def test_function_for_credentials_that_never_returns_does_not_keep_the_client() -> None:
    started = asyncio.Event()

    async def auth() -> str:
        started.set()
        await asyncio.Event().wait()
        return ""

    client = Client("ws://127.0.0.1:9/ws", auth=auth)
    opening = asyncio.create_task(client.__aenter__())
    await started.wait()
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert client.status is Status.CLOSED


async def test_client_that_was_replaced_stays_away() -> None:
    async with scripted() as server, connected(server) as (client, peer):
        await peer.close(4500, '{"by":"s9"}')
        with pytest.raises(ReplacedError, match="an id of its own"):
            await client.wait_closed()
        for call in (client.send("x"), client.send("x", confirm=True), client.request("r"), client.join("b")):
            with pytest.raises(ReplacedError) as raised:
                await call
            assert (raised.value.code, raised.value.reason) == (4500, '{"by":"s9"}')
        assert isinstance(client.error, ReplacedError)


async def test_client_that_was_ended_may_be_connected_again() -> None:
    async with scripted() as server, connected(server) as (client, peer):
        await peer.close(4503)
        await client.wait_for(Status.CLOSED)
        client.reconnect()
        peer = await server.greeted("s2", re=True)
        await client.wait_for(Status.LIVE)
        await peer.send([1, "a", "still here"])
        assert await taken(client, 1) == [Message("a", 1, "still here")]


async def test_client_that_was_closed_may_be_connected_again_and_comes_back_by_itself() -> None:
    async with scripted() as server, connected(server) as (client, _):
        asking = asyncio.create_task(client.request("x", timeout=0.01))
        await asyncio.sleep(0)  # now the timer is due soon
        await client.close()
        with pytest.raises(InterruptedRequestError):
            await asking
        client.reconnect()
        peer = await server.greeted("s2", re=True)
        await client.wait_for(Status.LIVE)
        peer.abort()
        await server.greeted("s3", re=True)
        await client.wait_for(Status.LIVE)


async def test_headers_and_tls_settings_are_used(tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(certificate)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    async with scripted(ssl=certificate) as server:
        client = Client(server.url, proxy=None, ssl=trusting, headers={"Cookie": "session=1"})
        async with connected(server, client) as (client, peer):
            assert peer.headers["Cookie"] == "session=1"
        with pytest.raises(NotConnectedError, match="CERTIFICATE_VERIFY_FAILED"):
            async with Client(server.url, proxy=None, open_timeout=0.3):
                pass


async def test_frame_above_the_limit_of_the_client_ends_it() -> None:
    async with scripted() as server:
        client = Client(server.url, proxy=None, max_frame_bytes=1000)
        async with connected(server, client) as (client, peer):
            await peer.send([1, "a", "x" * 1000])
            with pytest.raises(ClosedError, match="close code 1009"):
                await client.wait_closed()


async def test_no_task_is_left_behind() -> None:
    async with scripted() as server:
        before = asyncio.all_tasks()
        async with connected(server) as (client, peer):
            client.on_request("wait")(lambda _: asyncio.Event().wait())
            await peer.send({"q": 1, "m": "wait"}, {"ping": 1})
            await peer.receive()
        left = [task for task in asyncio.all_tasks() - before if "stabilizer" in task.get_name()]
        await eventually(lambda: all(task.done() for task in left))


async def test_close_ends_calls_that_wait(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with scripted() as server, connected(server) as (client, peer):
        asking = asyncio.create_task(client.request("x"))
        sending = asyncio.create_task(client.send("y", confirm=True))
        await peer.receive()
        await client.close()
        with pytest.raises(InterruptedRequestError):
            await asking
        with pytest.raises(ClosedError, match="closed by the application"):
            await sending
    assert "closed, was live: the client was closed by the application" in caplog.text


WORKER = """
import asyncio, signal, sys
from contextlib import suppress

from fastapi_websocket_stabilizer_client import Client


async def work():
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asyncio.current_task().cancel)
    async with Client(sys.argv[1], proxy=None) as client:
        async for event in client:
            pass


with suppress(asyncio.CancelledError):
    asyncio.run(work())
"""


async def test_worker_that_is_terminated_says_goodbye() -> None:
    async with scripted() as server:
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        command = sys.executable, "-c", WORKER, server.url
        worker = await asyncio.create_subprocess_exec(*command, env=environment)
        try:
            peer = await server.greeted()
            await peer.send([1, "a", "live"])
            worker.send_signal(signal.SIGTERM)
            assert await peer.ended() == 1000
            async with asyncio.timeout(10):
                assert await worker.wait() == 0
        finally:
            if worker.returncode is None:
                worker.kill()
                await worker.wait()
