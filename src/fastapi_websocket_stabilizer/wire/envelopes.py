"""Envelopes between nodes: bytes <-> values.

An envelope is a msgpack array. A release reads every envelope whose oldest reader is not newer than the release,
and ignores trailing slots that it does not know.
"""

import hashlib
import struct
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
"""First byte of an envelope that is not signed as a whole: a msgpack array of twelve slots."""
_LONG_HEADER = b"\x9f"
"""First byte of an envelope of fifteen slots, with a trace context, a signature or both.

The signature is the last slot that is signed, whatever later releases add.
"""
_LONG_ENTRY_HEADER = b"\xdc\x00\x10"
_ENTRY_HEADERS = {HEADER: b"\x9d", _LONG_HEADER: _LONG_ENTRY_HEADER}  # one slot more
_UNSIGNED = b"\xc4\x00"
"""The slot of a signature in an envelope that has none, but a trace context: empty bytes."""
_ENTRY = struct.Struct(">BBQBQ")  # msgpack: an array of two unsigned 64-bit integers
ENTRY_BYTES = _ENTRY.size + 2
"""Bytes by which the slot of a log entry lengthens an envelope, at most."""
MAX_ENTRY = (1 << 53) - 1
"""Largest id of an entry, the largest integer that clients in JavaScript can tell from its neighbours."""
VERSION = 1
"""Envelope version that this release writes, and the newest that it reads."""
OLDEST_READER = 1
"""Lowest envelope version that a reader must support to read the envelopes of this release."""
MAX_ENVELOPE_BYTES = 16 * 1024 * 1024
"""Largest envelope sent or read. Redis disconnects a subscriber whose output buffer exceeds 32 MiB."""
MAX_SENDER = 512
"""Longest name of a sender in characters."""
TRACE_BYTES = 25
"""Bytes of a trace context; see ``runtime/tracing.py``."""
PART_TRACE_BYTES = 32
"""Bytes by which a trace context lengthens a part, at most."""
MAX_PART_BYTES = MAX_ENVELOPE_BYTES - 512 * 1024
"""Largest part of an envelope. The rest is for numbers, the node_id and, if signed, the client names again."""


_TYPES: tuple[type, ...] = (str, bytes, str)
"""Type of a body, by form."""
_FORMS: dict[int, Form] = dict(enumerate(Form))  # a lookup takes a fifth of the time of Form()


class Kind(IntEnum):
    """Action that an envelope requests from its receiver."""

    BROADCAST = 0
    """Write ``body`` to all local sockets, or to those in ``targets`` (rooms), but not to ``exclude``."""
    DIRECT = 1
    """Write each of ``parts`` to the local sockets of its clients."""
    EVICT = 2
    """Close the connections in ``targets``, because newer ones replace them. With ``ask``, unless they live."""
    REQUEST = 3
    """Execute ``body`` (see ``registry/requests.py``) for the client in ``targets`` and reply."""
    REPLY = 4
    """The answer to the request or confirmation ``ask``."""
    SOCKET = 5
    """Obsolete: neither sent nor executed. Messages to a node's own sockets stay in its process."""
    LOST = 6
    """Report that entries of the log in ``targets`` are lost, up to the id of ``entry``. ``body`` is the code.

    Releases before logs drop it as malformed.
    """
    PRESENCE = 7
    """Report a change of the members that the room in ``targets`` shows, with its version in ``entry``.

    ``body`` is a JSON array: a client and its metadata, or a client alone if it has left.
    """


_KINDS: dict[int, Kind] = dict(enumerate(Kind))


class Part(NamedTuple):
    """One of the messages in a direct envelope, with its clients. ``ask`` and ``trace`` as in ``Envelope``."""

    targets: list[str]
    form: Form
    body: str | bytes
    ask: int = 0
    trace: bytes = b""

    @classmethod
    def of(cls, message: Encoded, targets: Sequence[str], ask: int = 0) -> "Part":
        """Return a message for clients."""
        return cls(list(targets), message.form, message.payload, ask, message.trace)

    def message(self) -> Encoded:
        """Return the body as a message for sockets."""
        return _message(self.form, self.body, self.trace)


CONNECTION = "\0"
"""Prefix of an exclusion that is a connection_id. No client id has it, so older releases ignore the exclusion."""


VOLATILE = CONNECTION
"""Exclusion of no connection: the sender knows that the message is not stored, although its room has a history."""


