"""The harness's handle on the load generator."""

import os
import sys
import tempfile
from multiprocessing.connection import Listener
from pathlib import Path
from typing import Any, Self

from tests.support.process import ChildProcess

from .clients import Crowd
from .receiver import build

SILENCE_S = 3.0
"""After this long without any message, what has not arrived is lost."""
START_TIMEOUT_S = 20.0
PROJECT = Path(__file__).parents[1]


class Clients:
    """The clients of one session; a process of their own."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="benchmarks-")
        library = build(Path(self._folder.name))
        address = os.path.join(self._folder.name, "control")  # noqa: PTH118 - Listener wants a str
        with Listener(address, family="AF_UNIX") as listener:
            command = [sys.executable, "-m", "benchmarks.clients", address, str(library)]
            self._process = ChildProcess(command, directory=PROJECT)
            listener._listener._socket.settimeout(START_TIMEOUT_S)  # type: ignore[attr-defined]
            self._control = listener.accept()
        self.count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._control.close()
        self._process.stop()
        self._folder.cleanup()

    def _ask(self, name: str, **given: Any) -> Any:
        try:
            self._control.send((name, given))
            is_done, answer = self._control.recv()
        except (EOFError, OSError) as error:
            raise RuntimeError(f"the load generator died:\n{self._process.output}") from error
        if not is_done:
            raise RuntimeError(answer)
        return answer

    def connect(self, crowd: Crowd) -> str:
        """Connect a crowd and return the WebSocket extensions it was granted.

        Raises:
            RuntimeError: a client could not connect.
        """
        extensions: str = self._ask("connect", crowd=crowd)
        self.count += crowd.count
        return extensions

    def reset(self) -> None:
        """Count from zero."""
        self._ask("reset")

    def wait(self, messages: int) -> bool:
        """Return whether so many messages arrived, all clients together."""
        return bool(self._ask("wait", messages=messages, silence_s=SILENCE_S))

    def counters(self) -> dict[str, int]:
        """Return what arrived since the last reset."""
        counters: dict[str, int] = self._ask("counters")
        return counters

    def incomplete(self, messages: int, sequences: int = 0) -> int:
        """Return how many clients have not had exactly these messages; ``sequences`` is their sum, 0 any."""
        return int(self._ask("incomplete", messages=messages, sequences=sequences))

    def percentiles(self, *shares: float) -> list[float]:
        """Return latencies in seconds."""
        latencies: list[float] = self._ask("percentiles", shares=list(shares))
        return latencies

    def send(self, text: str) -> None:
        """Have each client send a message."""
        self._ask("send", text=text)

    def leave(self) -> None:
        """Close all clients; they can come back."""
        self._ask("leave")

    def expect(self, crowd: Crowd) -> None:
        """Have a crowd come with ``come_back`` that was never here: plain sockets, without messages."""
        self._ask("expect", crowd=crowd)
        self.count += crowd.count

    def come_back(self, messages: int) -> float:
        """Connect all clients again that have left; return the seconds until they had so many messages together.

        Without messages: until all handshakes were answered.

        Raises:
            RuntimeError: a client could not connect.
        """
        return float(self._ask("come_back", messages=messages, silence_s=SILENCE_S))

    def close(self) -> None:
        """Close all clients for good."""
        self._ask("close")
        self.count = 0
