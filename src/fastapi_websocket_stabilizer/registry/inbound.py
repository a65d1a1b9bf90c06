"""Received envelopes: passed on by kind. Messages are fanned out, and confirmations sent to the asking node."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from pydantic_core import from_json

from ..backends.ports import Receive
from ..local.batches import Broadcast, DirectMessages, Outcome, settle, took, written
from ..local.connection import Connection
from ..names import ConnectionId, NodeId
from ..runtime.logs import Occasionally
from ..runtime.loops import running_loop
from ..wire.channels import INBOX, Channel
from ..wire.client_frames import EVERYBODY, MAILBOX
from ..wire.envelopes import CONNECTION, Envelope, Kind
from ..wire.messages import Address, Encoded, Form
from .history import History
from .inboxes import Inboxes
from .state import NodeState

Act = Callable[[Envelope], None]
"""Function that executes an envelope. It raises ``ValueError`` if the envelope is malformed."""
MAX_COPIED = 4096
"""Messages to several rooms of which further copies may arrive. The oldest is forgotten.

After a gap all missing messages of one log are delivered before those of the next one.
"""
COPIED_BYTES = 64 * 1024 * 1024
"""Bytes of the sets of connections that were sent these messages. Above this, the oldest message is forgotten."""
COPIED_S = 120.0
"""Seconds after which such a message is forgotten: a copy that never comes must not keep ended connections."""
MIN_COPIED = 64
"""The newest of these messages, which are kept whatever their size and age."""
BYTES_OF_MEMBER = 128
"""Memory of a connection in a set, at most."""
BYTES_OF_MESSAGE = 1024
"""Memory of a message of which further copies may arrive, apart from the connections."""
MAX_LOOKS = 1000
"""Texts that begin like JSON and are examined, until one is found that a client of ``stabilizer.v1`` gets."""
LONGEST_LOOK = 64 * 1024
"""Characters of the longest text that is examined."""
MAX_REPORTED_ERRORS = 100
"""Maximum number of errors in one node's confirmation of a broadcast."""


