"""``stabilizer tail``: prints what happens on all nodes."""

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

from ..config import WebSocketConfig
from ..exceptions import BackendUnavailableError
from ..names import printable
from ..observe.text import counted, duration
from .operator import Operator

AGAIN_AFTER_S = 1.0
"""Seconds until Redis is asked again after it has not answered."""
Say = Callable[[str], None]


async def run_tail(
    config: WebSocketConfig, client: str | None, kind: str | None, say: Say, warn: Say, *, as_json: bool
) -> None:
    """Pass a line for each event to ``say``, and one for what is not heard to ``warn``, until the caller ends.

    Raises:
        RemoteError: There is no URL.
        BackendUnavailableError: Redis did not answer at the begin.
    """
    async with Operator(config) as operator:
        names = {str(info.node_id): info.name for info in await operator.nodes()}
        while True:
            try:
                async for message in operator.tail():
                    for text in message["silent"]:
                        warn(printable(text))
                    for event in _wanted(message, client, kind):
                        say(json.dumps(event) if as_json else _line(event, names))
            except BackendUnavailableError as error:
                warn(f"{error}; asking again")
                await asyncio.sleep(AGAIN_AFTER_S)


def _wanted(message: dict[str, Any], client: str | None, kind: str | None) -> Iterator[dict[str, Any]]:
    """Yield the events of a message that are asked for, and at last one for those that a node has left out."""
    for event in message["events"]:
        if client in (None, event["client_id"]) and kind in (None, event["kind"]):
            yield event
    if message["dropped"]:
        yield {"kind": "dropped", "count": message["dropped"]}


def _line(event: dict[str, Any], names: dict[str, str]) -> str:
    if event["kind"] == "dropped":
        return f"… {counted(event['count'], 'event')} not shown"
    line = f"{event['at'][11:23]}  {names.get(event['node'], event['node'])}  {event['kind']}  {event['client_id']}"
    lasted_s = event.get("lasted_s")
    if isinstance(lasted_s, int | float):
        line += f"  {event.get('cause')} ({event.get('code')}) after {duration(lasted_s)}"
    return printable(line)
