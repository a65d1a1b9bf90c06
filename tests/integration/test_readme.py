"""Every code block of the README runs."""

import ast
import inspect
import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import CodeType
from typing import Any

import pytest
from fastapi import FastAPI
from websockets.exceptions import ConnectionClosedOK, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from fastapi_websocket_stabilizer import History, Mailbox, WebSocketConfig, WebSocketConnectionManager
from tests.support.process import ChildProcess, free_port
from tests.support.waiting import eventually_sync

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
PYTHON = [text for language, text in BLOCKS if language == "python"]
APPS = [text for text in PYTHON if "app = FastAPI(" in text]
SNIPPETS = [text for text in PYTHON if "app = FastAPI(" not in text]
SHELL = [text.strip() for language, text in BLOCKS if language == "bash"]


def test_every_block_is_of_a_kind_that_is_run() -> None:
    assert {language for language, _ in BLOCKS} == {"python", "bash"}
    assert (len(APPS), len(SHELL)) == (2, 4)


class Socket:
    """Takes what it is sent."""

    async def send_text(self, text: str) -> None: ...

    async def send_json(self, value: object) -> None: ...

    async def send_bytes(self, data: bytes) -> None: ...

    async def close(self, code: int = 1000, reason: str = "") -> None: ...


@pytest.mark.parametrize("snippet", SNIPPETS, ids=[text.strip().splitlines()[0][:50] for text in SNIPPETS])
async def test_snippet_runs_as_it_stands(snippet: str, redis_url: str, namespace: str) -> None:
    code: CodeType = compile(snippet, "README.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    config = WebSocketConfig(
        redis_url=redis_url, namespace=namespace, history={"chat:": History()}, mailbox=Mailbox()
    )
    async with WebSocketConnectionManager(config) as manager:
        for client_id in ("ann", "bob"):
            await manager.connect(client_id, Socket())  # type: ignore[arg-type]  # a mock, as 1.1's users have
        names: dict[str, Any] = {"manager": manager, "redis_url": redis_url, "app": FastAPI()}
        outcome = eval(code, names)
        if inspect.isawaitable(outcome):
            await outcome


@contextmanager
def serving(app: str, directory: Path, **environment: str) -> Iterator[str]:
    """Serve a block of the README; yield the address of its sockets."""
    (directory / "readme_app.py").write_text(app)
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "readme_app:app", "--port", str(port)]
    with ChildProcess(command, environment=environment, directory=directory) as process:
        is_up = "Uvicorn running on"
        eventually_sync(
            lambda: is_up in process.output or not process.is_running, 30.0, "the app starts or ends"
        )
        assert is_up in process.output, process.output
        yield f"ws://127.0.0.1:{port}"
        assert "ERROR" not in process.output, process.output


def test_quick_start_takes_a_binary_frame_for_no_text(tmp_path: Path) -> None:
    with serving(APPS[0], tmp_path) as address, connect(f"{address}/ws?name=ann") as ann:
        ann.send(b"\xff")
        ann.send("hello")
        assert json.loads(ann.recv(timeout=10)) == {"from": "ann", "text": "hello"}


def test_quick_start_is_one_lobby_over_two_replicas(tmp_path: Path, redis_url: str, namespace: str) -> None:
    environment = {"WS_REDIS_URL": redis_url, "WS_NAMESPACE": namespace}
    with ExitStack() as stack:
        one, two = (stack.enter_context(serving(APPS[0], tmp_path, **environment)) for _ in range(2))
        ann = stack.enter_context(connect(f"{one}/ws?name=ann"))
        bob = stack.enter_context(connect(f"{two}/ws?name=bob"))
        eventually_sync(lambda: _hears(ann, bob), what="both are in the lobby")
        with pytest.raises(InvalidStatus, match="403"):
            connect(f"{one}/ws?name=root")


def test_client_of_the_quick_start_is_sent_what_it_types(tmp_path: Path) -> None:
    with serving(APPS[0], tmp_path) as address:
        command = shlex.split(SHELL[3].splitlines()[1].replace("ws://127.0.0.1:8000", address))
        with subprocess.Popen(
            [sys.executable, *command[1:]], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as client:
            assert client.stdin is not None
            assert client.stdout is not None
            client.stdin.write("hello\n")
            client.stdin.flush()
            said = next(line for line in client.stdout if "from" in line)
            client.stdin.close()
            client.stdout.read()  # a client that cannot write its last prompt does not notice the end of its input
    assert '{"from":"ann","text":"hello"}' in said


def _hears(speaker: ClientConnection, listener: ClientConnection) -> bool:
    speaker.send("hello")
    return listener.recv(timeout=1) == '{"from":"ann","text":"hello"}'


@pytest.mark.parametrize("path", ["served", "block", "classic"])
def test_each_way_to_serve_a_socket_echoes(path: str, tmp_path: Path) -> None:
    with serving(APPS[1], tmp_path) as address, connect(f"{address}/{path}/ann") as ann:
        ann.send("hello")
        assert ann.recv(timeout=5) == "hello"


def test_classic_handler_ends_without_an_error_in_the_log_if_a_binary_frame_comes(tmp_path: Path) -> None:
    with serving(APPS[1], tmp_path) as address, connect(f"{address}/classic/ann") as ann:
        ann.send(b"\xff")
        with pytest.raises(ConnectionClosedOK):
            ann.recv(timeout=10)


def test_installed_extras_and_commands_exist() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = {
        extra
        for command in SHELL
        for extras in re.findall(r"\[([\w,]+)\]", command)
        for extra in extras.split(",")
    }
    assert named <= set(project["optional-dependencies"])
    assert "stabilizer" in project["scripts"]


def test_links_work_on_the_page_of_the_index_too() -> None:
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]
    files = f"{urls['Homepage']}/blob/main/"
    targets = re.findall(r"\]\(([^)]+)\)", README)
    assert [target for target in targets if not target.startswith(files)] == []
    assert [
        target for target in targets if not (ROOT / target.removeprefix(files).partition("#")[0]).exists()
    ] == []


def test_quick_start_does_not_install_release_1() -> None:
    assert ">=2" in SHELL[2]


def test_ci_runs_the_test_command_of_this_page() -> None:
    """The demo command is run by test_demo.py, the test command by .ci/run, which reads it from here."""
    assert [command.partition(" && ")[2] for command in SHELL[:2]] == ["stabilizer demo", "pytest"]
    assert "README.md" in (ROOT / ".ci/run").read_text()
