"""``stabilizer top``: a registry in one table, which is renewed until q is pressed."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime

from rich.live import Live
from rich.text import Text

from ..config import WebSocketConfig
from ..names import printable
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
    async with Operator(config) as operator:
        if is_live:
            await _show(operator, config.namespace, every_s)
            return
        async with aclosing(looks(operator, config.namespace, every_s)) as reports:
            say(as_text(await anext(reports), "c"))


async def _show(operator: Operator, namespace: str, every_s: float) -> None:
    """Renew the screen with each look and each key. A look that Redis does not answer leaves the last one."""
    events, order, trouble = asyncio.Queue[str | Report](), "c", ""
    report: Report | None = None

    def warn(text: str) -> None:
        nonlocal trouble
        trouble = text
        events.put_nowait("")

    async def look() -> None:
        async for found in looks(operator, namespace, every_s, warn):
            events.put_nowait(found)

    with _keys_of_terminal(events), Live(screen=True, auto_refresh=False) as live:
        looking = asyncio.ensure_future(look())
        looking.add_done_callback(lambda _: events.put_nowait(""))
        try:
            while not looking.done():
                text = f"the first look takes {every_s:g} s" if report is None else as_text(report, order)
                live.update(
                    Text("\n".join(filter(None, [trouble, text, "", KEYS])), no_wrap=True), refresh=True
                )
                event = await events.get()
                if isinstance(event, Report):
                    report, trouble = event, ""
                elif event in QUIT:
                    return
                order = event if isinstance(event, str) and event in ORDERS else order
            looking.result()
        finally:
            looking.cancel()
            await asyncio.wait({looking})


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
    found = [
        printable(f"{each.severity} {each.name} {each.node or ''}: {each.what}") for each in report.problems
    ]
    table = replace(report, nodes=nodes).nodes_as_text()
    return "\n".join([head, totals, *(found or ["no problem"]), "", table])


@contextmanager
def _keys_of_terminal(events: "asyncio.Queue[str | Report]") -> Iterator[None]:
    """Put each key into a queue when it is pressed. Without POSIX terminals, only Ctrl+C ends the program."""
    if sys.platform == "win32":
        yield
        return
    import termios
    import tty

    number, loop = sys.stdin.fileno(), running_loop()
    before = termios.tcgetattr(number)
    tty.setcbreak(number)
    loop.add_reader(number, _read, number, events)
    try:
        yield
    finally:
        loop.remove_reader(number)
        termios.tcsetattr(number, termios.TCSADRAIN, before)


def _read(number: int, events: "asyncio.Queue[str | Report]") -> None:
    # Not from sys.stdin, which would keep keys that were pressed together in its buffer.
    try:
        keys = os.read(number, 64).decode(errors="ignore")
    except OSError:  # EIO: the terminal is gone
        keys = ""
    if not keys:
        # It stays readable for good, so a top that went on would use a whole core for nothing. Nothing can be
        # put back, so the program ends as the kernel ends those of a session whose terminal is gone.
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        signal.raise_signal(signal.SIGHUP)
    for key in keys:
        events.put_nowait(key)
