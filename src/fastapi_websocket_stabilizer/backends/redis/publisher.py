"""``Publisher`` and ``SyncPublisher``: the sending half of a node, without a lease and without sockets."""

import asyncio
import logging
import os
import secrets
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any, Self

import redis as sync_redis
from redis import exceptions as redis_errors
from redis.backoff import NoBackoff
from redis.retry import Retry

from ...config import check_envelope_keys
from ...exceptions import BackendUnavailableError, ConfigurationError
from ...models import Message, Published
from ...names import NodeId, check_client_id, check_each
from ...runtime.metrics import Counters
from ...wire.channels import Channel, channel_to
from ...wire.envelopes import Envelope, Part, pack, part_size
from ...wire.messages import Encoded, encode
from ...wire.outgoing import Outgoing
from ..appending import appended
from ..copies import Copy, copies_of, receivers
from ..log_ports import Append, Appended
from ..policies import KnownPolicy, Policy
from . import scripts
from .bus import direct_call, direct_reply
from .command import Argument
from .connection import ConnectionFactory, NotPermittedError
from .guard import Signer
from .keys import Keys
from .logs import Gathered, Packed, RedisLogs, append_call, append_reply, pack_append
from .loop_thread import LoopThread
from .pipeline import no_earlier_sends
from .reading import Reader
from .scripts import Script
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
        self._keys, self._timeout_s = keys, timeout_s
        self._topology, gathered = topology_at(location, timeout_s, Counters()), Gathered(no_earlier_sends)
        self._pipeline = self._topology.commands("publisher", gathered.flush_earlier)
        self._bus = self._topology.publishing(keys, self._pipeline, self._signer)
        self._logs = RedisLogs(
            keys,
            self._pipeline,
            gathered,
            Reader(Counters()),
            self._topology.publish_command,
            signer=self._signer,
        )
        self._known = KnownPolicy()
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
        store: bool | None = None,
        key: str | None = None,
    ) -> Published:
        """Send to all connections or to rooms; return the number of nodes reached. Raises as ``send_to_client``.

        ``exclude_connection`` takes ids of connections; other sockets of the same client get the message. Messages
        of rooms with a history are stored as the replicas do it; ``store`` and ``key`` are those of
        ``WebSocketConnectionManager.broadcast``. The result has the id.

        Raises:
            ConfigurationError: ``store`` or ``key`` is given, and the registry has no history for a room.
        """
        encoded = encode(message, self._limit)
        exclude, rooms = receivers(exclude_client, room, exclude_connection)
        if room is not None and not rooms:
            return Published(0)
        await self._start()
        targets = self._known.policy.targets(rooms, store=store, key=key)
        if not targets:
            channel = channel_to(rooms)
            envelope = self._outgoing.broadcast(channel, encoded, exclude, rooms)
            return Published(await self._looked_at(await self._bus.publish(channel, envelope)))
        copies = copies_of(self._outgoing, encoded, exclude, targets, store=store, key=key)
        return await self._send_copies(copies)

    async def _send_copies(self, copies: Sequence[Copy]) -> Published:
        appends = [copy.append for copy in copies if copy.append is not None]
        answers = self._logs.append(appends)
        volatile = [self._bus.queue(copy.channel, copy.envelope) for copy in copies if copy.append is None]
        found = [
            await appended(self._logs, append, answer, self._timeout_s, lambda: None)
            for append, answer in zip(appends, answers, strict=True)
        ]
        nodes = [each.nodes for each in found] + [await call for call in volatile]
        ids = {append.log.name: each.entry for append, each in zip(appends, found, strict=True)}
        return Published(await self._looked_at(max(nodes)), ids)

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
            if self._known.is_outdated:
                await self._ask_policy()

    async def _ask_policy(self) -> None:
        try:
            self._known.learn(await self._pipeline.send("GET", self._keys.policy, idempotent=True))
        except NotPermittedError:  # a user that may only publish
            self._known.keep()

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
        self._doubt, self._known = _Doubt(self._keys, namespace, location.shown), KnownPolicy()
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
        store: bool | None = None,
        key: str | None = None,
    ) -> Published:
        """Send to all connections or to rooms, and store as ``Publisher.broadcast``. Raises as that.

        ``exclude_connection`` takes ids of connections; other sockets of the same client get the message.
        """
        if self._thread is not None:
            options: Any = {"exclude_connection": exclude_connection, "store": store, "key": key}
            return self._thread.run(lambda each: each.broadcast(message, exclude_client, room, **options))
        encoded = encode(message, self._limit)
        exclude, rooms = receivers(exclude_client, room, exclude_connection)
        if room is not None and not rooms:
            return Published(0)
        with self._publishing():
            targets = self._policy().targets(rooms, store=store, key=key)
            if targets:
                found = self._send_copies(
                    copies_of(self._outgoing, encoded, exclude, targets, store=store, key=key)
                )
            else:
                channel = channel_to(rooms)
                envelope = self._outgoing.broadcast(channel, encoded, exclude, rooms)
                found = Published(self._publish(channel, envelope))
        return Published(self._looked_at(found), found.ids)

    def _policy(self) -> Policy:
        if self._known.is_outdated:
            try:
                self._known.learn(self._redis.get(self._keys.policy))
            except redis_errors.NoPermissionError:  # a user that may only publish
                self._known.keep()
        return self._known.policy

    def _publish(self, channel: Channel, envelope: Envelope) -> int:
        name = self._keys.channel(channel)
        data = pack(envelope) if self._signer is None else self._signer.pack(envelope, name)
        return int(self._redis.publish(name, data))

    def _send_copies(self, copies: Sequence[Copy]) -> Published:
        nodes: list[int] = []
        appends = [copy.append for copy in copies if copy.append is not None]
        began_s, found = time.monotonic(), list[Appended]()
        if appends:
            try:
                found = self._append(appends)
            except (redis_errors.ConnectionError, redis_errors.TimeoutError):  # perhaps it was stored
                age_s = time.monotonic() - began_s
                found = self._append([replace(append, retry_age_s=age_s) for append in appends])
        nodes = [each.nodes for each in found]
        nodes += [self._publish(copy.channel, copy.envelope) for copy in copies if copy.append is None]
        return Published(max(nodes), {a.log.name: each.entry for a, each in zip(appends, found, strict=True)})

    def _append(self, appends: Sequence[Append]) -> list[Appended]:
        packed = [Packed(append, pack_append(append, self._keys, self._signer)) for append in appends]
        reply = self._call(scripts.LOG_APPEND, *append_call(self._keys, "PUBLISH", packed))
        return append_reply(reply, len(packed))

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
        return direct_reply(self._call(scripts.CLIENTS_PUBLISH, keys, arguments))

    def _call(self, script: Script, keys: Sequence[str], arguments: Sequence[Argument]) -> Any:
        try:
            return self._redis.evalsha(script.sha, len(keys), *keys, *arguments)
        except redis_errors.NoScriptError:
            return self._redis.eval(script.source, len(keys), *keys, *arguments)


def _greet(connection: Any) -> None:
    """Send PING, so that its reply is read after the TLS session tickets, which redis-py takes for stale data."""
    connection.on_connect()
    connection.send_command("PING")
    connection.read_response()
