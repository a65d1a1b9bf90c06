"""Which connection a handler means when it names its client."""

import asyncio
import contextvars

import pytest

from fastapi_websocket_stabilizer.exceptions import ConnectionNotFoundError
from fastapi_websocket_stabilizer.local.connection import Connection
from fastapi_websocket_stabilizer.local.lifecycle import ENDED, Ended
from fastapi_websocket_stabilizer.models import CloseCause
from fastapi_websocket_stabilizer.web import handlers
from tests.unit.fakes import connect

REGISTRY, OTHER_REGISTRY = object(), object()


async def handler(connection: Connection) -> Connection | None:
    """Do what a socket's handler does: register, wait a while, ask which one is meant."""
    handlers.remember(REGISTRY, connection)
    await asyncio.sleep(0)
    return handlers.mine(REGISTRY, connection.client_id)


async def in_fresh_context(connection: Connection) -> Connection | None:
    """Run a handler as a server does: in a task whose context never saw another handler."""
    context = contextvars.Context()
    return await asyncio.create_task(handler(connection), context=context)


async def test_each_handler_means_its_own_socket() -> None:
    older, newer = connect("alice"), connect("alice")
    meant = await asyncio.gather(in_fresh_context(older), in_fresh_context(newer))
    assert list(meant) == [older, newer]


async def test_handler_that_registered_nobody_means_nobody() -> None:
    task = asyncio.create_task(
        asyncio.sleep(0, handlers.mine(REGISTRY, "alice")), context=contextvars.Context()
    )
    assert await task is None


async def test_newest_of_two_sockets_of_one_handler_is_meant() -> None:
    older, newer = connect("alice"), connect("alice")
    handlers.remember(REGISTRY, older)
    handlers.remember(REGISTRY, newer)
    assert handlers.mine(REGISTRY, "alice") is newer


async def test_other_client_and_other_manager_are_not_mixed_up() -> None:
    alice = connect("alice")
    handlers.remember(REGISTRY, alice)
    found = [
        handlers.mine(*key) for key in ((REGISTRY, "alice"), (REGISTRY, "bob"), (OTHER_REGISTRY, "alice"))
    ]
    assert found == [alice, None, None]


async def test_task_of_a_handler_means_the_socket_of_the_handler() -> None:
    alice = connect("alice")
    handlers.remember(REGISTRY, alice)
    found = await asyncio.create_task(asyncio.sleep(0, handlers.mine(REGISTRY, "alice")))
    assert found is alice


@pytest.mark.parametrize(
    "cause", [cause for cause in CloseCause if ENDED[cause] not in (Ended.RELEASED, Ended.FAILED)]
)
async def test_end_by_others_is_quiet_once(cause: CloseCause) -> None:
    connection = connect()
    connection.end(cause)
    handlers.remember(REGISTRY, connection)
    handlers.check_ended(connection)
    with pytest.raises(ConnectionNotFoundError, match="'alice' is not connected"):
        handlers.check_ended(connection)


@pytest.mark.parametrize("cause", [CloseCause.RELEASED, CloseCause.HANDLER_ERROR, CloseCause.WRITE_FAILED])
async def test_end_by_the_handler_or_by_a_failed_send_is_an_error(cause: CloseCause) -> None:
    connection = connect()
    connection.end(cause)
    handlers.remember(REGISTRY, connection)
    with pytest.raises(ConnectionNotFoundError):
        handlers.check_ended(connection)


def test_every_cause_has_a_way_to_end_that_is_either_quiet_or_an_error() -> None:
    assert set(ENDED) == set(CloseCause)
    assert set(ENDED.values()) == set(Ended)


def live_and_ended(count: int) -> tuple[Connection, list[Connection]]:
    """Register one connection that stays and ``count`` that have ended, in this task."""
    live = connect("live")
    handlers.remember(REGISTRY, live)
    ended = [connect(f"client {number}") for number in range(count)]
    for connection in ended:
        connection.end(CloseCause.REPLACED)
        handlers.remember(REGISTRY, connection)
    return live, ended


async def test_task_with_very_many_sockets_forgets_those_that_have_ended() -> None:
    live, ended = await asyncio.create_task(_in_task(3 * handlers.PRUNE_AT))
    assert live is not None
    assert ended <= handlers.PRUNE_AT


async def _in_task(count: int) -> tuple[Connection | None, int]:
    _, ended = live_and_ended(count)
    remembered = sum(handlers.mine(REGISTRY, connection.client_id) is not None for connection in ended)
    return handlers.mine(REGISTRY, "live"), remembered
