"""A coroutine that was stepped once by hand goes on as if nothing had happened."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from fastapi_websocket_stabilizer.local.stepping import resume
from tests.unit.fakes import turns


async def rest_of(coroutine: Coroutine[Any, Any, None]) -> None:
    """Take the first step here and the others in a task."""
    await asyncio.create_task(wrap(resume(coroutine, coroutine.send(None))))


async def wrap(rest: Any) -> None:
    await rest


async def test_every_further_step_is_taken() -> None:
    steps: list[int] = []

    async def work() -> None:
        for number in range(3):
            steps.append(number)
            await asyncio.sleep(0)
        steps.append(3)

    await rest_of(work())
    assert steps == [0, 1, 2, 3]


async def test_future_that_is_awaited_brings_its_value_or_its_error() -> None:
    future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    heard: list[Any] = []

    async def work() -> None:
        heard.append(await future)

    rest = asyncio.create_task(rest_of(work()))
    await turns()
    future.set_result(7)
    await rest
    assert heard == [7]


async def test_error_inside_comes_out() -> None:
    async def work() -> None:
        await asyncio.sleep(0)
        raise KeyError("x")

    with pytest.raises(KeyError):
        await rest_of(work())


@pytest.mark.parametrize("wait", [lambda: asyncio.Event().wait(), lambda: turns(1000)])
async def test_cancellation_goes_in(wait: Any) -> None:
    ended: list[str] = []

    async def work() -> None:
        try:
            await wait()
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    rest = asyncio.create_task(rest_of(work()))
    await turns()
    rest.cancel()
    with pytest.raises(asyncio.CancelledError):
        await rest
    assert ended == ["cancelled"]
