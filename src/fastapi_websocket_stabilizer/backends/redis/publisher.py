"""``Publisher`` and ``SyncPublisher``: the sending half of a node, without a lease and without sockets."""

import asyncio
import logging
import os
import secrets
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Self

import redis as sync_redis
from redis import exceptions as redis_errors
from redis.backoff import NoBackoff
from redis.retry import Retry

from ...config import check_envelope_keys
from ...exceptions import BackendUnavailableError, ConfigurationError
from ...models import Message
from ...names import NodeId, as_list, check_client_id, check_each, check_room
from ...runtime.metrics import Counters
from ...wire.channels import channel_to
from ...wire.envelopes import CONNECTION, Envelope, Part, pack, part_size
from ...wire.messages import Encoded, encode
from ...wire.outgoing import Outgoing
from . import scripts
from .bus import direct_call, direct_reply
from .connection import ConnectionFactory
from .guard import Signer
from .keys import Keys
from .loop_thread import LoopThread
from .pipeline import no_earlier_sends
from .topology import topology_at
from .urls import UNNAMED, parse

log: logging.Logger = logging.getLogger(__name__)

DEFAULT_MAX_MESSAGE_SIZE = 1048576
CLIENTS_PER_CALL = 500


def _new_sender() -> Outgoing:
    return Outgoing(NodeId(f"publisher-{secrets.token_hex(8)}"))


def _direct(outgoing: Outgoing, client_ids: list[str], message: Encoded) -> Envelope:
    """Return a message for clients.

    Raises:
        MessageError: The message is too large for an envelope. No number is used up.
    """
    part_size(message, client_ids)
    return outgoing.direct([Part(client_ids, message.form, message.payload)])


class _Doubt:
    """Whether the namespace has any replica: checked once, after the first message that reached none."""

    def __init__(self, keys: Keys, namespace: str, address: str) -> None:
        self.question = ("ZRANGEBYSCORE", keys.leases, "-inf", "+inf", "LIMIT", "0", "1")
        self.is_open: bool = True
        self._where = (namespace, address)

    def answer(self, nodes: Sequence[object]) -> None:
        """Log a warning if there is no node."""
        if not nodes:
            log.warning("no replica is in namespace %r of Redis at %s: is it the registry's?", *self._where)


def _signer(envelope_keys: Sequence[str], keys: Keys) -> Signer | None:
    try:
        return Signer(check_envelope_keys(envelope_keys), keys) if envelope_keys else None
    except ValueError as error:
        raise ConfigurationError(f"envelope_keys {error}") from None


