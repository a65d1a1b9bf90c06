"""The arguments of ``log_append.lua``, and its reply. Pure."""

import asyncio
import hashlib
import struct
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import NamedTuple

from ...exceptions import MessageError
from ...wire.envelopes import ENTRY_BYTES, MAX_ENVELOPE_BYTES, Envelope, identity_bytes, pack
from ...wire.signatures import STORED
from ..log_ports import Append, Appended, LogName, Trimmed
from .command import Argument
from .guard import Signer
from .keys import Keys

ID_BYTES = 8
SCAN_SLACK_US = 1_000_000
"""Microseconds before the first try in which a repeated append still looks for its entry."""
_RUN = struct.Struct("<7d")


class Packed(NamedTuple):
    """An append and its packed envelope."""

    append: Append
    data: bytes


class Waiting(NamedTuple):
    """An append that is not queued for Redis yet, its packed envelope, and its answer."""

    append: Append
    data: bytes
    answer: "asyncio.Future[Appended]"


def pack_append(append: Append, keys: Keys, signer: Signer | None) -> bytes:
    """Return the envelope of an append as it is stored.

    Raises:
        MessageError: It is larger than ``LogBounds.bytes`` or than an envelope.
        BackendUnavailableError: Redis' time is unknown, and a signature needs it.
    """
    data, limit = pack_for(append.log, append.envelope, keys, signer), append.bounds.bytes
    if len(data) + ID_BYTES > limit:
        raise MessageError(f"message has {len(data) + ID_BYTES} bytes in its log, the limit is {limit}")
    if len(data) + ENTRY_BYTES > MAX_ENVELOPE_BYTES:
        raise MessageError(f"envelope has {len(data)} bytes, the limit is {MAX_ENVELOPE_BYTES}")
    return data


def pack_for(log: LogName, envelope: Envelope, keys: Keys, signer: Signer | None) -> bytes:
    """Return an envelope as it would be published, so that its signature names the log."""
    return pack(envelope) if signer is None else signer.pack(envelope, keys.log_channel(log) + STORED)


def append_call(
    keys: Keys, publish_command: str, waiting: Sequence[Packed | Waiting]
) -> tuple[list[str], list[Argument]]:
    """Return the keys and arguments of ``log_append.lua``."""
    names: list[str] = []
    arguments: list[Argument] = [publish_command]
    for run in _runs(waiting):
        append = run[0].append
        names += [keys.log(append.log), keys.log_top(append.log)]
        if append.key:
            names.append(keys.once(append.log, _digest(append)))
        age_us, length = 0, 0
        if append.retry_age_s > 0:
            age_us = int(append.retry_age_s * 1_000_000) + SCAN_SLACK_US
            length = identity_bytes(append.envelope)
        bounds = append.bounds.messages, append.bounds.bytes, append.bounds.seconds * 1_000_000
        settings = _RUN.pack(len(run), *bounds, bool(append.key), age_us, length)
        arguments += [settings, keys.log_channel(append.log), *(each.data for each in run)]
    return names, arguments


def append_reply(reply: Sequence[int], count: int) -> list[Appended]:
    """Return the answer to each append of a call with ``count`` of them."""
    rows = zip(reply[: 3 * count : 3], reply[1 : 3 * count : 3], reply[2 : 3 * count : 3], strict=True)
    found = [Appended(entry, previous, max(0, nodes), nodes >= 0) for entry, previous, nodes in rows]
    if len(reply) > 3 * count:
        found[-1] = replace(found[-1], trimmed=Trimmed(*reply[3 * count :]))
    return found


def _runs(waiting: Sequence[Packed | Waiting]) -> Iterator[list[Packed | Waiting]]:
    """Yield consecutive appends to one log with the same bounds; one with a key, or a repeated one, by itself."""

    def what(numbered: tuple[int, Packed | Waiting]) -> object:
        number, each = numbered
        is_alone = each.append.key or each.append.retry_age_s > 0
        return number if is_alone else (each.append.log, each.append.bounds)

    return ([each for _, each in run] for _, run in groupby(enumerate(waiting), what))


def _digest(append: Append) -> str:
    kind, name = append.log.kind.value, append.log.name
    return hashlib.blake2b("\0".join((kind, name, append.key)).encode(), digest_size=16).hexdigest()
