"""Envelopes, as they go between nodes: bytes <-> values.

An envelope is a msgpack array; a release reads every envelope whose oldest reader is not newer than itself, and
ignores trailing slots that it does not know.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, NamedTuple

import msgpack

from ..exceptions import MessageError, WireError
from ..names import NodeId
from .messages import Encoded, Form
from .unpacking import LARGE_BYTES, check, load

HEADER = b"\x9c"
"""How an envelope begins that is not signed as a whole: a msgpack array of twelve slots."""
_SIGNED_HEADER = b"\x9f"  # fifteen; the signature is the last slot, whatever later releases put before it
VERSION = 1
"""The envelope version that this release writes and the newest that it reads."""
OLDEST_READER = 1
"""The oldest release that can read what this one writes."""
MAX_ENVELOPE_BYTES = 16 * 1024 * 1024
"""Largest envelope sent or read. Redis cuts off a subscriber that is 32 MiB behind."""
MAX_SENDER = 512
"""Longest name of a sender in characters."""
MAX_PART_BYTES = MAX_ENVELOPE_BYTES - 512 * 1024
"""Largest part of an envelope: the rest has numbers, a node_id and, signed, the names of the clients again."""


_TYPES: tuple[type, ...] = (str, bytes, str)
"""Of what type is a body, by form."""
_FORMS: dict[int, Form] = dict(enumerate(Form))  # looking up is a fifth of what Form() costs


class Kind(IntEnum):
    """What an envelope asks its receiver to do."""

    BROADCAST = 0
    """Write ``body`` to all local sockets, or to those in ``targets`` (rooms), but not to ``exclude``."""
    DIRECT = 1
    """Write each of ``parts`` to the local sockets of its clients."""
    EVICT = 2
    """Close the connections in ``targets``: newer ones took over."""
    REQUEST = 3
    """Carry out ``body`` (see ``registry/requests.py``) for the client in ``targets`` and reply."""
    REPLY = 4
    """The answer to the request or confirmation ``ask``."""
    SOCKET = 5
    """Not sent and not obeyed any more: messages to a node's own sockets do not leave its process."""


class Part(NamedTuple):
    """One message to clients, of the several that share a direct envelope; ``ask`` as in ``Envelope``."""

    targets: list[str]
    form: Form
    body: str | bytes
    ask: int = 0

    def message(self) -> Encoded:
        """Return the body as what goes to a socket."""
        return _message(self.form, self.body)


