"""compose/: the files say what their tools understand, and nginx.conf works in a real nginx."""

import asyncio
import json
import re
import secrets
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Self

import httpx2
import pytest
from fastapi import FastAPI, WebSocket
from ruamel.yaml import YAML
from uvicorn.main import main as uvicorn_command
from websockets.asyncio.client import ClientConnection, connect

from fastapi_websocket_stabilizer import WebSocketConfig, WebSocketConnectionManager
from tests.support import http
from tests.support.nginx import balancer, nginx_command, wait_for_listener
from tests.support.process import ChildProcess, free_port
from tests.support.waiting import eventually

PROJECT = Path(__file__).parents[2]
COMPOSE = PROJECT / "compose"
REPLICAS = ("app1", "app2", "app3")
HEARTBEAT_TIMEOUT_S = 60  # the default of WebSocketConfig.heartbeat_timeout
ANSWER_S = 15.0
DRAIN_SECRET = "open sesame, please"
LEASE = {"WS_LEASE_TTL_S": "1.5", "WS_RENEW_INTERVAL_S": "0.5"}
"""Short, so that a test can wait until it lapses."""

Clients = dict[str, ClientConnection]  # by client_id


# --- the files ----------------------------------------------------------------------------------------------


def check_schema(compose_file: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    return subprocess.run([*command, str(compose_file)], capture_output=True, text=True, check=False)


def services() -> dict[str, Any]:
    document = YAML(typ="safe").load(COMPOSE / "docker-compose.yml")
    found: dict[str, Any] = document["services"]
    return found


def image_environment() -> dict[str, str]:
    lines = re.findall(r"^ENV (.*)$", (COMPOSE / "Dockerfile").read_text(), re.MULTILINE)
    return dict(setting.split("=", 1) for line in lines for setting in line.split())


def test_the_compose_file_follows_the_compose_schema() -> None:
    checked = check_schema(COMPOSE / "docker-compose.yml")
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_schema_check_finds_a_wrong_key(tmp_path: Path) -> None:
    wrong = tmp_path / "docker-compose.yml"
    wrong.write_text((COMPOSE / "docker-compose.yml").read_text().replace("depends_on:", "depends_upon:"))
    assert "depends_upon" in check_schema(wrong).stdout


def test_nginx_balances_exactly_the_replicas_of_the_compose_file() -> None:
    balanced = re.findall(r"server (\w+):(\d+)", (COMPOSE / "nginx.conf").read_text())
    assert balanced == [(name, image_environment()["UVICORN_PORT"]) for name in REPLICAS]
    assert set(REPLICAS) == set(services()["nginx"]["depends_on"]) <= set(services())


def test_uvicorn_understands_the_environment_of_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in image_environment().items():
        monkeypatch.setenv(name, value)
    options = uvicorn_command.make_context("uvicorn", []).params
    for name in image_environment():
        if name.startswith("UVICORN_"):
            assert name.removeprefix("UVICORN_").lower() in options
    assert options["app"] == "examples.rooms:app"
    assert options["ws_per_message_deflate"] is False


def test_compose_waits_longer_for_a_replica_than_its_drain_and_uvicorn_take() -> None:
    grace_s = int(services()["app1"]["stop_grace_period"].removesuffix("s"))
    config = WebSocketConfig()
    uvicorn_s = int(image_environment()["UVICORN_TIMEOUT_GRACEFUL_SHUTDOWN"])
    assert grace_s > config.drain_over_s + uvicorn_s + config.redis_timeout_s


# --- nginx in front of three replicas -----------------------------------------------------------------------


def replica_app() -> FastAPI:
    """Return examples/rooms.py, which here also says what nginx told it."""
    from examples.rooms import app

    app.add_api_websocket_route("/told", tell)
    return app


async def tell(websocket: WebSocket) -> None:
    await websocket.accept()
    headers, client = websocket.headers, websocket.client
    told = {name: headers.get(name) for name in ("host", "x-forwarded-for", "x-forwarded-proto")}
    await websocket.send_json({"client": client and client.host, **told})


def post_office() -> FastAPI:
    """Return examples/authenticated.py, which here can be drained and counts the newcomers it has refused."""
    from examples.authenticated import app, manager

    app.include_router(manager.router)
    app.add_api_route("/refused", lambda: manager.statistics().counters["connections_rejected"])
    return app


class Balanced:
    """nginx and the replicas behind it."""

    def __init__(
        self,
        directory: Path,
        redis_url: str,
        app2: Mapping[str, str] | None = None,
        app: Callable[[], FastAPI] = replica_app,
    ) -> None:
        self.port = free_port()
        self._app = app.__name__
        self.replicas: dict[str, ChildProcess] = {}
        self._settings = WebSocketConfig(redis_url=redis_url, namespace=f"compose-{secrets.token_hex(8)}")
        self._extra = {"app2": app2 or {}}
        self._ports = {name: free_port() for name in REPLICAS}
        self._directory = directory
        self._children = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as children:
            self.replicas = {name: children.enter_context(self._start_replica(name)) for name in REPLICAS}
            nginx = children.enter_context(ChildProcess(self._nginx()))
            for child, port in zip(self.replicas.values(), self._ports.values(), strict=True):
                wait_for_listener(child, port)
            wait_for_listener(nginx, self.port)
            self._children = children.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._children.close()

    def connect(self, path: str, **options: Any) -> connect:
        return connect(f"ws://127.0.0.1:{self.port}/{path}", proxy=None, **options)

    @asynccontextmanager
    async def entered(self, count: int, room: str) -> AsyncIterator[Clients]:
        """Have that many clients in a room, each after it heard of its coming; they leave with the block."""
        async with AsyncExitStack() as stack:
            clients: Clients = {}
            for name in [f"{room}-{number}" for number in range(count)]:
                client = await stack.enter_async_context(self.connect(f"ws/{room}?name={name}"))
                await hear(client, {"event": "came", "name": name})
                clients[name] = client
            yield clients

    async def replicas_of(self, clients: Iterable[str]) -> dict[str, str]:
        """Ask the registry which replica holds each client."""
        async with WebSocketConnectionManager(self._settings) as observer:
            names = {node.node_id: node.name for node in await observer.nodes()}
            return {client: names[(await observer.presence(client))[0].node] for client in clients}

    def ask(self, method: str, path: str, *, replica: str | None = None, **headers: str) -> httpx2.Response:
        """Send a request to nginx, or past it to one replica."""
        port = self.port if replica is None else self._ports[replica]
        url = f"http://127.0.0.1:{port}/{path}"
        return http.request(method, url, headers=headers, timeout=30)

    def effective_configuration(self) -> str:
        return subprocess.run([*self._nginx(), "-T"], capture_output=True, text=True, check=True).stdout

    def access_log(self) -> list[str]:
        return (self._directory / "access.log").read_text().splitlines()

    def _start_replica(self, name: str) -> ChildProcess:
        """Start one with the settings of the image and the compose file, but its own address and registry."""
        environment = image_environment() | services()[name]["environment"] | LEASE
        environment |= {"UVICORN_APP": f"{__name__}:{self._app}", "UVICORN_FACTORY": "true"}
        environment |= {"UVICORN_HOST": "127.0.0.1", "UVICORN_PORT": str(self._ports[name])}
        environment |= {
            "WS_REDIS_URL": str(self._settings.redis_url),
            "WS_NAMESPACE": self._settings.namespace,
        }
        environment |= {"WS_NODE_NAME": name, **self._extra.get(name, {})}
        return ChildProcess([sys.executable, "-m", "uvicorn"], environment=environment, directory=PROJECT)

    def _nginx(self) -> list[str]:
        return nginx_command(self._directory, balancer(self.port, self._ports))


async def hear(client: ClientConnection, message: dict[str, str]) -> None:
    """Read until the message comes; others may come before."""
    async with asyncio.timeout(ANSWER_S):
        while json.loads(await client.recv()) != message:
            pass


@pytest.fixture(scope="module")
def balanced(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Iterator[Balanced]:
    with Balanced(tmp_path_factory.mktemp("nginx"), redis_url) as balanced:
        yield balanced


@pytest.fixture
def room() -> str:
    """Return a room that no other test has."""
    return f"room-{secrets.token_hex(4)}"


def test_the_probes_pass_through_nginx(balanced: Balanced) -> None:
    for path in ("livez", "readyz"):
        assert http.get(f"http://127.0.0.1:{balanced.port}/{path}").status_code == 200


async def test_a_websocket_passes_through_nginx(balanced: Balanced, room: str) -> None:
    async with balanced.entered(1, room) as clients:
        (name, client), *_ = clients.items()
        await client.send("there and back")
        await hear(client, {"from": name, "text": "there and back"})


async def test_a_replica_is_told_the_host_and_the_client(balanced: Balanced) -> None:
    lie = {"X-Forwarded-For": "203.0.113.9"}
    async with balanced.connect("told", local_addr=("127.0.0.2", 0), additional_headers=lie) as websocket:
        told = json.loads(await websocket.recv())
    assert told["host"] == f"127.0.0.1:{balanced.port}"
    assert told["x-forwarded-proto"] == "http"
    assert told["x-forwarded-for"] == told["client"] == "127.0.0.2"


async def test_websockets_spread_evenly_over_the_replicas(balanced: Balanced, room: str) -> None:
    async with balanced.entered(6, room) as clients:
        assert Counter((await balanced.replicas_of(clients)).values()) == dict.fromkeys(REPLICAS, 2)


async def test_a_room_is_one_across_the_replicas(balanced: Balanced, room: str) -> None:
    async with balanced.entered(3, room) as clients:
        assert set((await balanced.replicas_of(clients)).values()) == set(REPLICAS)
        for name, client in clients.items():
            await client.send("hello")
            await asyncio.gather(
                *[hear(other, {"from": name, "text": "hello"}) for other in clients.values()]
            )


async def test_a_killed_replica_is_skipped_and_the_others_go_on(
    tmp_path: Path, redis_url: str, room: str
) -> None:
    with Balanced(tmp_path, redis_url) as balanced:
        async with balanced.entered(3, room) as clients:
            by_replica = {replica: name for name, replica in (await balanced.replicas_of(clients)).items()}
            balanced.replicas["app2"].kill()
            victim, sender = by_replica["app2"], by_replica["app1"]
            await clients.pop(victim).wait_closed()
            await clients[sender].send("still here")
            for survivor in clients.values():
                await hear(survivor, {"from": sender, "text": "still here"})
                await hear(survivor, {"event": "left", "name": victim})
            async with balanced.entered(6, f"{room}-new") as newcomers:
                assert set((await balanced.replicas_of(newcomers)).values()) == {"app1", "app3"}


async def test_a_replica_that_refuses_with_503_is_skipped(tmp_path: Path, redis_url: str, room: str) -> None:
    full = {"WS_MAX_CONNECTIONS": "1"}
    with Balanced(tmp_path, redis_url, app2=full) as balanced:
        async with balanced.entered(7, room) as clients:
            found = Counter((await balanced.replicas_of(clients)).values())
    assert (found["app2"], found["app1"] + found["app3"]) == (1, 6)


@pytest.mark.parametrize("why", ["draining", "full"])
async def test_a_token_is_not_redeemed_by_a_replica_that_refuses(
    tmp_path: Path, redis_url: str, why: str
) -> None:
    settings = {"WS_DRAIN_SECRET": DRAIN_SECRET, **({"WS_MAX_CONNECTIONS": "1"} if why == "full" else {})}
    with Balanced(tmp_path, redis_url, app2=settings, app=post_office) as balanced:
        ada = {"Authorization": "Bearer ada-secret"}
        tokens = [balanced.ask("POST", "reconnect-token", **ada).json()["token"] for _ in range(12)]
        async with AsyncExitStack() as stack:
            if why == "draining":
                secret = {"Authorization": f"Bearer {DRAIN_SECRET}"}
                answer = balanced.ask("POST", "drain?over=0.1", replica="app2", **secret)
                assert answer.status_code == 200
            else:  # one on each replica
                bob = {"Authorization": "Bearer bob-secret"}
                for _ in REPLICAS:
                    await stack.enter_async_context(balanced.connect("ws", additional_headers=bob))
            for token in tokens:
                async with balanced.connect(f"ws?token={token}") as client:
                    await client.send(json.dumps({"to": "ada", "text": "back"}))
                    await hear(client, {"from": "ada", "text": "back"})
            assert balanced.ask("GET", "refused", replica="app2").json() > 0


def test_nginx_is_more_patient_than_the_heartbeat(balanced: Balanced) -> None:
    configuration = balanced.effective_configuration()
    for name in ("proxy_read_timeout", "proxy_send_timeout"):
        assert [int(seconds) > HEARTBEAT_TIMEOUT_S for seconds in directive(name, configuration)] == [True]


def directive(name: str, configuration: str) -> list[str]:
    return re.findall(rf"^\s*{name} (\d+)s;", configuration, re.MULTILINE)


async def test_nginx_logs_no_query_string(balanced: Balanced, room: str) -> None:
    async with balanced.entered(1, room):
        pass
    line = await eventually(lambda: [at for at in balanced.access_log() if f"/ws/{room}" in at])
    assert "name=" not in line[0]
