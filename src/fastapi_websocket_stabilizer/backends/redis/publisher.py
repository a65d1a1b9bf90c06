"""``Publisher``: the sending half of a node, without a lease and without sockets."""

import asyncio
import logging
import secrets
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Literal, Self, overload

from ...config import check_envelope_keys
from ...exceptions import BackendUnavailableError, ConfigurationError
from ...models import Message, Published, Sent
from ...names import NodeId, check_client_id, check_each
from ...runtime.metrics import Counters
from ...runtime.tracing import sending
from ...wire.channels import channel_to
from ...wire.envelopes import Envelope, Part, part_size
from ...wire.messages import Encoded, encode
from ...wire.outgoing import Outgoing
from ..appending import appended
from ..copies import Copy, copies_of, mail_for, receivers
from ..log_ports import Appended
from ..policies import KnownPolicy
from .connection import NotPermittedError
from .guard import Signer
from .keys import Keys
from .logs import Gathered, RedisLogs
from .pipeline import no_earlier_sends
from .reading import Reader
from .topology import topology_at
from .urls import parse

log: logging.Logger = logging.getLogger(__name__)

DEFAULT_MAX_MESSAGE_SIZE = 1048576
CLIENTS_PER_CALL = 500


def new_sender() -> Outgoing:
    """Return the numbers of a new publisher."""
    return Outgoing(NodeId(f"publisher-{secrets.token_hex(8)}"))


def direct(outgoing: Outgoing, client_ids: list[str], message: Encoded) -> Envelope:
    """Return a message for clients.

    Raises:
        MessageError: The message is too large for an envelope. No number is used up.
    """
    part_size(message, client_ids)
    return outgoing.direct([Part.of(message, client_ids)])


class Doubt:
    """Whether the namespace has any replica: checked once, after the first message that reached none."""

    def __init__(self, keys: Keys, namespace: str, address: str) -> None:
        self.question: tuple[str, ...] = ("ZRANGEBYSCORE", keys.leases, "-inf", "+inf", "LIMIT", "0", "1")
        self.is_open: bool = True
        self._where = (namespace, address)

    def answer(self, nodes: Sequence[object]) -> None:
        """Log a warning if there is no node."""
        if not nodes:
            log.warning("no replica is in namespace %r of Redis at %s: is it the registry's?", *self._where)


def sent(found: Appended) -> Sent:
    """Return the outcome of an append to a mailbox."""
    return Sent(stored=True, delivered=found.nodes > 0, id=found.entry)


def signer_of(envelope_keys: Sequence[str], keys: Keys) -> Signer | None:
    """Return what signs with the first key; None without keys.

    Raises:
        ConfigurationError: One of them is no key.
    """
    try:
        return Signer(check_envelope_keys(envelope_keys), keys) if envelope_keys else None
    except ValueError as error:
        raise ConfigurationError(f"envelope_keys {error}") from None


def go_on_without_policy(known: KnownPolicy, keys: Keys) -> None:
    """Store nothing, because the user may only publish. Log that once."""
    if known.keep():
        log.warning(
            "this user may not read %r: if the registry stores messages, ours are only sent", keys.policy
        )


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
        self._signer, self._doubt = signer_of(envelope_keys, keys), Doubt(keys, namespace, location.shown)
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
        self._outgoing = new_sender()
        self._starting = asyncio.Lock()
        self._is_started = False

    @overload
    async def send_to_client(
        self, client_id: str, message: Message, *, store: Literal[False] = False, key: None = None
    ) -> bool: ...

    @overload
    async def send_to_client(
        self, client_id: str, message: Message, *, store: Literal[True], key: str | None = None
    ) -> Sent: ...

    async def send_to_client(
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
            return await self._store(client_id, message, store=store, key=key)
        return await self.send_to_clients([client_id], message) == 1

    async def _store(self, client_id: str, message: Message, *, store: bool, key: str | None) -> Sent:
        name, encoded = check_client_id(client_id), encode(message, self._limit)
        await self._start()
        box = self._known.policy.box(name, store=store, key=key)
        with sending("client", encoded.size) as encoded.trace:
            append = mail_for(self._outgoing, encoded, box, key)
            (answer,) = self._logs.append([append])
            return sent(await appended(self._logs, append, answer, self._timeout_s, lambda: None))

    async def send_to_clients(self, client_ids: Iterable[str], message: Message) -> int:
        """Send to several clients; return the number of those reached. Raises as ``send_to_client``."""
        names, encoded = check_each(client_ids, check_client_id), encode(message, self._limit)
        await self._start()
        chunks = [names[start : start + CLIENTS_PER_CALL] for start in range(0, len(names), CLIENTS_PER_CALL)]
        with sending("client", encoded.size) as encoded.trace:
            # Queue all before waiting for any, otherwise a later message could come between two chunks.
            envelopes = [direct(self._outgoing, chunk, encoded) for chunk in chunks]
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
        with sending("room" if rooms else "all", encoded.size) as encoded.trace:
            if targets:
                copies = copies_of(self._outgoing, encoded, exclude, targets, store=store, key=key)
                return await self._send_copies(copies)
            channel = channel_to(rooms)
            envelope = self._outgoing.broadcast(channel, encoded, exclude, rooms)
            return Published(await self._looked_at(await self._bus.publish(channel, envelope)))

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
        except NotPermittedError:
            go_on_without_policy(self._known, self._keys)

    async def __aenter__(self) -> Self:
        await self._start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()