class Inbound:
    """The counterpart of ``Outbound``: drops duplicates and passes each envelope on by its kind."""

    def __init__(
        self, state: NodeState, inboxes: Inboxes, history: History, acts: Mapping[Kind, Act]
    ) -> None:
        self._state, self._inboxes, self._history = state, inboxes, history
        self._copies = Copies()
        self._malformed = Occasionally(state.log)
        self._looks_left = MAX_LOOKS
        self._acts: dict[Kind, Act] = {
            Kind.DIRECT: self._deliver_parts,
            Kind.REPLY: self._resolve,
            **acts,
        }

    def receive(self, channel: Channel, envelope: Envelope, size: int) -> None:
        """Receive an envelope from the bus."""
        if channel.room and channel.room not in self._state.shards.rooms:
            return  # left, but the server has not processed that yet
        if channel.client and not self._state.shards.has_client(channel.client):
            return
        counters = self._state.counters
        if envelope.entry is not None:  # its log, or the version of its room, shows losses and copies
            is_entry = envelope.kind is not Kind.PRESENCE
            self._act(self._history.received if is_entry else self._take, channel, envelope, size)
            return
        arrival = self._state.sequences.observe(
            channel, envelope.sender, envelope.sequence, envelope.previous
        )
        if channel.kind != "inbox":  # its previous envelope may have gone to another node
            counters.bus_lost += arrival.lost
        if arrival.is_to_be_dropped:
            counters.bus_duplicates += arrival.duplicate
            counters.bus_late += arrival.late
            return
        self._act(self._take, channel, envelope, size)

    def _act(self, act: Receive, channel: Channel, envelope: Envelope, size: int) -> None:
        try:
            act(channel, envelope, size)
        except (ValueError, TypeError, LookupError, RecursionError) as error:
            self._state.counters.bus_malformed += 1
            self._malformed.log("envelope dropped", sender=envelope.sender, error=str(error))

    def _take(self, channel: Channel, envelope: Envelope, size: int) -> None:
        if channel.client:
            raise ValueError("an envelope of a mailbox has no place in it")
        if envelope.kind is Kind.BROADCAST:
            if not self._history.volatile(channel, envelope, size):
                self.deliver(channel, envelope)
            return
        act = self._acts.get(envelope.kind)
        if act is None:
            raise ValueError(f"envelopes of kind {envelope.kind.name} are not supported")
        act(envelope)

    def _resolve(self, envelope: Envelope) -> None:
        self._state.replies.resolve(
            envelope.ask, envelope.sender, from_json(envelope.body, allow_inf_nan=False)
        )

    def deliver(self, channel: Channel, envelope: Envelope) -> None:
        """Fan a broadcast out, then confirm to the node that asked, or to the call that waits here."""
        is_own = self._state.is_own(envelope.sender)
        done = partial(self._delivered, channel, envelope, is_own)
        if channel.client:
            self._submit(envelope, [_mail(channel, envelope, done)], is_own=is_own)
            return
        exclude = envelope.exclude
        spared = frozenset(filter(None, map(self._spared, exclude))) if exclude else frozenset()
        rooms, copied = envelope.targets, None
        if envelope.is_copy(channel.room):
            members, now_s = self._state.shards.rooms, running_loop().time()
            rooms, copied = (channel.room,), self._copies.of(envelope, channel.room, members, now_s)
        whole = Broadcast(envelope.message(), rooms, frozenset(exclude), done, spared, copied=copied)
        parts = [whole]
        if self._state.has_met_sessions:
            self._look_for_json(whole.message, rooms)
            parts = addressed(whole, envelope)
        self._submit(envelope, parts, is_own=is_own)

    def _submit(
        self, envelope: Envelope, parts: Sequence[Broadcast | DirectMessages], *, is_own: bool
    ) -> None:
        if is_own:
            is_stored = envelope.entry is not None
            self._state.in_flight.arrived(envelope.sequence, *parts, is_stored=is_stored)
        else:
            for part in parts:
                self._state.fan_out.submit(part)

    def _look_for_json(self, message: Encoded, rooms: Sequence[str]) -> None:
        """Warn, once, if a text is JSON and goes to a client of ``stabilizer.v1``, which gets a string."""
        if not self._looks_left or message.form is not Form.TEXT or message.payload[:1] not in ("{", "["):
            return
        self._looks_left -= 1
        targets = (each for room in rooms or ("",) for each in self._state.shards.fed(room))
        if _is_json(message.payload) and any(each.session is not None for each in targets):
            self._looks_left = 0
            self._state.log.warning(
                "a text message to clients of stabilizer.v1 is JSON, and they get a string: send the dict or list "
                "itself, without json.dumps",
                extra={"rooms": rooms},
            )

    def _spared(self, name: str) -> Connection | None:
        """Return the local connection that an exclusion names, or None for a client or a remote connection."""
        if not name.startswith(CONNECTION):
            return None
        return self._state.shards.get(ConnectionId(name.removeprefix(CONNECTION)))

    def _deliver_parts(self, envelope: Envelope) -> None:
        messages: list[tuple[Encoded, Sequence[str]]] = []
        for part in envelope.parts:
            message = part.message(), part.targets
            if part.ask:  # the confirmation is about exactly this message
                question = replace(envelope, targets=tuple(part.targets), ask=part.ask, parts=())
                self._state.fan_out.submit(DirectMessages(messages))
                self._state.fan_out.submit(
                    DirectMessages([message], done=partial(self._delivered, INBOX, question, False))
                )
                messages = []
            else:
                messages.append(message)
        self._state.fan_out.submit(DirectMessages(messages))

    def _delivered(self, channel: Channel, envelope: Envelope, comes_back: bool, outcome: Outcome) -> None:
        if comes_back:
            self._state.in_flight.resolve(envelope.sequence, outcome)
        if envelope.ask:
            self._state.tasks.spawn(self._confirm(channel, envelope, outcome), "confirm")

    async def _confirm(self, channel: Channel, envelope: Envelope, outcome: Outcome) -> None:
        await settle(outcome, self._state.config)
        failed = {client_id for client_id, _ in outcome.errors}
        slow = [each for each in self._addressed(channel, envelope) if each.client_id not in failed]
        # The asking node has a deadline of its own, so all slow sockets together get half of write_timeout_s.
        deadline_s = self._state.config.write_timeout_s / 2
        outcomes = await asyncio.gather(*(written(connection, deadline_s) for connection in slow))
        for connection, error in zip(slow, outcomes, strict=True):
            if error is not None:
                outcome.errors.append((connection.client_id, error))
                outcome.succeeded -= 1
        await self._inboxes.reply(envelope.sender, envelope.ask, self._report(envelope, outcome))

    def _report(self, envelope: Envelope, outcome: Outcome) -> Any:
        if envelope.kind is Kind.DIRECT:
            return [c for c in envelope.targets if took(self._state.shards, c, outcome)]
        errors = outcome.errors[:MAX_REPORTED_ERRORS]
        return [outcome.total, outcome.excluded, outcome.succeeded, len(outcome.errors), errors]

    def _addressed(self, channel: Channel, envelope: Envelope) -> list[Connection]:
        """Return the addressed local sockets with queued messages. The others were written at once."""
        shards = self._state.shards
        if envelope.kind is Kind.DIRECT or channel.client:
            found = [connection for c in envelope.targets for connection in shards.of_client(c)]
        else:
            exclude = set(envelope.exclude)
            found = [
                c
                for c in shards
                if exclude.isdisjoint((c.client_id, CONNECTION + c.connection_id))
                and shards.is_target(c, envelope.targets)
            ]
        return [connection for connection in found if connection.writer.is_writing]