class Publisher:
    """Sends to clients, to rooms or to all connections of a registry. Connects at the first call.

    Messages arrive in the order of the calls. All concurrent calls share one connection to each Redis server.

    Args:
        redis_url: The registry's Redis.
        namespace: The registry's namespace.
        max_message_size: Longest message in bytes.
        timeout_s: Seconds to wait for Redis.
        max_connections_per_client: The registry's setting: the number of newest sockets of a client to send to.
        envelope_keys: The registry's setting; the first key signs.
    """

    def __init__(
        self,
        redis_url: str,
        *,
        namespace: str = "fws",
        max_message_size: int = DEFAULT_MAX_MESSAGE_SIZE,
        timeout_s: float = 3.0,
        max_connections_per_client: int = 1,
        envelope_keys: Sequence[str] = (),
    ) -> None:
        location, keys = parse(redis_url), Keys(namespace)
        self._signer, self._doubt = _signer(envelope_keys, keys), _Doubt(keys, namespace, location.shown)
        self._topology = topology_at(location, timeout_s, Counters())
        self._pipeline = self._topology.commands("publisher", no_earlier_sends)
        self._bus = self._topology.publishing(keys, self._pipeline, self._signer)
        self._limit, self._top = max_message_size, max_connections_per_client
        self._outgoing = _new_sender()
        self._starting = asyncio.Lock()
        self._is_started = False

    async def send_to_client(self, client_id: str, message: Message) -> bool:
        """Send to one client; return whether Redis passed the message to a node that holds the client.

        Raises:
            MessageError: It cannot be encoded or is too long; nothing was sent.
            BackendUnavailableError: Redis did not answer.
        """
        return await self.send_to_clients([client_id], message) == 1

    async def send_to_clients(self, client_ids: Iterable[str], message: Message) -> int:
        """Send to several clients; return the number of those reached. Raises as ``send_to_client``."""
        names, encoded = check_each(client_ids, check_client_id), encode(message, self._limit)
        await self._start()
        chunks = [names[start : start + CLIENTS_PER_CALL] for start in range(0, len(names), CLIENTS_PER_CALL)]
        # Queue all before waiting for any, otherwise a later message could come between two chunks.
        envelopes = [_direct(self._outgoing, chunk, encoded) for chunk in chunks]
        replies = [self._bus.publish_clients(envelope, self._top) for envelope in envelopes]
        return await self._looked_at(sum([sum(map(bool, await reply)) for reply in replies]))

    async def broadcast(
        self,
        message: Message,
        exclude_client: str | Iterable[str] | None = None,
        room: str | Iterable[str] | None = None,
        *,
        exclude_connection: str | Iterable[str] | None = None,
    ) -> int:
        """Send to all connections or to rooms; return the number of nodes reached. Raises as ``send_to_client``.

        ``exclude_connection`` takes ids of connections; other sockets of the same client get the message.
        """
        encoded = encode(message, self._limit)
        exclude, rooms = check_each(exclude_client or None, check_client_id), check_each(room, check_room)
        exclude += [CONNECTION + each for each in as_list(exclude_connection or ())]
        if room is not None and not rooms:
            return 0
        await self._start()
        channel = channel_to(rooms)
        envelope = self._outgoing.broadcast(channel, encoded, exclude, rooms)
        return await self._looked_at(await self._bus.publish(channel, envelope))

    async def _looked_at(self, reached: int) -> int:
        """Return ``reached``. The first time that it is 0, check whether there is any node."""
        if not reached and self._doubt.is_open:
            self._doubt.is_open = False
            with suppress(BackendUnavailableError, ConfigurationError):  # the user may lack the permission
                self._doubt.answer(await self._pipeline.send(*self._doubt.question, idempotent=True))
        return reached

    async def close(self) -> None:
        """Send queued messages and disconnect from Redis; a later call connects again."""
        self._is_started = False
        await self._bus.settle()
        await self._pipeline.stop()
        await self._topology.stop()

    async def _start(self) -> None:
        async with self._starting:
            if not self._is_started:
                try:
                    await self._pipeline.start()
                    self._topology.watch()
                except BaseException:
                    await self.close()
                    raise
                self._is_started = True
            if self._signer is not None and self._signer.clock.is_outdated:
                await self._signer.clock.ask(self._pipeline)

    async def __aenter__(self) -> Self:
        await self._start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()


