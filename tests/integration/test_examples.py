"""examples/: each is run as its docstring says, and does what it is there to show."""

import asyncio
import json
import secrets
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, cast

import httpx2
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

from tests.integration.example_support import running_example
from tests.support import http
from tests.support.process import ChildProcess
from tests.support.waiting import eventually, eventually_sync

PROJECT = Path(__file__).parents[2]
ANSWER_S = 15.0
LEASE_S = 1.5
"""Short, so that a test can wait until it lapses; a beat is a third of it."""

BEARER = {"Authorization": "Bearer ada-secret"}


class Example:
    """An example that runs in a uvicorn of its own."""

    def __init__(self, process: ChildProcess, url: str) -> None:
        self.process = process
        self.http_url, self.ws_url = url, f"ws{url.removeprefix('http')}"

    def connect(self, path: str, **options: Any) -> connect:
        return connect(f"{self.ws_url}/{path}", proxy=None, **options)

    def get(self, path: str) -> httpx2.Response:
        return http.get(f"{self.http_url}/{path}")

    def post(self, path: str, headers: dict[str, str]) -> httpx2.Response:
        return http.post(f"{self.http_url}/{path}", headers=headers)


@contextmanager
def running(name: str, environment: dict[str, str]) -> Iterator[Example]:
    with running_example(name, environment=environment) as (process, url):
        yield Example(process, url)


@contextmanager
def running_replicas(environment: dict[str, str]) -> Iterator[tuple[Example, Example]]:
    with running("rooms", environment) as one, running("rooms", environment) as other:
        yield one, other


@pytest.fixture(scope="module")
def registry(redis_url: str) -> dict[str, str]:
    """Return the environment of a process that belongs to the registry of this module."""
    return environment_of(redis_url, f"examples-{secrets.token_hex(8)}")


def environment_of(redis_url: str, namespace: str) -> dict[str, str]:
    lease = {"WS_LEASE_TTL_S": str(LEASE_S), "WS_RENEW_INTERVAL_S": str(LEASE_S / 3)}
    return {"WS_REDIS_URL": redis_url, "WS_NAMESPACE": namespace, **lease}


@pytest.fixture(scope="module")
def replicas(registry: dict[str, str]) -> Iterator[tuple[Example, Example]]:
    """Two replicas of the rooms."""
    with running_replicas(registry) as replicas:
        yield replicas


@pytest.fixture
def own_replicas(redis_url: str, namespace: str) -> Iterator[tuple[Example, Example]]:
    """For a test that kills one."""
    with running_replicas(environment_of(redis_url, namespace)) as replicas:
        yield replicas


@pytest.fixture(scope="module")
def rooms_in_memory() -> Iterator[Example]:
    with running("rooms", {}) as example:
        yield example


@pytest.fixture(params=["in memory", "on Redis"])
def rooms(request: pytest.FixtureRequest) -> Example:
    """One process, which need not know of others."""
    if request.param == "in memory":
        return cast(Example, request.getfixturevalue("rooms_in_memory"))
    return cast(tuple[Example, Example], request.getfixturevalue("replicas"))[0]


@pytest.fixture
def room() -> str:
    """Return a room that no other test has."""
    return f"tea-{secrets.token_hex(4)}"


@pytest.fixture(scope="module")
def chat() -> Iterator[Example]:
    with running("basic_app", {}) as example:
        yield example


@pytest.fixture(scope="module")
def post_office() -> Iterator[Example]:
    with running("authenticated", {}) as example:
        yield example


async def heard(client: ClientConnection) -> dict[str, Any]:
    async with asyncio.timeout(ANSWER_S):
        message: dict[str, Any] = json.loads(await client.recv())
    return message


async def status_of_refusal(opening: connect) -> int:
    with pytest.raises(InvalidStatus) as caught:
        async with opening:
            pass
    return caught.value.response.status_code


# --- basic_app ----------------------------------------------------------------------------------------------