def _mail(channel: Channel, envelope: Envelope, done: Callable[[Outcome], None]) -> DirectMessages:
    """Return a stored message for the sockets of its client."""
    entry, previous = envelope.entry or (0, 0)
    message = envelope.message().addressed(Address(MAILBOX, entry, previous))
    return DirectMessages([(message, (channel.client,))], done=done, is_stored=True)


def addressed(broadcast: Broadcast, envelope: Envelope) -> list[Broadcast]:
    """Return a broadcast with its address, in one part for each of its rooms.

    A part leaves out the members of the rooms before it. So each socket gets the message once, and no member is told
    the name of a room that it is not in. The parts share one outcome, and only the last one reports it.
    """
    message, rooms = broadcast.message, broadcast.rooms
    if len(rooms) <= 1:
        broadcast.message = message.addressed(_address(envelope, rooms[0] if rooms else ""))
        return [broadcast]
    parts = [
        replace(
            broadcast, message=message.addressed(Address(room)), rooms=(room,), outside=rooms[:i], done=None
        )
        for i, room in enumerate(rooms)
    ]
    parts[-1].done = broadcast.done
    return parts


def _address(envelope: Envelope, room: str) -> Address:
    log = room or EVERYBODY
    if envelope.entry is None:
        return Address(log)
    return Address(log, *envelope.entry, envelope.copy_key(room) if envelope.is_copy(room) else None)


def _is_json(text: str | bytes) -> bool:
    if len(text) > LONGEST_LOOK:
        return False
    try:
        from_json(text)
    except ValueError:
        return False
    return True


class _Copied(NamedTuple):
    """A message of which further copies may arrive.

    Attributes:
        reached: Connections that were sent a copy.
        arrived: Rooms whose copy has arrived.
        size: Bytes that are counted for it, as if all members of its rooms were sent it.
        since_s: Time of the first copy.
    """

    reached: set[Connection]
    arrived: set[str]
    size: int
    since_s: float


class Copies:
    """The connections that were sent a copy of a message to several rooms, so that none is sent two."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[NodeId, int], _Copied] = OrderedDict()
        self._bytes = 0

    def of(self, envelope: Envelope, room: str, rooms: Mapping[str, int], now_s: float) -> set[Connection]:
        """Return those that were sent the message, to be extended. ``rooms`` are the numbers of members here."""
        message = envelope.sender, envelope.first_copy(room)
        copied = self._known.get(message)
        if copied is None:
            members = sum(rooms.get(target, 0) + 1 for target in envelope.targets)
            copied = _Copied(set(), set(), BYTES_OF_MESSAGE + BYTES_OF_MEMBER * members, now_s)
            self._known[message] = copied
            self._bytes += copied.size
        copied.arrived.add(room)
        if all(target in copied.arrived or target not in rooms for target in envelope.targets):
            del self._known[message]
            self._bytes -= copied.size
        self._forget(now_s)
        return copied.reached

    def _forget(self, now_s: float) -> None:
        while len(self._known) > MIN_COPIED:
            oldest = next(iter(self._known.values()))
            is_too_much = len(self._known) > MAX_COPIED or self._bytes > COPIED_BYTES
            if not is_too_much and now_s - oldest.since_s <= COPIED_S:
                return
            self._known.popitem(last=False)
            self._bytes -= oldest.size
