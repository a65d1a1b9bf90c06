"""What the person who started the demo reads."""

import asyncio
import signal

from rich.console import Console
from rich.panel import Panel
from rich.table import Table

from .supervisor import RESTART_DELAY_S, Replica, choose_replicas, supervise

_HINTS = """\
Open [b]{first}[/b], and in a second window [b]{last}[/b]: each sees the other.
Write to everyone, to a room, or to one person: click a name.
Press [b]kill -9[/b] on a replica: its people vanish when its lease lapses, and come back elsewhere.
"""


def run_demo(count: int, first_port: int) -> None:
    """Run the demo until it is asked to stop.

    Raises:
        DemoError: It cannot start or go on.
    """
    console = Console(highlight=False, soft_wrap=True)
    replicas = choose_replicas(count, first_port)
    skipped = sorted(set(range(first_port, replicas[-1].port)) - {each.port for each in replicas})
    if skipped:
        console.print(f"[yellow]busy:[/yellow] {', '.join(map(str, skipped))}; the next free ports are used")
    console.print(f"[dim]starting Valkey and {count} replicas …[/dim]")
    asyncio.run(supervise(replicas, _Screen(console, replicas)))
    console.print("\n[dim]all ended[/dim]")


class _Screen:
    """Prints the welcome once every replica answers, and from then on what happens to them."""

    def __init__(self, console: Console, replicas: list[Replica]) -> None:
        self._console = console
        self._replicas = replicas
        self._first_pids: dict[Replica, int] = {}

    def ready(self, replica: Replica, pid: int) -> None:
        if len(self._first_pids) == len(self._replicas):
            self._console.print(f"[green]●[/green] {replica.name} is back  [dim]pid {pid}[/dim]")
            return
        self._first_pids[replica] = pid
        if len(self._first_pids) == len(self._replicas):
            self._welcome()

    def ended(self, replica: Replica, pid: int, returncode: int) -> None:
        later = f"[dim]pid {pid}; restarts in {RESTART_DELAY_S:g} s[/dim]"
        self._console.print(f"[red]●[/red] {replica.name} {_how(returncode)}  {later}")

    def _welcome(self) -> None:
        table = Table.grid(padding=(0, 3))
        for replica in self._replicas:
            name, pid = f"[green]●[/green] {replica.name}", f"[dim]pid {self._first_pids[replica]}[/dim]"
            table.add_row(name, f"[link={replica.url}]{replica.url}[/link]", pid)
        hints = Table.grid(padding=(0, 2))
        for hint in _HINTS.format(first=self._replicas[0].url, last=self._replicas[-1].url).splitlines():
            hints.add_row("[dim]→[/dim]", hint)
        page = Table.grid()
        for part in (table, "", hints):
            page.add_row(part)
        panel = Panel(page, title="stabilizer demo", padding=(1, 2), expand=False)
        self._console.print(panel, soft_wrap=False)
        self._console.print("[dim]Ctrl-C ends everything.[/dim]\n")


def _how(returncode: int) -> str:
    if returncode < 0:
        return f"was killed ({signal.Signals(-returncode).name})"
    return f"ended with exit code {returncode}"
