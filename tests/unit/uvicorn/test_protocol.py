"""How the WebSocket class gets into uvicorn, and when it does not. On the wire it is tested in ``tests/wire``."""

import asyncio
import logging
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any
from unittest.mock import Mock

import pytest
from fastapi import FastAPI
from uvicorn import Config, Server
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState

from fastapi_websocket_stabilizer import CompressionMode, WebSocketConfig, WebSocketConnectionManager
from fastapi_websocket_stabilizer.uvicorn import WebSocketProtocol
from fastapi_websocket_stabilizer.uvicorn.protocol import NAME, install
from tests.wire.raw import request


@pytest.fixture
def sigterm() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def starting(**options: Any) -> Server:
    """Return a server in the state that it has in lifespan startup."""
    config = Config(FastAPI(), log_config=None, **options)
    config.load()
    server = Server(config)
    signal.signal(signal.SIGTERM, server.handle_exit)
    return server


@pytest.mark.usefixtures("sigterm")
@pytest.mark.parametrize("ws", ["auto", "websockets-sansio", NAME])
def test_server_gets_the_class(ws: Any) -> None:
    server = starting(ws=ws)
    assert install(compress=True, max_message_size=2**20) == ""
    assert server.config.ws_protocol_class is WebSocketProtocol
    assert server.config.ws_per_message_deflate


@pytest.mark.usefixtures("sigterm")
def test_compression_can_be_switched_off() -> None:
    server = starting()
    assert install(compress=False, max_message_size=2**20) == ""
    assert not server.config.ws_per_message_deflate


@pytest.mark.usefixtures("sigterm")
@pytest.mark.parametrize(("ws", "named"), [("wsproto", "WSProtocol"), ("none", "None")])
def test_another_choice_is_respected(ws: Any, named: str) -> None:
    server = starting(ws=ws)
    chosen = server.config.ws_protocol_class
    assert install(compress=True, max_message_size=2**20) == f"uvicorn is configured to use {named}"
    assert server.config.ws_protocol_class is chosen


def test_without_uvicorn_nothing_happens() -> None:
    assert install(compress=True, max_message_size=2**20).startswith("the server is not uvicorn")


@pytest.mark.usefixtures("sigterm")
@pytest.mark.usefixtures("sigterm")
async def test_no_attribute_of_a_socket_is_in_a_dictionary() -> None:
    """A dictionary of all of them takes more than a kilobyte of each socket."""
    protocol = WebSocketProtocol(starting().config, ServerState(), {})
    transport = Mock(spec=asyncio.Transport, get_extra_info=Mock(return_value=None))
    protocol.connection_made(transport)
    protocol.data_received(request("/"))
    assert protocol._reader is not None, "the handshake is read"
    assert (vars(protocol), vars(protocol._reader)) == ({}, {})
    for task in protocol.tasks:
        task.cancel()


@pytest.mark.usefixtures("sigterm")
async def test_lost_connection_closes_its_transport() -> None:
    """A send that waited for room checks the transport before it writes."""
    transport = Mock(spec=asyncio.Transport, get_extra_info=Mock(return_value=None))
    protocol = WebSocketProtocol(starting().config, ServerState(), {})
    protocol.connection_made(transport)
    protocol.connection_lost(None)
    transport.close.assert_called_once_with()


@pytest.mark.usefixtures("sigterm")
@pytest.mark.parametrize(
    ("settings", "protocol", "reason"),
    [
        ({}, NAME, ""),
        ({"uvicorn_protocol": False}, "asgi", " (uvicorn_protocol is off)"),
        ({"compression": CompressionMode.NONE}, NAME, ""),
    ],
)
async def test_lifespan_installs_it_and_says_so(
    settings: dict[str, Any], protocol: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    server = starting()
    manager = WebSocketConnectionManager(WebSocketConfig(**settings))
    with caplog.at_level(logging.INFO):
        async with manager.lifespan(FastAPI()):
            pass
    assert f"WebSockets go through {protocol}{reason}" in [m.partition("; ")[2] for m in caplog.messages]
    expected = WebSocketProtocol if protocol == NAME else WebSocketsSansIOProtocol
    assert server.config.ws_protocol_class is expected


@pytest.mark.parametrize(
    ("package", "found", "needed"), [("uvicorn", "0.52.1", "0.53.0"), ("websockets", "16.1", "17.0")]
)
def test_older_release_is_refused_by_name_and_the_application_runs_without(
    package: str, found: str, needed: str
) -> None:
    program = f"""
import asyncio, importlib.metadata, logging
real = importlib.metadata.version
importlib.metadata.version = lambda name: {found!r} if name == {package!r} else real(name)
logging.basicConfig(level="INFO", format="%(message)s")
from fastapi import FastAPI
from fastapi_websocket_stabilizer import WebSocketConnectionManager
async def main():
    async with WebSocketConnectionManager().lifespan(FastAPI()):
        print("runs")
asyncio.run(main())
"""
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30
    )
    assert run.stdout.strip() == "runs"
    said = (
        "WebSockets go through asgi (fastapi_websocket_stabilizer.uvicorn needs "
        f"{package} >= {needed}, found {found}: upgrade it, or run with uvicorn's own WebSocket class)"
    )
    assert said in run.stderr


def test_class_is_loaded_when_it_is_asked_for() -> None:
    program = """
import sys
sys.modules["uvicorn"] = None
import fastapi_websocket_stabilizer.uvicorn as package
try:
    package.WebSocketProtocol
except ImportError as error:
    print("needs", error.name.partition(".")[0])
try:
    package.Other
except AttributeError:
    print("no other name")
"""
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30
    )
    assert run.stdout.split("\n") == ["needs uvicorn", "no other name", ""]
