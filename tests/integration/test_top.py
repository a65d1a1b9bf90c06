"""``stabilizer top`` in a real terminal: it shows the nodes, takes keys, and leaves the terminal as it was."""

import asyncio
import os
import pty
import signal
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager

from fastapi_websocket_stabilizer.testing import RedisServer
from tests.integration.cluster import Managers, join
from tests.support.waiting import eventually

LOCAL_FLAGS = 3
"""Place of the flags for echo and lines in the attributes of a terminal."""


class Screen:
    """A terminal, and everything that was printed to it."""

    def __init__(self, mine: int, theirs: int) -> None:
        self.mine, self.theirs = mine, theirs
        self.printed = b""
        termios.tcsetwinsize(theirs, (40, 200))

    def read(self) -> None:
        self.printed += os.read(self.mine, 65536)

    @property
    def echoes(self) -> bool:
        return bool(termios.tcgetattr(self.theirs)[LOCAL_FLAGS] & termios.ECHO)


@contextmanager
def screen() -> Iterator[Screen]:
    mine, theirs = pty.openpty()
    found = Screen(mine, theirs)
    asyncio.get_running_loop().add_reader(mine, found.read)
    try:
        yield found
    finally:
        asyncio.get_running_loop().remove_reader(mine)
        os.close(mine)
        os.close(theirs)


def command(url: str, namespace: str, *words: str) -> list[str]:
    module = "fastapi_websocket_stabilizer.cli"
    return [sys.executable, "-m", module, "top", *words, "--redis-url", url, "--namespace", namespace]


async def test_table_is_shown_until_q_is_pressed(
    own_managers: Managers, server: RedisServer, namespace: str
) -> None:
    nodes = await own_managers.start_many(2)
    await join(nodes[0], "ada", "lobby")
    with screen() as terminal:
        process = await asyncio.create_subprocess_exec(
            *command(server.url, namespace, "--every", "0.5"),
            stdin=terminal.theirs,
            stdout=terminal.theirs,
            env=os.environ | {"TERM": "xterm", "COLUMNS": "200"},
        )
        try:
            names = [str(node.statistics().node_id).encode() for node in nodes]
            await eventually(
                lambda: all(name in terminal.printed for name in names), 20, what="both nodes are shown"
            )
            assert b"2 of 2 nodes ready" in terminal.printed
            assert not terminal.echoes
            os.write(terminal.mine, b"o")
            os.write(terminal.mine, b"q")
            assert await asyncio.wait_for(process.wait(), 20) == 0
            assert terminal.echoes
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


async def test_program_ends_when_its_terminal_is_gone(
    own_managers: Managers, server: RedisServer, namespace: str
) -> None:
    node = await own_managers.start()
    process = None
    try:
        with screen() as terminal:
            process = await asyncio.create_subprocess_exec(
                *command(server.url, namespace, "--every", "0.5"),
                stdin=terminal.theirs, stdout=terminal.theirs, env=os.environ | {"TERM": "xterm", "COLUMNS": "200"},
            )  # fmt: skip
            shown = str(node.statistics().node_id).encode()
            await eventually(lambda: shown in terminal.printed, 20, what="the node is shown")
        assert await asyncio.wait_for(process.wait(), 20) == -signal.SIGHUP
    finally:
        if process is not None and process.returncode is None:
            process.kill()
            await process.wait()


async def test_one_look_is_printed_without_a_terminal(
    own_managers: Managers, server: RedisServer, namespace: str
) -> None:
    node = await own_managers.start()
    await join(node, "ada", "lobby")
    await node._registry.telemetry.publish()
    process = await asyncio.create_subprocess_exec(
        *command(server.url, namespace, "--every", "0.5"), stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    head, totals, problem, _, table, row = output.decode().splitlines()
    assert head.startswith(f"{namespace}: 1 of 1 node ready, ")
    assert totals.startswith("1 connection (+")
    assert problem == "no problem"
    assert table.split()[:6] == ["NODE", "NAME", "W", "VERSION", "CONNS", "LOAD"]
    assert row.split()[0] == node.statistics().node_id


async def test_table_stays_while_redis_does_not_answer(
    own_managers: Managers, server: RedisServer, namespace: str
) -> None:
    node = await own_managers.start()
    with screen() as terminal:
        process = await asyncio.create_subprocess_exec(
            *command(server.url, namespace, "--every", "0.5"),
            stdin=terminal.theirs, stdout=terminal.theirs, stderr=asyncio.subprocess.PIPE,
            env=os.environ | {"TERM": "xterm", "COLUMNS": "200", "WS_REDIS_TIMEOUT_S": "1"},
        )  # fmt: skip
        shown = str(node.statistics().node_id).encode()
        await eventually(lambda: shown in terminal.printed, 20, what="the node is shown")
        server.kill()
        await eventually(lambda: b"Redis" in terminal.printed, 20, what="the trouble")
        terminal.printed = b""
        os.write(terminal.mine, b"l")
        await eventually(lambda: shown in terminal.printed, 20, what="the last look is still shown")
        os.write(terminal.mine, b"q")
        assert await asyncio.wait_for(process.wait(), 20) == 0
        assert terminal.echoes
