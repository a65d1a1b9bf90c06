"""What is asked of a connection, whether behind it is one server or a cluster."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Protocol

from .command import Argument
from .scripts import Script


class CommandConnection(Protocol):
    """Sends commands: ``Pipeline`` to one server, ``Router`` to a cluster.

    Attributes:
        before_queueing: May queue what must not be overtaken by the command that comes next.
    """

    before_queueing: Callable[[], None]

    @property
    def is_ordered(self) -> bool:
        """Whether commands are executed in the order of the calls, whatever their keys."""
        ...

    @property
    def run_id(self) -> str:
        """Changes when another server, or a restarted one, answers."""
        ...

    @property
    def queued_bytes(self) -> int: ...

    async def start(self) -> None: ...

    def serve(self) -> None:
        """The same without waiting: connect as soon as somebody answers."""
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
    """Hears channels: ``Subscriber`` of one server, ``ClusterSubscriber`` of a cluster.

    Attributes:
        on_gap: Told when messages are being lost.
        on_return: Told when everything is subscribed again, with the seconds that it was not.
        pause: Asked what to wait for before the next message is read.
    """

    on_gap: Callable[[], None]
    on_return: Callable[[float], None]
    pause: Callable[[], Awaitable[object] | None]

    @property
    def is_connected(self) -> bool: ...

    async def start(self) -> None: ...

    def serve(self) -> None:
        """The same without waiting: connect as soon as somebody answers."""
        ...

    async def stop(self) -> None: ...

    def want(self, name: str) -> None:
        """Subscribe without waiting."""
        ...

    async def subscribe(self, name: str) -> None: ...

    def unsubscribe(self, name: str) -> None: ...