async def test_chat_sends_what_one_says_to_all(chat: Example) -> None:
    async with chat.connect("ws/ada") as ada, chat.connect("ws/bob") as bob:
        await eventually(lambda: chat.get("stats").json()["active_connections"] == 2)
        await ada.send("hello")
        assert [await heard(ada), await heard(bob)] == [{"user": "ada", "message": "hello"}] * 2


async def test_chat_counts_who_is_there(chat: Example) -> None:
    async with chat.connect("ws/carol"):
        await eventually(lambda: "carol" in chat.get("stats").json()["client_ids"])
    await eventually(lambda: "carol" not in chat.get("stats").json()["client_ids"])


async def test_chat_hears_a_pong_and_keeps_it_to_itself(chat: Example) -> None:
    async with chat.connect("ws/dave") as dave:
        await dave.send("pong")
        await dave.send("hello")
        assert (await heard(dave))["message"] == "hello"


# --- rooms --------------------------------------------------------------------------------------------------


@asynccontextmanager
async def entered(example: Example, room: str, name: str) -> AsyncIterator[ClientConnection]:
    """Enter, and wait for the word that one has."""
    async with example.connect(f"ws/{room}?name={name}") as client:
        assert await heard(client) == {"event": "came", "name": name}
        yield client


async def test_room_hears_who_comes_what_is_said_and_who_goes(rooms: Example, room: str) -> None:
    async with entered(rooms, room, "ada") as ada:
        async with entered(rooms, room, "bob") as bob:
            await bob.send("hello")
            assert await heard(bob) == {"from": "bob", "text": "hello"}
        assert [await heard(ada) for _ in range(3)] == [
            {"event": "came", "name": "bob"},
            {"from": "bob", "text": "hello"},
            {"event": "left", "name": "bob"},
        ]


async def test_room_hears_nothing_of_another(rooms: Example, room: str) -> None:
    async with entered(rooms, room, "ada") as ada, entered(rooms, f"chess-{room}", "bob") as bob:
        await bob.send("check")
        await heard(bob)
        await ada.send("tea?")
        assert await heard(ada) == {"from": "ada", "text": "tea?"}


async def test_rooms_are_alive_and_ready(rooms: Example) -> None:
    assert [rooms.get(path).status_code for path in ("livez", "readyz")] == [200, 200]


async def test_nobody_enters_without_a_name(rooms: Example) -> None:
    assert await status_of_refusal(rooms.connect("ws/tea")) == 403


async def test_room_is_one_across_replicas(replicas: tuple[Example, Example], room: str) -> None:
    one, other = replicas
    async with entered(one, room, "ada") as ada, entered(other, room, "bob") as bob:
        assert await heard(ada) == {"event": "came", "name": "bob"}
        assert [replica.get(f"rooms/{room}").json() for replica in replicas] == [["ada", "bob"]] * 2
        await ada.send("hello")
        assert [await heard(ada), await heard(bob)] == [{"from": "ada", "text": "hello"}] * 2


async def test_room_hears_once_that_the_clients_of_a_killed_replica_left(
    own_replicas: tuple[Example, Example], room: str
) -> None:
    one, other = own_replicas
    async with entered(one, room, "ada") as ada, AsyncExitStack() as stack:
        names = ["bob", "carol"]
        for name in names:
            await stack.enter_async_context(entered(other, room, name))
            await heard(ada)
        other.process.kill()
        left: list[object] = []
        while len(left) < len(names):
            event = await heard(ada)
            # Who came is told again if the replica was killed before it could say that it had told it.
            if event not in [{"event": "came", "name": name} for name in names]:
                left.append(event)
        assert sorted(left, key=str) == [{"event": "left", "name": name} for name in names]
        assert one.get(f"rooms/{room}").json() == ["ada"]
        await ada.send("alone")
        assert await heard(ada) == {"from": "ada", "text": "alone"}


