"""Repetition of appends whose outcome is unknown, so that a message is stored once."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

from ..exceptions import BackendUnavailableError
from ..runtime.loops import running_loop
from .log_ports import Append, Appended, LogStore


async def appended(
    logs: LogStore,
    append: Append,
    answer: "asyncio.Future[Appended]",
    timeout_s: float,
    repeats: Callable[[], None],
) -> Appended:
    """Wait for an append. If its outcome is unknown, repeat it until ``timeout_s`` after this call.

    ``repeats`` is called before each repetition.

    Raises:
        BackendUnavailableError: There is no answer. ``outcome_unknown`` is true if it may have been stored.
    """
    loop = running_loop()
    began_s = loop.time()
    while True:
        try:
            return await answer
        except BackendUnavailableError as error:
            if not error.outcome_unknown or loop.time() >= began_s + timeout_s:
                raise
        repeats()
        await asyncio.sleep(0)
        (call,) = logs.append([replace(append, retry_age_s=loop.time() - began_s)])
        answer = asyncio.ensure_future(_until(began_s + timeout_s, call))


async def _until(deadline_s: float, answer: "asyncio.Future[Appended]") -> Appended:
    """Wait for an answer until a time of the loop's clock."""
    try:
        async with asyncio.timeout_at(deadline_s):
            return await answer
    except TimeoutError:
        raise BackendUnavailableError(
            "Redis did not say whether a message was stored", outcome_unknown=True
        ) from None
