"""Independent clients against the protocol class: each says and hears the same through its own implementation."""

import asyncio
import json
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.integration.demo_support import running_browser
from tests.support.requirements import missing
from tests.support.waiting import eventually
from tests.wire import clients
from tests.wire.app import CHAT
from tests.wire.clients import SCRIPT, Connect, Node, RefusedError, script_client
from tests.wire.raw import ANSWER_S
from tests.wire.servers import BOTH_LOOPS, Fleet, Server
from tests.wire.test_liveness import PULSE

pytestmark = pytest.mark.asyncio(loop_scope="module")

MIB = 1024 * 1024
PATIENT_PULSE = PULSE | {"WS_HEARTBEAT_TIMEOUT": "10"}
"""The clients share their process with the tests, which may keep them from an answer on a busy machine."""
IN_PYTHON: dict[str, Connect] = {
    "websockets": clients.websockets_client,
    "wsproto": clients.wsproto_client,
    "aiohttp": clients.aiohttp_client,
}
WITHOUT_PING = ("chromium",)
WITHOUT_FRAGMENTS = ("aiohttp", "chromium")
WITHOUT_BODY_OF_A_REFUSAL = ("aiohttp", "chromium")
MESSAGES: tuple[str | bytes, ...] = (
    "grüße €𝄞", b"\x00\xff", "", b"", "words " * 1000, b"\x00\x01\x02\x03" * 1000, "x", "words " * 1000,
)  # fmt: skip
INSTALL_TIMEOUT_S = 50.0


class Other:
    """Somebody else's client: its name, and how to connect with it."""

    def __init__(self, name: str, connect: Connect) -> None:
        self.name, self.connect = name, connect


@pytest_asyncio.fixture(
    scope="module", loop_scope="module", params=["websockets", "wsproto", "aiohttp", "node-ws", "chromium"]
)
async def other(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, fleet: Fleet
) -> AsyncIterator[Other]:
    name = str(request.param)
    if name in IN_PYTHON:
        yield Other(name, IN_PYTHON[name])
    elif name == "node-ws":
        async with Node.running(await asyncio.to_thread(install_ws, tmp_path_factory.mktemp("node"))) as node:
            yield Other(name, script_client(node.call))
    else:
        async with chromium() as connect:
            yield Other(name, connect)


def install_ws(folder: Path) -> Path:
    """Fetch Node's ws for this run and return where its modules are."""
    for tool in ("node", "npm"):
        if shutil.which(tool) is None:
            missing(f"no {tool} on PATH: apt-get install nodejs npm")
    command = [
        "npm",
        "install",
        "--no-audit",
        "--no-fund",
        "--ignore-scripts",
        "--prefix",
        str(folder),
        "ws@8",
    ]
    try:
        subprocess.run(command, capture_output=True, text=True, check=True, timeout=INSTALL_TIMEOUT_S)
    except subprocess.SubprocessError as error:
        missing(f"npm cannot install ws: {getattr(error, 'stderr', '') or error}")
    return folder / "node_modules"


@asynccontextmanager
async def chromium() -> AsyncIterator[Connect]:
    async with running_browser() as browser:
        page = await browser.new_page()
        await page.add_script_tag(path=SCRIPT)

        async def call(name: str, *arguments: Any) -> Any:
            async with asyncio.timeout(ANSWER_S):
                return await page.evaluate("([name, args]) => calls[name](...args)", [name, list(arguments)])

        yield script_client(call)


async def test_messages_of_every_kind_come_back(
    other: Other, server: Server, way: str, client_id: str
) -> None:
    async with other.connect(server.url(f"{way}/{client_id}"), []) as client:
        for message in MESSAGES:
            await client.send(message)
        assert [await client.receive() for _ in MESSAGES] == list(MESSAGES)