# --- worker -------------------------------------------------------------------------------------------------


async def test_worker_reaches_a_client_a_room_and_all(
    replicas: tuple[Example, Example], registry: dict[str, str], room: str
) -> None:
    one, other = replicas
    async with (
        entered(one, room, "ada") as ada,
        entered(other, room, "bob") as bob,
        entered(other, f"chess-{room}", "carol") as carol,
    ):
        await heard(ada)  # that bob came
        said = await asyncio.to_thread(work, registry, "ada", room)
        assert said == f"ada is connected; {room} has members on 2 replicas\n"
        jobs = ["your report is ready", "the room's report is ready", "all reports are ready"]
        assert [(await heard(ada))["job"] for _ in jobs] == jobs
        assert [(await heard(bob))["job"] for _ in jobs[1:]] == jobs[1:]
        assert (await heard(carol))["job"] == jobs[2]


async def test_worker_says_that_nobody_is_there(registry: dict[str, str]) -> None:
    said = await asyncio.to_thread(work, registry, "nobody", "empty")
    assert said == "nobody is away; empty has members on 0 replicas\n"


def work(registry: dict[str, str], client_id: str, room: str) -> str:
    with ChildProcess(
        [sys.executable, "-m", "examples.worker", client_id, room], environment=registry, directory=PROJECT
    ) as worker:
        eventually_sync(lambda: not worker.is_running, 20.0, "end of the worker")
        return worker.output


# --- authenticated ------------------------------------------------------------------------------------------


async def test_user_with_a_bearer_token_gets_letters(post_office: Example) -> None:
    bob_signs_in = {"Authorization": "Bearer bob-secret"}
    async with (
        post_office.connect("ws", additional_headers=BEARER) as ada,
        post_office.connect("ws", additional_headers=bob_signs_in) as bob,
    ):
        await ada.send(json.dumps({"to": "bob", "text": "hello"}))
        assert await heard(ada) == {"to": "bob", "sent": True}
        assert await heard(bob) == {"from": "ada", "text": "hello"}


async def test_letter_to_somebody_who_is_away_is_not_sent(post_office: Example) -> None:
    async with post_office.connect("ws", additional_headers=BEARER) as ada:
        await ada.send(json.dumps({"to": "carol", "text": "hello"}))
        assert await heard(ada) == {"to": "carol", "sent": False}


async def test_what_is_no_letter_is_answered_with_an_error(post_office: Example) -> None:
    async with post_office.connect("ws", additional_headers=BEARER) as ada:
        await ada.send("hello")
        assert list(await heard(ada)) == ["error"]


async def test_letter_reaches_every_socket_of_a_user(post_office: Example) -> None:
    async with (
        post_office.connect("ws", additional_headers=BEARER) as tab,
        post_office.connect("ws", additional_headers=BEARER) as phone,
    ):
        await tab.send(json.dumps({"to": "ada", "text": "a note to myself"}))
        assert [await heard(tab), await heard(phone)] == [{"from": "ada", "text": "a note to myself"}] * 2


@pytest.mark.parametrize(
    "headers", [{}, {"Authorization": "Bearer guessed"}], ids=["no token", "wrong token"]
)
async def test_stranger_is_refused_with_401(post_office: Example, headers: dict[str, str]) -> None:
    assert await status_of_refusal(post_office.connect("ws", additional_headers=headers)) == 401
    assert post_office.post("reconnect-token", headers).status_code == 401


async def test_reconnect_token_opens_one_socket(post_office: Example) -> None:
    token = post_office.post("reconnect-token", BEARER).json()["token"]
    async with post_office.connect(f"ws?token={token}") as ada:
        await ada.send(json.dumps({"to": "ada", "text": "a note to myself"}))
        assert await heard(ada) == {"from": "ada", "text": "a note to myself"}
    assert await status_of_refusal(post_office.connect(f"ws?token={token}")) == 401