class SyncPublisher:
    """``Publisher`` for code without an event loop; may be shared by threads. Connects at the first call.

    Args:
        redis_url: The registry's Redis.
        namespace: The registry's namespace.
        max_message_size: Longest message in bytes.
        timeout_s: Seconds to wait for Redis.
        max_connections_per_client: The registry's setting: the number of newest sockets of a client to send to.
        envelope_keys: The registry's setting; the first key signs.
    """

    def __init__(
        self,
        redis_url: str,
        *,
        namespace: str = "fws",
        max_message_size: int = DEFAULT_MAX_MESSAGE_SIZE,
        timeout_s: float = 3.0,
        max_connections_per_client: int = 1,
        envelope_keys: Sequence[str] = (),
    ) -> None:
        location, self._keys = parse(redis_url), Keys(namespace)
        self._signer = _signer(envelope_keys, self._keys)
        self._thread: LoopThread[Publisher] | None = None
        # The code that finds the servers is asynchronous. For one server, a thread would triple the latency of a call
        # (docs/decisions/0020-sync-publisher-has-a-client-of-its-own.md).
        if location.kind != "server":
            options: Any = {"max_message_size": max_message_size, "timeout_s": timeout_s}
            options |= {
                "max_connections_per_client": max_connections_per_client,
                "envelope_keys": envelope_keys,
            }
            self._thread = LoopThread(lambda: Publisher(redis_url, namespace=namespace, **options))
            return
        # Translates errors only; it opens no connection.
        self._errors = ConnectionFactory(location, timeout_s)
        self._doubt = _Doubt(self._keys, namespace, location.shown)
        self._redis: Any = sync_redis.Redis.from_url(
            redis_url,
            **UNNAMED,
            protocol=2,
            redis_connect_func=_greet,
            retry=Retry(NoBackoff(), 0),
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
        )
        self._limit, self._top = max_message_size, max_connections_per_client
        self._outgoing = _new_sender()
        # Number and publish under one lock, otherwise threads could publish in another order than they number.
        self._lock = threading.Lock()
        self._process = os.getpid()

    def send_to_client(self, client_id: str, message: Message) -> bool:
        """Send to one client; return whether Redis passed the message to a node that holds the client.

        Raises:
            MessageError: It cannot be encoded or is too long; nothing was sent.
            BackendUnavailableError: Redis did not answer.
        """
        return self.send_to_clients([client_id], message) == 1

    def send_to_clients(self, client_ids: Iterable[str], message: Message) -> int:
        """Send to several clients; return the number of those reached. Raises as ``send_to_client``."""
        if self._thread is not None:
            return self._thread.run(lambda each: each.send_to_clients(client_ids, message))
        names, encoded = check_each(client_ids, check_client_id), encode(message, self._limit)
        taken = 0
        for start in range(0, len(names), CLIENTS_PER_CALL):
            with self._publishing():
                envelope = _direct(self._outgoing, names[start : start + CLIENTS_PER_CALL], encoded)
                taken += sum(map(bool, self._publish_clients(envelope)))
        return self._looked_at(taken)

    def broadcast(
        self,
        message: Message,
        exclude_client: str | Iterable[str] | None = None,
        room: str | Iterable[str] | None = None,
        *,
        exclude_connection: str | Iterable[str] | None = None,
    ) -> int:
        """Send to all connections or to rooms; return the number of nodes reached. Raises as ``send_to_client``.

        ``exclude_connection`` takes ids of connections; other sockets of the same client get the message.
        """
        if self._thread is not None:
            return self._thread.run(
                lambda each: each.broadcast(
                    message, exclude_client, room, exclude_connection=exclude_connection
                )
            )
        encoded = encode(message, self._limit)
        exclude, rooms = check_each(exclude_client or None, check_client_id), check_each(room, check_room)
        exclude += [CONNECTION + each for each in as_list(exclude_connection or ())]
        if room is not None and not rooms:
            return 0
        channel = channel_to(rooms)
        name = self._keys.channel(channel)
        with self._publishing():
            envelope = self._outgoing.broadcast(channel, encoded, exclude, rooms)
            data = pack(envelope) if self._signer is None else self._signer.pack(envelope, name)
            reached = int(self._redis.publish(name, data))
        return self._looked_at(reached)

    def _looked_at(self, reached: int) -> int:
        if not reached and self._doubt.is_open:
            self._doubt.is_open = False
            with suppress(redis_errors.RedisError):  # the user may lack the permission
                self._doubt.answer(self._redis.execute_command(*self._doubt.question))
        return reached

    def close(self) -> None:
        """Disconnect from Redis; a later call connects again."""
        if self._thread is not None:
            self._thread.close()
        else:
            self._redis.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @contextmanager
    def _publishing(self) -> Iterator[None]:
        if os.getpid() != self._process:  # a fork: a new sender, otherwise sequences would repeat
            self._process, self._lock, self._outgoing = os.getpid(), threading.Lock(), _new_sender()
        with self._lock, self._errors.translated("publish", outcome_unknown=True):
            if self._signer is not None and self._signer.clock.is_outdated:
                asked_at_s = time.monotonic()
                seconds, microseconds = self._redis.time()
                self._signer.clock.learn(asked_at_s, seconds + microseconds / 1_000_000)
            yield

    def _publish_clients(self, envelope: Envelope) -> list[list[NodeId]]:
        keys, arguments = direct_call(self._keys, envelope, self._top, (), self._signer)
        script = scripts.CLIENTS_PUBLISH
        try:
            reply = self._redis.evalsha(script.sha, len(keys), *keys, *arguments)
        except redis_errors.NoScriptError:
            reply = self._redis.eval(script.source, len(keys), *keys, *arguments)
        return direct_reply(reply)


def _greet(connection: Any) -> None:
    """Send PING, so that its reply is read after the TLS session tickets, which redis-py takes for stale data."""
    connection.on_connect()
    connection.send_command("PING")
    connection.read_response()
