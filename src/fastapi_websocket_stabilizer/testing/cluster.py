"""Several managers that share one registry in this process, without Redis and sleeps, and with faults on demand."""

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
"""A deadline in the distant past, in ms."""
VANISHED = 1006
"""Close code of a peer that left without a close frame."""


class MemoryManager(WebSocketConnectionManager):
    """A manager whose registry is a hub in this process. All its other parts are the real ones."""

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
        """The node behind this manager."""
        return self._registry

    async def beat(self) -> None:
        """Renew the lease now, with the work that follows each renewal, except sweeping other nodes."""
        await self._registry.lease.beat(self._registry.recovery)

    async def quiet(self) -> None:
        """Wait until all published messages are written to its sockets, and its background tasks have ended."""
        state = self._registry.state
        written: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        state.fan_out.submit(DirectMessages((), done=written.set_result))  # behind everything else
        await written
        await state.tasks.idle()


class MemoryCluster:
    """Several real managers of one registry, in this process.

    >>> async with MemoryCluster(3) as cluster:
    ...     first, second, third = cluster.managers
    ...     alice = await cluster.connect(first, "alice", rooms=["lobby"])
    ...     await third.send_to_client("alice", "hello")
    ...     await cluster.kill(first)
    ...     assert not await second.is_connected("alice")

    Messages between managers arrive at once, and nothing depends on a clock. When ``kill`` and ``flush`` return, the
    other managers have already reacted. All settings apply except ``redis_url``, which is ignored.
    """

    def __init__(self, managers: int = 2, config: WebSocketConfig | None = None) -> None:
        """Create ``managers`` managers with the same settings. They start with the ``async with`` block."""
        self._config = replace(config or WebSocketConfig(log_level="ERROR"), redis_url=None)
        self._hub = SharedHub()
        self._handlers: dict[asyncio.Task[None], tuple[MemoryManager, FakeWebSocket]] = {}
        self._made = 0
        self.managers: list[MemoryManager] = [self._make() for _ in range(managers)]
        """The managers that are not killed, in the order of their start."""

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
        """Start one more manager and return it."""
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

        Messages of the client go to the manager's ``on_message``. Raises the errors of ``manager.connect``.
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
        """End a manager as ``kill -9`` does: without close frames and without its hooks.

        On return its lease has lapsed, and another manager has swept it.

        Raises:
            ValueError: The manager was killed before, or belongs to another cluster.
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
        """End the lease of a manager and let another one sweep it, as after a freeze.

        On return the manager has noticed it, and has registered again under a new node_id.
        """
        node_id = manager.registry.state.node_id
        self._hub.leases[node_id] = LAPSED
        for other in self.managers:
            if other is not manager:
                await other.registry.recovery.sweeper.sweep(node_id)
                break
        await self.beat()

    def cut(self, manager: MemoryManager) -> None:
        """Separate a manager from the registry until ``mend``. Calls fail at once, and messages are lost."""
        manager.link.cut()

    async def mend(self, manager: MemoryManager) -> None:
        """Connect a manager again, and wait until all managers have reacted."""
        manager.link.mend()
        await self.beat()

    def lose_bus(self, manager: MemoryManager) -> None:
        """Break a manager's connection to the bus, as ``CLIENT KILL TYPE pubsub`` does. It returns at once."""
        manager.link.lose_bus()

    async def flush(self) -> None:
        """Delete the content of the registry, as a restart of Redis without persistence does."""
        self._hub.restart_empty()
        for manager in self.managers:
            manager.link.lose_bus()
        await self.beat()

    async def beat(self) -> None:
        """Run two beats of every manager: renew its lease, and retry unfinished work."""
        for _ in range(2):
            for manager in self.managers:
                if not manager.link.is_cut:
                    await manager.beat()
            await self.quiet()

    async def quiet(self) -> None:
        """Wait until every manager has written all published messages, and runs no background tasks."""
        for manager in self.managers * 2:  # twice, because the last manager may have published to the first
            await manager.quiet()


async def _serve(
    manager: MemoryManager,
    block: AbstractAsyncContextManager[Connection],
    registered: "asyncio.Future[None]",
) -> None:
    """Serve one socket, as a handler of an application does."""
    try:
        async with block as connection:
            registered.set_result(None)
            on_message = manager.registry.state.hooks.on_message
            await serving.serve(manager.registry, connection, on_message, park=False)
    except (Exception, asyncio.CancelledError) as error:
        if registered.done():
            raise
        registered.set_exception(error)