async def test_megabytes_come_back(other: Other, server: Server, way: str, client_id: str) -> None:
    async with other.connect(server.url(f"{way}/{client_id}"), []) as client:
        for message in ("0123456789abcdef" * (MIB // 16), bytes(range(256)) * (MIB // 256)):
            await client.send(message)
            assert await client.receive() == message


async def test_compression_is_agreed_on(other: Other, server: Server, way: str, client_id: str) -> None:
    async with other.connect(server.url(f"{way}/{client_id}"), []) as client:
        assert client.deflates


async def test_prepared_messages_arrive_in_order_with_echoes(
    other: Other, server: Server, way: str, client_id: str
) -> None:
    async with other.connect(server.url(f"{way}/{client_id}"), []) as client:
        for message in MESSAGES:
            await server.send(message, to=client_id)
            await client.send(message)
            assert [await client.receive(), await client.receive()] == [message, message]


async def test_asgi_sends_and_prepared_frames_keep_their_order(
    other: Other, server: Server, client_id: str
) -> None:
    async with other.connect(server.url(f"mixed/{client_id}"), []) as client:
        await client.send("60")
        assert [int(str(await client.receive()).split()[0]) for _ in range(60)] == list(range(60))


async def test_subprotocol_is_agreed_on(other: Other, server: Server, way: str, client_id: str) -> None:
    async with other.connect(server.url(f"{way}/{client_id}"), ["chat.v9", CHAT]) as client:
        assert client.subprotocol == CHAT


async def test_close_of_the_client(other: Other, server: Server, way: str, client_id: str) -> None:
    async with other.connect(server.url(f"{way}/{client_id}"), []) as client:
        await client.send("last words")
        assert await client.receive() == "last words"
        await client.close(4001, "going home")
        assert await client.closed() in ((4001, "going home"), (4001, ""))  # aiohttp forgets the reason
    assert await server.left(client_id) == ["4001 going home"]


async def test_close_of_the_server(other: Other, server: Server, way: str, client_id: str) -> None:
    async with other.connect(server.url(f"{way}/{client_id}"), []) as client:
        await server.send("last words", to=client_id)
        await server.disconnect(client_id, 4321, "tschüß")
        assert await client.receive() == "last words"
        assert await client.closed() == (4321, "tschüß")
    assert await server.left(client_id) == ["4321 tschüß"]


async def test_close_in_the_middle_of_a_broadcast(
    other: Other, server: Server, way: str, client_id: str
) -> None:
    async with asyncio.TaskGroup() as tasks, other.connect(server.url(f"{way}/{client_id}"), []) as client:
        tasks.create_task(server.ask("POST", "storm", count=300, size=3000))
        await client.receive()
        await client.close(4001, "enough")
        assert (await client.closed())[0] == 4001
    assert await server.left(client_id) == ["4001 enough"]


async def test_refusal_before_accept(other: Other, server: Server, way: str) -> None:
    with pytest.raises(RefusedError) as refused:
        async with other.connect(server.url(f"{way}/stranger"), []):
            pass
    if other.name != "chromium":  # a browser never says why
        assert refused.value.status == 401
    if other.name not in WITHOUT_BODY_OF_A_REFUSAL:
        assert json.loads(str(refused.value.body)) == {"detail": "who are you?"}


async def test_ping_of_the_client_is_answered(other: Other, server: Server, way: str, client_id: str) -> None:
    if other.name in WITHOUT_PING:
        pytest.skip(f"{other.name} lets no program ping")
    async with other.connect(server.url(f"{way}/{client_id}"), []) as client:
        await client.ping()


async def test_pings_of_the_server_are_answered_without_code(
    other: Other, fleet: Fleet, client_id: str
) -> None:
    async with asyncio.TaskGroup() as tasks:
        for kind in BOTH_LOOPS:
            for way in ("parked", "loop"):
                pulse = fleet.get(kind.but("patient-pulse", environment=PATIENT_PULSE))
                tasks.create_task(answer_pings(other, pulse, f"{way}/{client_id}-{way}"))


async def answer_pings(other: Other, pulse: Server, path: str) -> None:
    async with other.connect(pulse.url(path), []) as client, asyncio.TaskGroup() as tasks:
        reading = tasks.create_task(client.receive())  # Python's clients answer while somebody reads
        before = await pulse.counter("heartbeat_pings")
        await eventually(lambda: has_pinged(pulse, before + 10), what="five pings to each of two sockets")
        await pulse.send("never a ping in JSON", to=path.partition("/")[2])
        assert await reading == "never a ping in JSON"


async def has_pinged(server: Server, count: int) -> bool:
    return await server.counter("heartbeat_pings") >= count


async def test_fragments_of_the_client_are_one_message(
    other: Other, server: Server, way: str, client_id: str
) -> None:
    if other.name in WITHOUT_FRAGMENTS:
        pytest.skip(f"{other.name} lets no program fragment")
    async with other.connect(server.url(f"{way}/{client_id}"), []) as client:
        for size in (1, 2000):  # not compressed by some, compressed by others
            await client.send_fragments(["ä" * size, "", "ö" * size])
            assert await client.receive() == "ä" * size + "ö" * size