async def test_altered_reconnect_token_is_refused_with_401(post_office: Example) -> None:
    token = post_office.post("reconnect-token", BEARER).json()["token"]
    assert await status_of_refusal(post_office.connect(f"ws?token={token[:-1]}")) == 401


@pytest.mark.parametrize("level", ["info", "debug", "trace"])
async def test_reconnect_token_is_in_no_line_of_uvicorns_log(level: str) -> None:
    with running("authenticated", {"UVICORN_LOG_LEVEL": level}) as example:
        token = example.post("reconnect-token", BEARER).json()["token"]
        example.get(f"nothing-here?token={token}")
        async with example.connect(f"ws?token={token}") as ada:
            await ada.send("hello")
            await heard(ada)
        assert await status_of_refusal(example.connect(f"ws?token={token}")) == 401
        lines = [line for line in example.process.output.splitlines() if "?token=" in line]
        assert (len(lines) >= 3, token in example.process.output) == (True, False)


# --- cookies ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def signed_in() -> Iterator[tuple[Example, str]]:
    with running("cookies", {}) as example:
        answer = example.post("sign-in?user=ada", {})
        yield example, f"session={answer.cookies['session']}"


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://127.0.0.1:1", "http://evil.localhost"]
)
async def test_page_of_another_site_cannot_connect_with_the_users_cookie(
    signed_in: tuple[Example, str], origin: str
) -> None:
    site, cookie = signed_in
    headers = {"Cookie": cookie, "Origin": origin}
    assert await status_of_refusal(site.connect("ws", additional_headers=headers)) == 403


@pytest.mark.parametrize("is_browser", [True, False])
async def test_own_page_and_a_script_connect_with_the_users_cookie(
    signed_in: tuple[Example, str], is_browser: bool
) -> None:
    site, cookie = signed_in
    headers = {"Cookie": cookie, **({"Origin": site.http_url} if is_browser else {})}
    async with site.connect("ws", additional_headers=headers) as ada:
        await ada.send("hello")
        assert await heard(ada) == {"from": "ada", "text": "hello"}


async def test_visitor_without_a_session_is_refused_with_401(signed_in: tuple[Example, str]) -> None:
    site, _ = signed_in
    assert await status_of_refusal(site.connect("ws", additional_headers={"Origin": site.http_url})) == 401


# --- tokens -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def answering() -> Iterator[Example]:
    with running("tokens", {}) as example:
        yield example


async def test_answer_of_the_model_is_streamed_to_all_readers_in_few_messages(
    answering: Example, room: str
) -> None:
    async with (
        answering.connect(f"ws/{room}?name=ada") as ada,
        answering.connect(f"ws/{room}?name=bob") as bob,
    ):
        await eventually(lambda: answering.get("readyz").is_success)
        await ada.send("why?")
        answers = [await all_parts(reader) for reader in (ada, bob)]
    assert answers[0] == answers[1]
    first, *parts = answers[0]
    assert (first["seq"], first["text"], first["metadata"]) == (0, "", {"to": "ada"})
    assert "".join(part["text"] for part in parts) == "".join(f"{number}. why? " for number in range(1, 201))
    assert [part["seq"] for part in parts] == list(range(1, len(parts) + 1))
    assert len(parts) < 100
    assert [part for part in parts if "error" in part] == []


async def all_parts(reader: ClientConnection) -> list[dict[str, Any]]:
    """Return the messages of one stream, until its end."""
    parts = [await heard(reader)]
    while not parts[-1].get("end"):
        parts.append(await heard(reader))
    return parts


# --- all ----------------------------------------------------------------------------------------------------


def test_every_example_is_in_the_readme() -> None:
    readme = (PROJECT / "examples" / "README.md").read_text()
    names = {path.name for path in (PROJECT / "examples").glob("*.py")} - {"__init__.py"}
    assert {name for name in names if f"`{name}`" not in readme} == set()
