"""The interfaces of commands and subscriptions, which one server and a cluster share."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Protocol

from .command import Argument
from .scripts import Script


class CommandConnection(Protocol):
    """Sends commands: ``Pipeline`` to one server, ``Router`` to a cluster.

    Attributes:
        before_queueing: Called before a command is queued; may queue commands that must precede it.
    """

    before_queueing: Callable[[], None]

    @property
    def is_ordered(self) -> bool:
        """Whether commands are executed in the order of the calls, whatever their keys."""
        ...

    @property
    def run_id(self) -> str:
        """The identity of the server process; changes after a restart or a failover."""
        ...

    @property
    def queued_bytes(self) -> int: ...

    async def start(self) -> None: ...

    def serve(self) -> None:
        """Start without waiting. Connects, with retries, as soon as a server answers."""
        ...

    async def stop(self) -> None: ...

    def call(
        self,
        script: Script,
        keys: Iterable[str],
        *arguments: Argument,
        idempotent: bool,
        parse: Callable[[Any], Any] | None = None,
    ) -> "asyncio.Future[Any]": ...

    def send(self, *arguments: Argument, idempotent: bool) -> "asyncio.Future[Any]": ...


class Subscription(Protocol):
    """Receives from channels: ``Subscriber`` of one server, ``ClusterSubscriber`` of a cluster.

    Attributes:
        on_gap: Called when messages may be lost.
        on_return: Called when all channels are subscribed again, with the seconds of the gap.
        pause: Returns an awaitable that ends before the next message is read; usually None.
    """

    on_gap: Callable[[], None]
    on_return: Callable[[float], None]
    pause: Callable[[], Awaitable[object] | None]

    @property
    def is_connected(self) -> bool: ...

    async def start(self) -> None: ...

    def serve(self) -> None:
        """Start without waiting. Connects, with retries, as soon as a server answers."""
        ...

    async def stop(self) -> None: ...

    def want(self, name: str) -> None:
        """Subscribe without waiting."""
        ...

    async def subscribe(self, name: str) -> None: ...

    def unsubscribe(self, name: str) -> None: ...
