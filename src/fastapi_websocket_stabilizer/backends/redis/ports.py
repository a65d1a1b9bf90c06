"""The interfaces of commands and subscriptions, which one server and a cluster share."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from ..ports import Listening
from .command import Argument
from .scripts import Script

OnMessage = Callable[[bytes, bytes], None]


class CommandConnection(Protocol):
    """Sends commands: ``Pipeline`` to one server, ``Router`` to a cluster."""

    @property
    def flush_earlier_sends(self) -> Callable[[], None]:
        """See ``Watcher``. It is called before each command is queued."""
        ...

    @property
    def is_ordered(self) -> bool:
        """Whether commands are executed in the order of the calls, whatever their keys."""
        ...

    @property
    def run_id(self) -> str:
        """The identity of the server process; changes after a restart or a failover."""
        ...

    @property
    def is_lasting(self) -> bool:
        """Whether no connected server evicts keys."""
        ...

    def run_id_of(self, key: str) -> str:
        """Return the identity of the server that has this key; "" if it is not connected."""
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

    def set_field(self, key: str, field: str, value: str) -> "asyncio.Future[int]":
        """Queue HSET of one field. Others may share the reply, so do not cancel it. See ``Pipeline.set_field``."""
        ...

    def separate(self, key: str) -> None:
        """Set later fields of a key behind the commands that are queued so far."""
        ...


@dataclass(frozen=True, slots=True)
class Listener:
    """The callbacks of a bus connection. None is called before ``start``.

    Attributes:
        on_message: Called with each message: the channel and its bytes.
        pause: Returns an awaitable that ends before the next message is read; usually None.
        gap_began: Called when messages may be lost.
        gap_ended: Called when all channels are subscribed again, with the seconds of the gap.
    """

    on_message: OnMessage
    pause: Callable[[], Awaitable[object] | None]
    gap_began: Callable[[], None]
    gap_ended: Callable[[float], None]


class Subscription(Protocol):
    """Receives channels: ``Subscriber`` of one server, ``ClusterSubscriber`` of a cluster."""

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

    def listening(self, name: str) -> Listening | None:
        """Return the subscription to a channel; None while it is not confirmed."""
        ...

    def unsubscribe(self, name: str) -> None: ...
