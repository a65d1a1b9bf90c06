"""The running loop, asked for cheaply."""

import asyncio
import os
import threading

import pytest

from fastapi_websocket_stabilizer.runtime.loops import _cached_running_loop, running_loop


async def test_it_is_the_one_that_runs() -> None:
    assert _cached_running_loop() is _cached_running_loop() is asyncio.get_running_loop()


def test_each_new_loop_of_a_thread_is_seen() -> None:
    async def same() -> bool:
        return _cached_running_loop() is asyncio.get_running_loop()

    assert [asyncio.run(same()) for _ in range(3)] == [True] * 3


def test_without_a_loop_it_is_an_error() -> None:
    async def ask() -> None:
        _cached_running_loop()

    asyncio.run(ask())
    with pytest.raises(RuntimeError, match="no running event loop"):
        _cached_running_loop()


def test_loop_that_moved_to_another_thread_is_not_ours_any_more() -> None:
    moved, asked, done = asyncio.new_event_loop(), threading.Event(), threading.Event()

    async def ask() -> asyncio.AbstractEventLoop:
        return _cached_running_loop()

    async def stay() -> None:
        _cached_running_loop()
        asked.set()
        await asyncio.to_thread(done.wait)

    assert moved.run_until_complete(ask()) is moved
    thread = threading.Thread(target=moved.run_until_complete, args=(stay(),))
    thread.start()
    asked.wait()
    try:
        assert asyncio.run(ask()) is not moved
    finally:
        done.set()
        thread.join()
        moved.close()


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
async def test_forked_child_runs_no_loop() -> None:
    running_loop()
    child = os.fork()
    if child == 0:
        try:
            running_loop()
        except RuntimeError:
            os._exit(0)
        os._exit(1)
    _, status = await asyncio.to_thread(os.waitpid, child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