# Not frozen: that would treble the time to make one, and a node makes one for each message that it receives.
@dataclass(slots=True)
class Envelope:
    """One message between nodes. Nothing changes it.

    Attributes:
        sender: node_id, or the id of a publisher that serves no sockets.
        sequence: Number that grows with every envelope of this sender.
        previous: Sequence of this sender's previous envelope on the same channel, or 0 if unknown. All inboxes
            count as one channel.
        ask: Number of the answer that the sender waits for, or 0 for none.
        encoded: The encoded message, as long as the envelope has not left this process.
        parts: Messages to clients, in a direct envelope only.
        entry: The id of this message in its log, and the id of the entry before it (0: none is known). None for a
            message that is not stored. Both are Redis time in µs. No signature covers them, because Redis adds them.
        trace: Context of the sender's span, or empty.
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
    entry: tuple[int, int] | None = None
    trace: bytes = b""

    def is_copy(self, room: str) -> bool:
        """Whether this is one of several copies of a message to several rooms, each on the channel of its room."""
        return len(self.targets) > 1 and room != ""

    def first_copy(self, room: str) -> int:
        """Return the sequence of the copy for the first room. Those of the others follow it."""
        return self.sequence - self.targets.index(room)

    def copy_key(self, room: str) -> str:
        """Return a short key that all copies have in common, and no other message."""
        message = f"{self.sender} {self.first_copy(room)}"
        return hashlib.blake2b(message.encode(), digest_size=12).hexdigest()

    def message(self) -> Encoded:
        """Return the body as a message for sockets."""
        if self.encoded is not None:
            return self.encoded
        return _message(self.form, self.body, self.trace)


def _message(form: Form, body: str | bytes, trace: bytes) -> Encoded:
    message = Encoded(form, body, _size(body))
    message.trace = trace
    return message


def _size(data: str | bytes) -> int:
    return len(data) if isinstance(data, bytes) or data.isascii() else len(data.encode())


Sign = Callable[[bytes], bytes]
"""Function from the packed envelope up to its last slot to that slot, packed."""


def pack(envelope: Envelope, sign: Sign | None = None) -> bytes:
    """Return the bytes of ``envelope``.

    Raises:
        MessageError: The envelope exceeds ``MAX_ENVELOPE_BYTES``, or has too many names.
    """
    items: list[Any] = []
    for part in envelope.parts:
        items += [_item(part, ()), *part.targets]
    if sign is None and not envelope.trace:
        data: bytes = msgpack.packb((*_row(envelope), items))
    else:
        row: bytes = msgpack.packb((*_row(envelope), items, None, envelope.trace or None))
        data = _LONG_HEADER + row[1:]
        data += _UNSIGNED if sign is None else sign(data)
    return _limited(data if envelope.entry is None else with_entry(data, *envelope.entry))


def with_entry(data: bytes, entry: int, previous: int) -> bytes:
    """Return a packed envelope with its place in a log, as ``log_append.lua`` publishes it.

    The slot is behind all others. So Redis can add it to an envelope that it neither decodes nor can sign.
    """
    return _ENTRY_HEADERS[data[:1]] + data[1:] + _ENTRY.pack(0x92, 0xCF, entry, 0xCF, previous)


def without_entry(data: bytes) -> bytes:
    """Return a packed, signed envelope as it was signed, without its place in a log."""
    if not data.startswith(_LONG_ENTRY_HEADER) or data[-_ENTRY.size :][:2] != b"\x92\xcf":
        return data
    return _LONG_HEADER + data[len(_LONG_ENTRY_HEADER) : -_ENTRY.size]


def _limited(data: bytes) -> bytes:
    """Return ``data`` if it is within the limits of receivers."""
    if len(data) > MAX_ENVELOPE_BYTES:
        raise MessageError(f"envelope has {len(data)} bytes, the limit is {MAX_ENVELOPE_BYTES}")
    if len(data) > LARGE_BYTES:
        try:
            check(data)
        except WireError as error:
            raise MessageError(f"message has too many names: {error}") from None
    return data


def part_size(message: Encoded, targets: Sequence[str]) -> int:
    """Return an upper bound of the bytes that one part takes in an envelope.

    Raises:
        MessageError: The part exceeds ``MAX_PART_BYTES``.
    """
    size = 20 + message.size + (PART_TRACE_BYTES if message.trace else 0)
    for target in targets:
        size += 3 + _size(target)
    if size > MAX_PART_BYTES:
        raise MessageError(f"message and its clients have {size} bytes, the limit is {MAX_PART_BYTES}")
    return size


def pack_before_parts(envelope: Envelope) -> bytes:
    """Return the bytes of ``envelope`` up to its parts.

    The script that assigns clients to nodes appends a flat msgpack array: each packed message, followed by the
    names of its clients.
    """
    row: bytes = msgpack.packb(_row(envelope))
    return HEADER + row[1:]


def identity_bytes(envelope: Envelope) -> int:
    """Return the number of bytes, at the beginning of a packed envelope, that tell it from all others.

    They end with the sequence. A signature, which is another one each time, comes later.
    """
    return len(msgpack.packb((VERSION, OLDEST_READER, envelope.sender, envelope.sequence)))


def pack_message(part: Part, seal: tuple[Any, ...] = ()) -> bytes:
    """Return the packed message of a part with its signature (``seal``), without the names of its clients."""
    data: bytes = msgpack.packb(_item(part, seal))
    return data


def _item(part: Part, seal: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the message of a part. A signature has one or two slots, and a trace context is behind them.

    No signature covers a trace context.
    """
    if part.trace:
        seal = (*(*seal, None, None)[:2], part.trace)
    return part.form, part.body, part.ask, *seal


