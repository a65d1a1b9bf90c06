"""Several managers that share one registry in this process: no Redis, no sleep, and faults on command."""

import asyncio
from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Any, Self

from ..config import WebSocketConfig
from ..local.batches import DirectMessages, Outcome
from ..local.connection import Connection
from ..manager import WebSocketConnectionManager
from ..names import NodeId
from ..registry.registry import Registry
from ..web import serving
from .links import MemoryLink, SharedHub
from .sockets import FakeWebSocket

LAPSED = 1
"""A deadline long ago, in ms."""
VANISHED = 1006
"""The close code of a peer that said nothing."""


class MemoryManager(WebSocketConnectionManager):
    """A manager whose registry is a hub in this process; everything else of it is the real one."""

    def __init__(self, config: WebSocketConfig, hub: SharedHub) -> None:
        self._hub = hub
        super().__init__(config)

    def _make_registry(self) -> Registry:
        return Registry(self.config, self._log, self._open_link)

    def _open_link(self, *arguments: Any) -> MemoryLink:
        self.link: MemoryLink = MemoryLink(self._hub, *arguments)
        return self.link

    @property
    def registry(self) -> Registry:
        """The node behind the façade."""
        return self._registry

    async def beat(self) -> None:
        """Renew the lease now, and do all that a beat brings except sweeping others."""
        leases = self._registry.lease
        assert leases is not None  # a shared registry has them
        await leases.beat()

    async def quiet(self) -> None:
        """Wait until what it was told by now is written to its sockets, and its background tasks have ended."""
        state = self._registry.state
        written: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        state.fan_out.submit(DirectMessages((), done=written.set_result))  # behind everything else
        await written
        await state.tasks.idle()


class MemoryCluster:
    """N real managers of one registry, in this process.

    >>> async with MemoryCluster(3) as cluster:
    ...     first, second, third = cluster.managers
    ...     alice = await cluster.connect(first, "alice", rooms=["lobby"])
    ...     await third.send_to_client("alice", "hello")
    ...     await cluster.kill(first)
    ...     assert not await second.is_connected("alice")

    What managers say to one another arrives at once, and nothing waits for a clock: after ``kill`` and
    ``flush`` the others know already. Every setting works but ``redis_url``, which is not used.
    """

    def __init__(self, managers: int = 2, config: WebSocketConfig | None = None) -> None:
        """Prepare ``managers`` managers with the same settings; they start with the ``async with`` block."""
        self._config = replace(config or WebSocketConfig(log_level="ERROR"), redis_url=None)
        self._hub = SharedHub()
        self._handlers: dict[asyncio.Task[None], tuple[MemoryManager, FakeWebSocket]] = {}
        self._made = 0
        self.managers: list[MemoryManager] = [self._make() for _ in range(managers)]
        """Those that live, in the order of their start."""

    def _make(self) -> MemoryManager:
        name = f"manager-{self._made}"
        self._made += 1
        return MemoryManager(replace(self._config, node_name=name), self._hub)

    async def __aenter__(self) -> Self:
        for manager in self.managers:
            await manager.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        for manager in self.managers:
            manager.link.mend()
        await asyncio.gather(*(manager.graceful_shutdown(1.0) for manager in self.managers))
        await asyncio.gather(*self._handlers, return_exceptions=True)

    async def add(self) -> MemoryManager:
        """Start one more manager."""
        manager = self._make()
        await manager.start()
        self.managers.append(manager)
        return manager

    async def connect(
        self,
        manager: MemoryManager,
        client_id: str,
        *,
        rooms: Iterable[str] = (),
        metadata: dict[str, Any] | None = None,
        state: Any = None,
    ) -> FakeWebSocket:
        """Connect a client to a manager, with a handler that serves it, and return its socket.

        Its messages go to the manager's ``on_message``. Raises as ``manager.connect``.
        """
        socket = FakeWebSocket()
        registered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        block = manager.connection(socket, client_id, metadata=metadata, rooms=rooms, state=state)
        handler = asyncio.create_task(_serve(manager, block, registered), name=f"handler-{client_id}")
        self._handlers[handler] = (manager, socket)
        handler.add_done_callback(self._handlers.pop)
        await registered
        return socket

    async def kill(self, manager: MemoryManager) -> None:
        """End a manager as ``kill -9`` does: no goodbye, no hook. Its lease has lapsed and it was swept.

        Raises:
            ValueError: It was killed before, or is none of this cluster.
        """
        if manager not in self.managers:
            raise ValueError("this manager was killed before, or is of another cluster")
        self.managers.remove(manager)
        node_id = manager.registry.state.node_id
        manager.link.cut()
        hooks = manager.registry.state.hooks
        for each in (hooks.on_connect, hooks.on_disconnect, hooks.on_presence):
            each.clear()
        for owner, socket in tuple(self._handlers.values()):
            if owner is manager:
                socket.hang_up(VANISHED)
        await manager.registry.stop(0)
        await self._bury(node_id)

    async def _bury(self, node_id: NodeId) -> None:
        self._hub.leases[node_id] = LAPSED
        if self.managers:
            await self.managers[0].registry.recovery.sweeper.sweep(node_id)
        await self.beat()

    async def lapse(self, manager: MemoryManager) -> None:
        """Let a manager's lease lapse and another one sweep it, as if it had been frozen; then let it find out."""
        node_id = manager.registry.state.node_id
        self._hub.leases[node_id] = LAPSED
        for other in self.managers:
            if other is not manager:
                await other.registry.recovery.sweeper.sweep(node_id)
                break
        await self.beat()

    def cut(self, manager: MemoryManager) -> None:
        """Separate a manager from the registry until ``mend``: calls fail at once, messages are lost."""
        manager.link.cut()

    async def mend(self, manager: MemoryManager) -> None:
        """Connect it again, and let it and the others catch up."""
        manager.link.mend()
        await self.beat()

    def lose_bus(self, manager: MemoryManager) -> None:
        """Break the connection on which a manager hears the others, as ``CLIENT KILL TYPE pubsub`` does."""
        manager.link.lose_bus()

    async def flush(self) -> None:
        """Lose everything that the registry holds, as a Redis that restarts without persistence does."""
        self._hub.restart_empty()
        for manager in self.managers:
            manager.link.lose_bus()
        await self.beat()

    async def beat(self) -> None:
        """Let every manager renew its lease and do what was left undone, twice, as two beats would."""
        for _ in range(2):
            for manager in self.managers:
                if not manager.link.is_cut:
                    await manager.beat()
            await self.quiet()

    async def quiet(self) -> None:
        """Wait until every manager has written what the others published, and does nothing in the background."""
        for manager in self.managers * 2:  # a second time: the last may have given the first something to do
            await manager.quiet()


async def _serve(
    manager: MemoryManager,
    block: AbstractAsyncContextManager[Connection],
    registered: "asyncio.Future[None]",
) -> None:
    """Be the handler of one socket."""
    try:
        async with block as connection:
            registered.set_result(None)
            on_message = manager.registry.state.hooks.on_message
            await serving.serve(manager.registry, connection, on_message, park=False)
    except (Exception, asyncio.CancelledError) as error:
        if registered.done():
            raise
        registered.set_exception(error)