CONNECTION = "\0"
"""Begins an exclusion that is a connection_id. No client id begins so: releases before it exclude nothing by it."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """One message between nodes.

    Attributes:
        sender: node_id, or the id of a publisher that serves no sockets.
        sequence: Grows with every envelope of this sender.
        previous: Sequence of this sender's envelope before this one on the same channel, all inboxes being one;
            0 when unknown.
        ask: Names the answer the sender waits for; 0 for none.
        encoded: The message itself, while the envelope has not left this process.
        parts: Messages to clients; only a direct envelope has them.
    """

    sender: NodeId
    sequence: int
    previous: int
    kind: Kind
    targets: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    form: Form = Form.TEXT
    body: str | bytes = ""
    ask: int = 0
    encoded: Encoded | None = field(default=None, compare=False)
    parts: tuple[Part, ...] = ()

    def message(self) -> Encoded:
        """Return the body as what goes to a socket."""
        if self.encoded is not None:
            return self.encoded
        return _message(self.form, self.body)


def _message(form: Form, body: str | bytes) -> Encoded:
    return Encoded(form, body, _size(body))


def _size(data: str | bytes) -> int:
    return len(data) if isinstance(data, bytes) or data.isascii() else len(data.encode())


Sign = Callable[[bytes], bytes]
"""Given an envelope up to its last slot, returns that slot, packed."""


def pack(envelope: Envelope, sign: Sign | None = None) -> bytes:
    """Return the bytes of ``envelope``.

    Raises:
        MessageError: They are more than ``MAX_ENVELOPE_BYTES``.
    """
    items: list[Any] = []
    for part in envelope.parts:
        items += [(part.form, part.body, part.ask), *part.targets]
    if sign is None:
        return _limited(msgpack.packb((*_row(envelope), items)))
    row: bytes = msgpack.packb((*_row(envelope), items, None, None))
    data = _SIGNED_HEADER + row[1:]
    return _limited(data + sign(data))


def _limited(data: bytes) -> bytes:
    """Return ``data`` if whoever receives it will read it."""
    if len(data) > MAX_ENVELOPE_BYTES:
        raise MessageError(f"envelope has {len(data)} bytes, the limit is {MAX_ENVELOPE_BYTES}")
    if len(data) > LARGE_BYTES:
        try:
            check(data)
        except WireError as error:
            raise MessageError(f"message has too many names: {error}") from None
    return data


def part_size(message: Encoded, targets: Sequence[str]) -> int:
    """Return how many bytes of an envelope one part takes, or a few more.

    Raises:
        MessageError: No envelope is large enough.
    """
    size = 20 + message.size
    for target in targets:
        size += 3 + _size(target)
    if size > MAX_PART_BYTES:
        raise MessageError(f"message and its clients have {size} bytes, the limit is {MAX_PART_BYTES}")
    return size


def pack_before_parts(envelope: Envelope) -> bytes:
    """Return the bytes of ``envelope`` up to its parts.

    Whoever knows which node gets which clients appends a msgpack array: a packed message and the names of its
    clients, the next message and its clients, and so on.
    """
    row: bytes = msgpack.packb(_row(envelope))
    return HEADER + row[1:]


def pack_message(part: Part, seal: tuple[Any, ...] = ()) -> bytes:
    """Return the message of a part, and its signature, as they stand before its clients."""
    data: bytes = msgpack.packb((part.form, part.body, part.ask, *seal))
    return data


def _row(envelope: Envelope) -> tuple[Any, ...]:
    """Return all slots before the parts (11). 12 (epoch, offset) and 13 (trace context) are reserved."""
    e = envelope
    versions = VERSION, OLDEST_READER
    return (
        *versions, e.sender, e.sequence, e.previous, e.kind, e.targets, e.exclude, e.form, e.body, e.ask
    )  # fmt: skip


Verify = Callable[[tuple[Any, ...]], None]
"""Called with all slots of an envelope before anything is made of them; raises ``WireError``."""


def unpack(data: bytes, verify: Verify | None = None) -> Envelope:
    """Return the envelope in ``data``.

    Raises:
        WireError: Malformed, too large, only readable by a newer release, or what ``verify`` raises.
    """
    if len(data) > MAX_ENVELOPE_BYTES:
        raise WireError(f"envelope has {len(data)} bytes, the limit is {MAX_ENVELOPE_BYTES}")
    row = load(data)
    if (
        not isinstance(row, tuple)
        or len(row) < 2
        or not isinstance(row[0], int)
        or not isinstance(row[1], int)
    ):
        raise WireError("envelope is not an array that starts with two versions")
    if row[1] > VERSION:
        raise WireError(f"envelope needs a reader of version {row[1]}, this is {VERSION}")
    if verify is not None:
        verify(row)
    envelope = _checked(row)
    if len(envelope.sender) > MAX_SENDER:  # it is remembered
        raise WireError("envelope has a sender with a name that is too long")
    return envelope


def _checked(row: tuple[Any, ...]) -> Envelope:
    try:
        _, _, sender, sequence, previous, kind, targets, exclude, form, body, ask, items = row[:12]
        head = sender, sequence, previous, Kind(kind), targets, exclude, Form(form), body, ask
        envelope = Envelope(*head, parts=_parts(items))
    except (ValueError, TypeError, LookupError) as error:
        raise WireError(f"envelope has wrong slots: {error}") from None
    if not isinstance(targets, tuple) or not isinstance(exclude, tuple):
        raise WireError("envelope has targets or exclusions that are no arrays")
    if not _are(str, (sender, *targets, *exclude)) or not _are(int, (sequence, previous, ask)):
        raise WireError("envelope has slots of wrong types")
    if not isinstance(body, _TYPES[envelope.form]):
        raise WireError("envelope body does not have the type its form says")
    return envelope


def _are(kind: type, values: tuple[Any, ...]) -> bool:
    return set(map(type, values)) <= {kind}


def _parts(items: tuple[Any, ...]) -> tuple[Part, ...]:
    """Return what a flat array of messages, each before the names of its clients, says."""
    if not isinstance(items, tuple) or isinstance(next(iter(items), None), str):
        raise TypeError("parts that do not begin with a message")
    parts, targets = [], list[str]()
    for item in items:
        if isinstance(item, str):
            targets.append(item)
        else:
            form, body, ask = item[:3]  # after them a signature, and what later releases add
            if not isinstance(body, _TYPES[form]) or not isinstance(ask, int):
                raise TypeError("a message of wrong types")
            targets = []
            parts.append(Part(targets, _FORMS[form], body, ask))
    return tuple(parts)
