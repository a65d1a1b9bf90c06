"""``SyncPublisher``: a publisher for code without an event loop."""

import os
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any, Literal, Self, overload

import redis as sync_redis
from redis import exceptions as redis_errors
from redis.backoff import NoBackoff
from redis.retry import Retry

from ...models import Message, Published, Sent
from ...names import NodeId, check_client_id, check_each
from ...runtime.tracing import sending
from ...wire.channels import Channel, channel_to
from ...wire.envelopes import Envelope, pack
from ...wire.messages import encode
from ..copies import Copy, copies_of, mail_for, receivers
from ..log_ports import Append, Appended
from ..policies import KnownPolicy, Policy
from . import scripts
from .bus import direct_call, direct_reply
from .command import Argument
from .connection import ConnectionFactory
from .keys import Keys
from .log_calls import Packed, append_call, append_reply, pack_append
from .loop_thread import LoopThread
from .publisher import (
    CLIENTS_PER_CALL,
    DEFAULT_MAX_MESSAGE_SIZE,
    Doubt,
    Publisher,
    direct,
    go_on_without_policy,
    new_sender,
    sent,
    signer_of,
)
from .scripts import Script
from .urls import UNNAMED, parse


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
        self._signer = signer_of(envelope_keys, self._keys)
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
        self._doubt, self._known = Doubt(self._keys, namespace, location.shown), KnownPolicy()
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
        self._outgoing = new_sender()
        # Number and publish under one lock, otherwise threads could publish in another order than they number.
        self._lock = threading.Lock()
        self._process = os.getpid()

    @overload
    def send_to_client(
        self, client_id: str, message: Message, *, store: Literal[False] = False, key: None = None
    ) -> bool: ...

    @overload
    def send_to_client(
        self, client_id: str, message: Message, *, store: Literal[True], key: str | None = None
    ) -> Sent: ...

    def send_to_client(
        self, client_id: str, message: Message, *, store: bool = False, key: str | None = None
    ) -> bool | Sent:
        """Send to one client; return whether Redis passed the message to a node that holds the client.

        With ``store`` it is kept in the client's mailbox as well, and the result is a ``Sent``. ``store`` and ``key``
        are those of ``WebSocketConnectionManager.send_to_client``.

        Raises:
            MessageError: It cannot be encoded or is too long; nothing was sent.
            ConfigurationError: ``store`` is given and the registry has no mailboxes, or ``key`` without ``store``.
            BackendUnavailableError: Redis did not answer.
        """
        if store or key is not None:
            return self._store(client_id, message, store=store, key=key)
        return self.send_to_clients([client_id], message) == 1

    def _store(self, client_id: str, message: Message, *, store: bool, key: str | None) -> Sent:
        if self._thread is not None:
            options: Any = {"store": store, "key": key}
            stored: Sent = self._thread.run(lambda each: each.send_to_client(client_id, message, **options))
            return stored
        name, encoded = check_client_id(client_id), encode(message, self._limit)
        with sending("client", encoded.size) as encoded.trace, self._publishing():
            append = mail_for(self._outgoing, encoded, self._policy().box(name, store=store, key=key), key)
            (found,) = self._stored([append])
        return sent(found)

    def send_to_clients(self, client_ids: Iterable[str], message: Message) -> int:
        """Send to several clients; return the number of those reached. Raises as ``send_to_client``."""
        if self._thread is not None:
            return self._thread.run(lambda each: each.send_to_clients(client_ids, message))
        names, encoded = check_each(client_ids, check_client_id), encode(message, self._limit)
        taken = 0
        with sending("client", encoded.size) as encoded.trace:
            for start in range(0, len(names), CLIENTS_PER_CALL):
                with self._publishing():
                    envelope = direct(self._outgoing, names[start : start + CLIENTS_PER_CALL], encoded)
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
        with sending("room" if rooms else "all", encoded.size) as encoded.trace, self._publishing():
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
            except redis_errors.NoPermissionError:
                go_on_without_policy(self._known, self._keys)
        return self._known.policy

    def _publish(self, channel: Channel, envelope: Envelope) -> int:
        name = self._keys.channel(channel)
        data = pack(envelope) if self._signer is None else self._signer.pack(envelope, name)
        return int(self._redis.publish(name, data))

    def _send_copies(self, copies: Sequence[Copy]) -> Published:
        appends = [copy.append for copy in copies if copy.append is not None]
        found = self._stored(appends) if appends else []
        nodes = [each.nodes for each in found]
        nodes += [self._publish(copy.channel, copy.envelope) for copy in copies if copy.append is None]
        return Published(max(nodes), {a.log.name: each.entry for a, each in zip(appends, found, strict=True)})

    def _stored(self, appends: Sequence[Append]) -> list[Appended]:
        began_s = time.monotonic()
        try:
            return self._append(appends)
        except (redis_errors.ConnectionError, redis_errors.TimeoutError):  # perhaps it was stored
            age_s = time.monotonic() - began_s
            return self._append([replace(append, retry_age_s=age_s) for append in appends])

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
            self._process, self._lock, self._outgoing = os.getpid(), threading.Lock(), new_sender()
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
