"""Terminal output of the demo."""

import asyncio
import signal
import threading
import webbrowser

from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table

from .supervisor import ALL_ADDRESSES, RESTART_DELAY_S, Replica, choose_replicas, supervise

_HINTS = """\
Open [b]{first}[/b] and [b]{last}[/b] in separate tabs, and send a message.
Write to everyone, to a room, or to one person: click a name.
Press [b]kill -9[/b] on a replica: its people vanish when its lease runs out, and come back on another.
"""
_OPEN_TO_ALL = (
    "Other machines reach the same ports under this machine's name. They can press [b]kill -9[/b] as well."
)


def run_demo(count: int, host: str, first_port: int, *, open_browser: bool = False) -> None:
    """Run the demo until a signal stops it.

    Raises:
        DemoError: The demo cannot start or continue.
    """
    console = Console(highlight=False, soft_wrap=True)
    replicas = choose_replicas(count, host, first_port)
    skipped = sorted(set(range(first_port, replicas[-1].port)) - {each.port for each in replicas})
    if skipped:
        console.print(f"[yellow]busy:[/yellow] {', '.join(map(str, skipped))}; the next free ports are used")
    console.print(f"[dim]starting Valkey and {count} replicas …[/dim]")
    asyncio.run(supervise(replicas, _Screen(console, replicas, open_browser)))
    console.print("\n[dim]all ended[/dim]")


class _Screen:
    """Prints the URLs when all replicas answer, and then each end and restart of a replica."""

    def __init__(self, console: Console, replicas: list[Replica], open_browser: bool) -> None:
        self._console = console
        self._replicas = replicas
        self._open_browser = open_browser
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
        lines = _HINTS.format(first=self._replicas[0].url, last=self._replicas[-1].url).splitlines()
        if self._replicas[0].host == ALL_ADDRESSES:
            lines.append(_OPEN_TO_ALL)
        for line in lines:
            hints.add_row("[dim]→[/dim]", line)
        panel = Panel(Group(table, "", hints), title="stabilizer demo", padding=(1, 2), expand=False)
        self._console.print(panel, soft_wrap=False)
        self._console.print("[dim]Ctrl-C ends everything.[/dim]\n")
        if self._open_browser:  # in a thread, because a terminal browser returns only when it is closed
            threading.Thread(target=self._open, daemon=True).start()

    def _open(self) -> None:
        url = self._replicas[0].url
        if not webbrowser.open(url):
            self._console.print(f"[yellow]no browser found:[/yellow] open {url} yourself")


def _how(returncode: int) -> str:
    if returncode < 0:
        return f"was killed ({signal.Signals(-returncode).name})"
    return f"ended with exit code {returncode}"
