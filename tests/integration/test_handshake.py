"""What hooks know of the request that opened a socket, also when its handler has ended ("parked")."""

import asyncio
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect

from tests.support import http
from tests.support.nginx import wait_for_listener
from tests.support.process import ChildProcess, free_port

PROJECT = Path(__file__).parents[2]
HEADERS = {"X-Visitor": "ann", "User-Agent": "a test"}


@contextmanager
def running(**settings: str) -> Iterator[int]:
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "tests.integration.parked_app:app", "--port", str(port)]
    environment = {f"WS_{name.upper()}": value for name, value in settings.items()}
    with ChildProcess(command, environment=environment, directory=PROJECT) as server:
        wait_for_listener(server, port)
        yield port


@pytest.fixture(scope="module")
def lean() -> Iterator[int]:
    with running() as port:
        yield port


@pytest.fixture(scope="module")
def keeping() -> Iterator[int]:
    with running(keep_handshake="true") as port:
        yield port


@pytest.fixture(scope="module")
def stock() -> Iterator[int]:
    with running(uvicorn_protocol="false") as port:
        yield port


async def answer(client: ClientConnection) -> dict[str, Any]:
    async with asyncio.timeout(5):
        said: dict[str, Any] = json.loads(await client.recv())
    return said


async def conversation(port: int, path: str) -> list[dict[str, Any]]:
    """Return what ``on_connect`` and then ``on_message``, twice, knew."""
    url = f"ws://127.0.0.1:{port}/{path}?color=red"
    async with connect(url, proxy=None, additional_headers=HEADERS, user_agent_header=None) as client:
        answers = [await answer(client)]
        for _ in range(2):
            await client.send("?")
            answers.append(await answer(client))
        return answers


def handshake(path: str) -> dict[str, Any]:
    return {
        "client": "127.0.0.1",
        "agent": "a test",
        "path": f"/{path}",
        "query": {"color": "red"},
        "parameters": {"client_id": "ann"},
        "motto": "hello",
    }


@pytest.mark.parametrize("server", ["lean", "keeping", "stock"])
@pytest.mark.parametrize("way", ["parked", "served"])
async def test_hooks_have_the_state_of_identify(
    request: pytest.FixtureRequest, server: str, way: str
) -> None:
    answers = await conversation(request.getfixturevalue(server), f"{way}/ann")
    assert [each["state"] for each in answers] == [{"secret": 7}] * 3


@pytest.mark.parametrize("server", ["lean", "stock"])
async def test_each_message_has_the_context_variables_of_the_handshake(
    request: pytest.FixtureRequest, server: str
) -> None:
    answers = await conversation(request.getfixturevalue(server), "parked/ann")
    assert [each["visitor"] for each in answers[:2]] == ["ann"] * 2


async def test_context_variable_that_a_message_of_a_parked_socket_sets_ends_with_it(lean: int) -> None:
    assert [each["visitor"] for each in await conversation(lean, "parked/ann")] == ["ann"] * 3


async def test_hooks_of_a_parked_socket_know_the_handshake_if_it_is_kept(keeping: int) -> None:
    answers = await conversation(keeping, "parked/ann")
    assert [each["handshake"] for each in answers] == [handshake("parked/ann")] * 3


async def test_handshake_of_a_parked_socket_is_let_go_unless_it_is_kept(lean: int) -> None:
    answers = await conversation(lean, "parked/ann")
    assert [each["handshake"] for each in answers] == [handshake("parked/ann"), None, None]


@pytest.mark.parametrize("server", ["lean", "stock"])
async def test_hooks_of_a_socket_with_a_handler_know_the_handshake(
    request: pytest.FixtureRequest, server: str
) -> None:
    answers = await conversation(request.getfixturevalue(server), "served/ann")
    assert [each["handshake"] for each in answers] == [handshake("served/ann")] * 3


async def test_state_is_in_no_presence_entry(lean: int) -> None:
    async with connect(f"ws://127.0.0.1:{lean}/parked/ann", proxy=None) as client:
        await answer(client)
        url = f"http://127.0.0.1:{lean}/presence/ann"
        assert (await asyncio.to_thread(http.get, url)).json() == [{}]