def _row(envelope: Envelope) -> tuple[Any, ...]:
    """Return slots 0 to 10. Slot 11 has the parts, 12 the entry, 13 the trace context, 14 the signature."""
    e = envelope
    versions = VERSION, OLDEST_READER
    return (
        *versions, e.sender, e.sequence, e.previous, e.kind, e.targets, e.exclude, e.form, e.body, e.ask
    )  # fmt: skip


_ENTRY_SLOT, _TRACE_SLOT, _LONG_ENTRY_SLOT = 12, 13, 15
_PART_TRACE_SLOT = 5

Verify = Callable[[tuple[Any, ...]], None]
"""Function that receives all slots of an envelope before they are interpreted; raises ``WireError``."""


def unpack(data: bytes, verify: Verify | None = None) -> Envelope:
    """Return the envelope in ``data``.

    Raises:
        WireError: The envelope is malformed, too large, needs a newer release, or is rejected by ``verify``.
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
    if len(envelope.sender) > MAX_SENDER:  # sequence tables keep the name: a long one would cost memory
        raise WireError("envelope has a sender with a name that is too long")
    return envelope


def _checked(row: tuple[Any, ...]) -> Envelope:
    try:
        _, _, sender, sequence, previous, kind, targets, exclude, form, body, ask, items = row[:12]
        parts = _parts(items) if items != () else ()
        entry = _entry(row) if len(row) > _ENTRY_SLOT else None
        head = sender, sequence, previous, _KINDS[kind], targets, exclude, _FORMS[form], body, ask
        trace = _trace(row, _TRACE_SLOT) if len(row) > _TRACE_SLOT else b""
        envelope = Envelope(*head, None, parts, entry, trace)
    except (ValueError, TypeError, LookupError) as error:
        raise WireError(f"envelope has wrong slots: {error}") from None
    if not isinstance(targets, tuple) or not isinstance(exclude, tuple):
        raise WireError("targets or exclusions of the envelope are not arrays")
    are_numbers = type(sequence) is int and type(previous) is int and type(ask) is int
    if not are_numbers or not _are(str, (sender, *targets, *exclude)):
        raise WireError("envelope has slots of wrong types")
    if not isinstance(body, _TYPES[envelope.form]):
        raise WireError("type of the envelope body does not match its form")
    return envelope


def _entry(row: tuple[Any, ...]) -> tuple[int, int] | None:
    """Return the entry: slot 12, or in a long envelope the slot behind the signature."""
    slot = row[_ENTRY_SLOT]
    if slot is None and len(row) > _LONG_ENTRY_SLOT and isinstance(row[_LONG_ENTRY_SLOT - 1], bytes):
        slot = row[_LONG_ENTRY_SLOT]
    if slot is None:
        return None
    entry, previous = slot
    if type(entry) is not int or type(previous) is not int:
        raise TypeError("entry is not two numbers")
    if not (0 <= entry <= MAX_ENTRY and 0 <= previous <= MAX_ENTRY):  # no later entry could exceed such an id
        raise ValueError("entry is not two ids")
    return entry, previous


def _trace(row: tuple[Any, ...], slot: int) -> bytes:
    """Return a trace context. It is a hint, so another value is no error, and is not kept."""
    context = row[slot]
    return context if isinstance(context, bytes) and len(context) == TRACE_BYTES else b""


def _are(kind: type, values: tuple[Any, ...]) -> bool:
    return set(map(type, values)) <= {kind}


def _parts(items: tuple[Any, ...]) -> tuple[Part, ...]:
    """Return the parts in a flat array, where each message is followed by the names of its clients."""
    if not isinstance(items, tuple) or isinstance(next(iter(items), None), str):
        raise TypeError("parts do not begin with a message")
    parts, targets = [], list[str]()
    for item in items:
        if isinstance(item, str):
            targets.append(item)
        else:
            form, body, ask = item[:3]  # a signature and slots of later releases may follow
            if not isinstance(body, _TYPES[form]) or not isinstance(ask, int):
                raise TypeError("message has slots of wrong types")
            targets = []
            trace = _trace(item, _PART_TRACE_SLOT) if len(item) > _PART_TRACE_SLOT else b""
            parts.append(Part(targets, _FORMS[form], body, ask, trace))
    return tuple(parts)
