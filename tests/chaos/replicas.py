"""The replicas of a run: real processes, each behind a separate proxy, which are killed and restarted."""

import asyncio
import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp

from fastapi_websocket_stabilizer.testing import TcpProxy, eventually, free_port
from tests.chaos.history import ALONE, Call, Event, Fault, History, Process
from tests.chaos.seeded import SOWN
from tests.support.forked import ForkedServer

PROJECT = Path(__file__).parents[2]
Clock = Callable[[], float]


class Replica:
    """One replica, and its successive processes. Each process has a different name."""

    def __init__(
        self, number: int, proxy: TcpProxy, history: History, now_s: Clock, environment: dict[str, str]
    ) -> None:
        self.number, self.proxy = number, proxy
        self.history, self._now_s = history, now_s
        self._environment = {**environment, "REPLICA_REDIS_URL": f"redis://127.0.0.1:{proxy.port}/0"}
        self._lives = 0
        self.is_frozen = self.is_rolling = False
        self._http: aiohttp.ClientSession | None = None
        self.start()

    def start(self) -> None:
        self._lives += 1
        self.life = Process(f"r{self.number}.{self._lives}")
        self.history.processes.append(self.life)
        self.port = free_port()
        command = [sys.executable, "-m", "uvicorn", "tests.chaos.app:app", "--port", str(self.port)]
        command += ["--log-level", "warning", "--timeout-graceful-shutdown", "2"]
        environment = {**self._environment, "REPLICA_NAME": self.life.name}
        self.process = ForkedServer(command, environment=environment, directory=PROJECT)

    @property
    def name(self) -> str:
        return self.life.name

    async def is_up(self) -> bool:
        try:
            async with self.http.get(self._url("livez"), timeout=aiohttp.ClientTimeout(2)) as response:
                return response.status == 200
        except (aiohttp.ClientError, TimeoutError):
            if not self.process.is_running and not self.is_rolling:  # restart it, as a supervisor does
                self.died("crash")
                self.start()
            return False

    async def is_ready(self) -> bool:
        try:
            async with self.http.get(self._url("readyz")) as response:
                return response.status == 200
        except (aiohttp.ClientError, OSError):  # the kept connection was closed just now
            return False

    def died(self, kind: str) -> None:
        self.life.died_s = self._now_s()
        self.history.faults.append(Fault(kind, self.name, self.life.died_s, self.life.died_s))

    def stop(self) -> None:
        self.process.stop()

    def kill(self) -> None:
        self.process.kill()
        self.died("kill")

    async def roll(self) -> None:
        """Drain by SIGTERM, or kill after the time-out of ``ChildProcess.stop``, and start another process."""
        self.is_rolling = True
        await asyncio.to_thread(self.process.stop)
        self.died("kill" if self.process.exit_code == -signal.SIGKILL else "roll")
        self.start()
        self.is_rolling = False

    @property
    def http(self) -> aiohttp.ClientSession:
        if self._http is None:
            self._http = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        return self._http

    def _url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}/{path}"

    async def call(self, what: str, **arguments: Any) -> Any:
        """Call the replica, and record the outcome. Return the answer, or None unless the outcome is "ok"."""
        name, began_s, answer = self.name, self._now_s(), None
        try:
            async with self.http.post(self._url(f"call/{what}"), json=arguments) as response:
                answer = await response.json()
                outcome = "ok" if response.status == 200 else str(answer)
                if response.status == 503:
                    self.history.unknown.append(outcome)
                    outcome = "BackendUnavailableError"
        except (aiohttp.ClientError, OSError, json.JSONDecodeError):
            outcome = "lost"
        self.history.calls.append(Call(name, what, began_s, self._now_s(), outcome))
        return answer if outcome == "ok" else None

    async def close(self) -> None:
        if self._http is not None:
            await self._http.close()


def environment_of(
    directory: Path, namespace: str, history: History, timeout_s: float, sown: str
) -> dict[str, str]:
    """Return the environment variables of the replicas."""
    told = {
        "REPLICA_NAMESPACE": namespace,
        "REPLICA_LEASE_S": str(history.lease_s),
        "REPLICA_BEAT_S": str(history.beat_s),
        "REPLICA_TIMEOUT_S": str(timeout_s),
        "CHAOS_EVENTS": str(directory / "events.jsonl"),
    }
    return told | ({SOWN: sown} if sown else {})


def read_events(directory: Path, history: History, start_s: float) -> None:
    """Add the events that all replicas have reported, including dead ones."""
    path = directory / "events.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    for event in [Event(*json.loads(line)) for line in lines]:
        if event.kind == ALONE:
            history.alone.append(event.event_id)
        else:
            event.at_s -= start_s
            history.events.append(event)


async def all_up(replicas: list[Replica], timeout_s: float = 60.0) -> None:
    await asyncio.gather(
        *(eventually(replica.is_up, timeout_s, what=f"{replica.name} is up") for replica in replicas)
    )
