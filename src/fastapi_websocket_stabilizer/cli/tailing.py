"""``stabilizer tail``: prints what happens on all nodes."""

import json
from collections.abc import Callable
from typing import Any

from ..config import WebSocketConfig
from ..observe.text import counted, duration, printable
from .operator import Operator


async def run_tail(
    config: WebSocketConfig,
    client: str | None,
    kind: str | None,
    say: Callable[[str], None],
    *,
    as_json: bool,
) -> None:
    """Pass a line for each event to ``say``, until the caller ends.

    Raises:
        RemoteError: There is no URL.
        BackendUnavailableError: Redis did not answer.
    """
    async with Operator(config) as operator:
        names = {str(info.node_id): info.name for info in await operator.nodes()}
        async for message in operator.tail():
            for event in message["events"]:
                if client in (None, event.get("client_id")) and kind in (None, event.get("kind")):
                    say(json.dumps(event) if as_json else _line(event, names))
            if dropped := message["dropped"]:
                missed = {"kind": "dropped", "count": dropped}
                say(json.dumps(missed) if as_json else f"… {counted(dropped, 'event')} not shown")


def _line(event: dict[str, Any], names: dict[str, str]) -> str:
    at, node = str(event.get("at")), str(event.get("node"))
    line = f"{at[11:23]}  {names.get(node, node)}  {event.get('kind')}  {event.get('client_id')}"
    lasted_s = event.get("lasted_s")
    if isinstance(lasted_s, int | float):
        line += f"  {event.get('cause')} ({event.get('code')}) after {duration(lasted_s)}"
    return printable(line)
