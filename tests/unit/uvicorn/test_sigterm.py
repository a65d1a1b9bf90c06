"""Who gets SIGTERM when, in one process; what the signal then does is tested in real servers."""

import asyncio
import logging
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from uvicorn import Config, Server
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from fastapi_websocket_stabilizer.config import WebSocketConfig
from fastapi_websocket_stabilizer.registry.registry import Registry
from fastapi_websocket_stabilizer.uvicorn import WebSocketProtocol
from fastapi_websocket_stabilizer.uvicorn.protocol import install
from fastapi_websocket_stabilizer.uvicorn.sigterm import draining_on_sigterm, find_server
from tests.support.waiting import eventually


@pytest.fixture
def server() -> Iterator[Server]:
    """A server in the state that it has in lifespan startup."""
    before = signal.getsignal(signal.SIGTERM)
    config = Config(FastAPI(), log_config=None)
    config.load()
    server = Server(config)
    signal.signal(signal.SIGTERM, server.handle_exit)
    yield server
    signal.signal(signal.SIGTERM, before)


def registry(**settings: Any) -> Registry:
    return Registry(WebSocketConfig(**settings), logging.getLogger("signals"))


async def test_signal_goes_to_the_server_when_the_drain_is_over(server: Server) -> None:
    with draining_on_sigterm(registry()):
        signal.raise_signal(signal.SIGTERM)
        assert not server.should_exit
        await eventually(lambda: server.should_exit)
        assert signal.getsignal(signal.SIGTERM) == server.handle_exit  # a second one ends at once


async def test_handler_is_given_back_at_the_end(server: Server) -> None:
    with draining_on_sigterm(registry()):
        assert signal.getsignal(signal.SIGTERM) != server.handle_exit
    assert signal.getsignal(signal.SIGTERM) == server.handle_exit


async def test_handler_that_somebody_put_in_front_of_ours_stays(server: Server) -> None:
    def other(*_: object) -> None: ...

    with draining_on_sigterm(registry()):
        signal.signal(signal.SIGTERM, other)
    assert signal.getsignal(signal.SIGTERM) is other


async def test_two_managers_share_one_handler(server: Server) -> None:
    first, second = registry(), registry()
    with draining_on_sigterm(first), draining_on_sigterm(second):
        assert find_server() is server
        signal.raise_signal(signal.SIGTERM)
        await eventually(lambda: server.should_exit)
        assert first.state.is_draining
        assert second.state.is_draining
    assert signal.getsignal(signal.SIGTERM) == server.handle_exit


async def test_websocket_class_is_installed_behind_our_handler_too(server: Server) -> None:
    with draining_on_sigterm(registry()):
        assert server.config.ws_protocol_class is WebSocketsSansIOProtocol
        assert install(compress=True, max_message_size=2**20) == ""
    assert server.config.ws_protocol_class is WebSocketProtocol


async def test_sigint_is_left_alone(server: Server) -> None:
    before = signal.getsignal(signal.SIGINT)
    with draining_on_sigterm(registry()):
        assert signal.getsignal(signal.SIGINT) is before


async def test_switched_off_it_touches_nothing(server: Server) -> None:
    with draining_on_sigterm(registry(drain_on_sigterm=False)):
        assert signal.getsignal(signal.SIGTERM) == server.handle_exit


async def test_handler_that_is_not_uvicorns_is_left_alone() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with draining_on_sigterm(registry()):
        assert signal.getsignal(signal.SIGTERM) is before


async def test_other_threads_cannot_set_handlers(server: Server) -> None:
    def enter() -> None:
        with draining_on_sigterm(registry()):
            assert signal.getsignal(signal.SIGTERM) == server.handle_exit

    thread = threading.Thread(target=enter)
    thread.start()
    await asyncio.to_thread(thread.join)


@pytest.mark.parametrize(("given", "then"), [(None, 7), (120, 120)])
async def test_server_that_would_wait_for_ever_gets_what_is_left_of_the_window(
    server: Server, given: int | None, then: int
) -> None:
    server.config.timeout_graceful_shutdown = given
    with draining_on_sigterm(registry(drain_over_s=6.5)):
        signal.raise_signal(signal.SIGTERM)
        await eventually(lambda: server.should_exit)
    assert server.config.timeout_graceful_shutdown == then


async def test_signal_that_comes_when_the_lifespan_is_over_is_passed_on(server: Server) -> None:
    with draining_on_sigterm(registry()):
        signal.raise_signal(signal.SIGTERM)
    await eventually(lambda: server.should_exit)
