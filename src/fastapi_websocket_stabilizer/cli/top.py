"""``stabilizer top``: a registry in one table, which is renewed until q is pressed."""

import asyncio
import os
import sys
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime

from rich.live import Live
from rich.text import Text

from ..config import WebSocketConfig
from ..observe.report import Report, ShownNode
from ..observe.text import counted, size
from ..runtime.loops import running_loop
from .check import looks
from .operator import Operator

ORDERS: dict[str, Callable[[ShownNode], float]] = {
    "c": lambda node: node.connections,
    "o": lambda node: node.outbox_bytes,
    "s": lambda node: node.sent_per_s,
    "l": lambda node: node.loop_lag_s or 0.0,
}
"""Value that each key sorts by, the largest first."""
KEYS = "q ends   c connections   o outbox   s sent   l loop lag"
QUIT = ("q", "\x03", "\x1b")


async def run_top(
    config: WebSocketConfig, every_s: float, say: Callable[[str], None], *, is_live: bool
) -> None:
    """Show a registry until q is pressed. Without a terminal, pass one look to ``say``.

    Raises:
        RemoteError: There is no URL.
        BackendUnavailableError: Redis did not answer.
    """
    async with Operator(config) as operator, aclosing(looks(operator, config.namespace, every_s)) as reports:
        if is_live:
            await _show(reports, every_s)
        else:
            say(as_text(await anext(reports), "c"))


async def _show(reports: AsyncGenerator[Report, None], every_s: float) -> None:
    keys, order, text = asyncio.Queue[str](), "c", f"the first look takes {every_s:g} s"
    report: Report | None = None
    with _keys_of_terminal(keys), Live(screen=True, auto_refresh=False) as live:
        look, key = asyncio.ensure_future(anext(reports)), asyncio.ensure_future(keys.get())
        try:
            while True:
                live.update(Text(text, no_wrap=True), refresh=True)
                await asyncio.wait((look, key), return_when=asyncio.FIRST_COMPLETED)
                if key.done():
                    pressed, key = key.result(), asyncio.ensure_future(keys.get())
                    if pressed in QUIT:
                        return
                    order = pressed if pressed in ORDERS else order
                if look.done():
                    report, look = look.result(), asyncio.ensure_future(anext(reports))
                if report is not None:
                    text = f"{as_text(report, order)}\n\n{KEYS}"
        finally:
            for task in (look, key):
                task.cancel()
            await asyncio.gather(look, key, return_exceptions=True)


def as_text(report: Report, order: str) -> str:
    """Return the head, the problems, and the table of nodes, sorted by the order of a key."""
    nodes = sorted(report.nodes, key=ORDERS[order], reverse=True)
    ready = sum(node.ready for node in nodes)
    head = f"{report.namespace}: {ready} of {counted(len(nodes), 'node')} ready, {datetime.now(UTC):%H:%M:%S} UTC"
    opened, closed, sent = (
        (
            sum(rates)
            for rates in zip(*((n.opened_per_s, n.closed_per_s, n.sent_per_s) for n in nodes), strict=True)
        )
        if nodes
        else (0.0, 0.0, 0.0)
    )
    totals = (
        f"{counted(sum(node.connections for node in nodes), 'connection')} (+{opened:,.1f} -{closed:,.1f} a second), "
        f"{sent:,.0f} messages a second, {size(sum(node.outbox_bytes for node in nodes))} in outboxes"
    )
    found = [f"{each.severity} {each.name} {each.node or ''}: {each.what}" for each in report.problems]
    table = replace(report, nodes=nodes).nodes_as_text()
    return "\n".join([head, totals, *(found or ["no problem"]), "", table])


@contextmanager
def _keys_of_terminal(keys: "asyncio.Queue[str]") -> Iterator[None]:
    """Put each key into a queue when it is pressed. Without POSIX terminals, only Ctrl+C ends the program."""
    if sys.platform == "win32":
        yield
        return
    import termios
    import tty

    number, loop = sys.stdin.fileno(), running_loop()
    before = termios.tcgetattr(number)
    tty.setcbreak(number)
    loop.add_reader(number, _read, number, keys)
    try:
        yield
    finally:
        loop.remove_reader(number)
        termios.tcsetattr(number, termios.TCSADRAIN, before)


def _read(number: int, keys: "asyncio.Queue[str]") -> None:
    # Not from sys.stdin, which would keep keys that were pressed together in its buffer.
    for key in os.read(number, 64).decode(errors="ignore"):
        keys.put_nowait(key)
