"""The link of one node to a registry in this process, with faults on demand."""

import asyncio
import inspect
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, cast

from ..backends.log_ports import Append, Appended, LogName, LogRead, LogStore
from ..backends.memory import MemoryBackend, MemoryHub
from ..backends.ports import (
    Bus,
    Listening,
    NodeStore,
    PresenceStore,
    RoomStore,
    SessionStore,
    TokenStore,
    Watcher,
)
from ..backends.revocations import RevocationStore
from ..backends.rosters import RosterStore
from ..backends.workers import WorkerStore
from ..config import WebSocketConfig
from ..exceptions import BackendUnavailableError
from ..names import NodeId
from ..runtime.loops import running_loop
from ..runtime.metrics import Counters
from ..wire.channels import Channel
from ..wire.envelopes import Envelope

Method = Callable[..., Any]
NOBODY = NodeId("")


class SharedHub(MemoryHub):
    """The content of a registry, in place of Redis, and a number in place of the server's run_id."""

    lives: int

    def __init__(self) -> None:
        super().__init__()
        self.servers: int = 1

    def restart_empty(self) -> None:
        """Lose the content and change the run_id, as a restarted server does."""
        self.servers += 1
        self.empty()

    def empty(self) -> None:
        """Lose the content, as after FLUSHALL."""
        held = (
            self.clients,
            self.sids,
            self.rooms,
            self.unreported,
            self.index,
            self.leases,
            self.fences,
            self.infos,
        )
        for table in (*held, self.tokens):
            table.clear()
        self.logged.empty()
        self.sessions.clear()
        self.shown.clear()
        self.revoked.clear()
        self.secret = b""
        self.lives += 1


class MemoryLink:
    """``ports.Backend`` over a hub; each call passes ``call`` or ``call_now``."""

    def __init__(self, hub: SharedHub, config: WebSocketConfig, watcher: Watcher, counters: Counters) -> None:
        self.hub: SharedHub = hub
        self.config: WebSocketConfig = config
        self.node: NodeId = NOBODY
        self.is_cut: bool = False
        self._watcher = watcher
        self._backend = MemoryBackend(hub, NOBODY, self.hear, counters)
        del hub.listeners[NOBODY]  # start() subscribes
        self.bus: Bus = self._port(self._backend)
        self.presence: PresenceStore = self._port(self._backend)
        self.rooms: RoomStore = self._port(self._backend.rooms)
        self.tokens: TokenStore = self._port(self._backend)
        self.nodes: NodeStore = self._port(self._backend)
        self.logs: LogStore = cast(LogStore, _Logs(self, self._backend.logs))
        self.sessions: SessionStore = self._port(self._backend.sessions)
        self.rosters: RosterStore = self._port(self._backend.rosters)
        self.revocations: RevocationStore = self._port(self._backend.revocations)
        self.workers: WorkerStore = self._port(self._backend.workers)
        self.queued_bytes: int = 0
        self._gaps = 0

    def _port(self, target: object) -> Any:
        return _Port(self, target)

    async def start(self, node: NodeId) -> None:
        self.check()
        await self.rename(node)

    def start_later(self, node: NodeId) -> None:
        self.node = node

    def beat(self) -> None:
        """Do nothing: there is no bus connection to check."""

    async def rename(self, node: NodeId) -> None:
        self.node = node
        await self._backend.rename(node)

    async def stop(self) -> None:
        self.hub.listeners.pop(self.node, None)

    @property
    def is_connected(self) -> bool:
        return not self.is_cut

    @property
    def is_deaf(self) -> bool:
        return False

    @property
    def is_ordered(self) -> bool:
        return True

    @property
    def run_id(self) -> str:
        return str(self.hub.servers)

    def listening(self, channel: Channel) -> Listening | None:
        is_heard = not self.is_cut and self._backend.listening(channel) is not None
        return Listening(self.run_id, self._gaps) if is_heard else None

    @property
    def heard_to_s(self) -> float:
        return running_loop().time()

    def cut(self) -> None:
        """Fail every call from now on, and lose every message, until ``mend()``."""
        self.is_cut = True
        self.lose_bus()

    def mend(self) -> None:
        """Connect again. Lost messages stay lost."""
        if self.is_cut:
            self.is_cut = False
            self._watcher.gap_ended(0.0)

    def lose_bus(self) -> None:
        """Report a gap of the bus that is over at once, unless the link is cut."""
        self._gaps += 1
        self._watcher.gap_began()
        if not self.is_cut:
            self._watcher.gap_ended(0.0)

    def check(self) -> None:
        """Check that the link is not cut.

        Raises:
            BackendUnavailableError: The link is cut.
        """
        if self.is_cut:
            raise BackendUnavailableError("the memory registry: this manager was cut off from it")

    def hear(self, channel: Channel, envelope: Envelope, size: int) -> None:
        """Pass an envelope from the hub to the node, or drop it while the link is cut."""
        if not self.is_cut:
            self._watcher.receive(channel, envelope, size)

    def call(self, method: Method, *args: Any, **named: Any) -> Coroutine[Any, Any, Any]:
        """Return a coroutine that makes a call. The order of calls is that of ``call``, not of the awaits."""
        self._watcher.flush_earlier_sends()
        return self._carry_out(method, *args, **named)

    async def _carry_out(self, method: Method, *args: Any, **named: Any) -> Any:
        self.check()
        return await method(*args, **named)

    def call_now(self, method: Method, *args: Any) -> Any:
        """Make a call that is not a coroutine, and return its result. If the link is cut, return a failed future."""
        self._watcher.flush_earlier_sends()
        try:
            self.check()
            return method(*args)
        except BackendUnavailableError as error:
            return failed(error)


def failed(error: Exception) -> "asyncio.Future[Any]":
    """Return a future with an error, marked as retrieved, because calls without a reply are not awaited."""
    answer: asyncio.Future[Any] = running_loop().create_future()
    answer.set_exception(error)
    answer.exception()
    return answer


class _Port:
    """One port of a backend. Every call of its methods passes through the link."""

    def __init__(self, link: MemoryLink, target: Any) -> None:
        self._link, self._target = link, target

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._target, name)
        carry = self._link.call if inspect.iscoroutinefunction(method) else self._link.call_now
        carried = partial(carry, method)
        setattr(self, name, carried)  # the next call finds it
        return carried


class _Logs(_Port):
    """The logs. An append returns a future for each message, also while the link is cut."""

    def append(self, appends: Sequence[Append]) -> "list[asyncio.Future[Appended]]":
        found = self._link.call_now(self._target.append, appends)
        return found if isinstance(found, list) else [found for _ in appends]

    is_lasting = True

    def run_id_of(self, _: LogName) -> str:
        return self._link.run_id

    async def read(self, log: LogName, last: int | None = None) -> LogRead:
        run_id = self._link.run_id
        found: LogRead = await self._link.call(self._target.read, log, last)
        return replace(found, run_id=run_id)
