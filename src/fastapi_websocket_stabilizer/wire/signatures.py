"""Signatures that prevent forging and altering envelopes without a key. Pure.

An envelope is signed as a whole, together with its channel. Key id, stamp and code are its last slot. Redis adds one
more to what it stores in a log: the place there, which no signature covers. Stored messages are signed for a channel
of their own. So no other message can be given a place, and none of them can be published without one.

A direct envelope is assembled in Redis, which has no key. So each of its messages is signed separately, together
with the names of all its clients and with the envelope's sender and sequence. The signature follows the message in
its part. If there are several clients, their names follow, because each node receives only its share of them.
"""

import hashlib
import hmac
from collections.abc import Sequence
from typing import Any

import msgpack

from ..exceptions import WireError
from .envelopes import HEADER, Envelope, Kind, Part, pack, pack_message, unpack, without_entry

KEY_ID_BYTES = 4
STAMP_BYTES = 8
CODE_BYTES = 16
SIGNATURE_BYTES = KEY_ID_BYTES + STAMP_BYTES + CODE_BYTES
STORED = "\0stored"
"""Suffix of the channel for which stored messages are signed. No channel has a NUL."""
_SLOT = b"\xc4" + bytes([SIGNATURE_BYTES])  # msgpack: bin 8
_SENDER, _SEQUENCE, _KIND, _PARTS = 2, 3, 5, 11


class UnsignedError(WireError):
    """The envelope, or a message in it, has no signature."""


class ForgedError(WireError):
    """The signature was made with an unknown key, or for another content, channel, client or registry."""


class Key:
    """A signing key derived from one secret, and its id."""

    __slots__ = ("_hash", "id")

    def __init__(self, secret: str) -> None:
        derived = hashlib.blake2b(
            secret.encode(errors="surrogatepass"), digest_size=32, person=b"fws envelope key"
        ).digest()
        self.id: bytes = hashlib.blake2b(derived, digest_size=KEY_ID_BYTES, person=b"fws key id").digest()
        self._hash = hashlib.blake2b(key=derived, digest_size=CODE_BYTES)

    def code(self, *pieces: bytes) -> bytes:
        """Return the message authentication code of the concatenated pieces."""
        state = self._hash.copy()  # a third faster than a new keyed hash
        for piece in pieces:
            state.update(piece)
        return state.digest()


class Keyring:
    """The keys of a registry: the first one signs, signatures of all are accepted.

    Args:
        keys: Secrets. The strength of each is limited by its length.
        registry: Name that is signed with each direct message. Without it, messages of another registry with
            the same keys would be accepted.
    """

    def __init__(self, keys: Sequence[str], registry: str) -> None:
        made = [Key(secret) for secret in keys]
        self._first, self._registry = made[0], registry
        self._keys = {key.id: key for key in made}

    def pack(self, envelope: Envelope, channel: str, stamp_us: int) -> bytes:
        """Return the bytes of ``envelope``, signed for one channel. ``stamp_us`` is Redis time.

        Raises:
            MessageError: The envelope exceeds ``MAX_ENVELOPE_BYTES``, or has too many names.
        """
        head = self._first.id + stamp_us.to_bytes(STAMP_BYTES)
        label = _whole((channel if envelope.entry is None else channel + STORED).encode())

        def sign(data: bytes) -> bytes:
            return _SLOT + head + self._first.code(label, data, head)

        return pack(envelope, sign)

    def pack_message(self, envelope: Envelope, part: Part, stamp_us: int) -> bytes:
        """Return the packed, signed message of a part, without the names of its clients."""
        head, names = self._first.id + stamp_us.to_bytes(STAMP_BYTES), tuple(part.targets)
        message = part.form, part.body, part.ask
        code = self._first.code(self._part(envelope.sender, envelope.sequence, names, message), head)
        return pack_message(part, (head + code,) if len(names) == 1 else (head + code, names))

    def unpack(self, channel: bytes, data: bytes) -> tuple[Envelope, int, bool]:
        """Return the envelope in ``data``, its stamp in µs, and whether its signature covers the channel.

        Raises:
            UnsignedError: There is no signature.
            ForgedError: The signature is not valid for this envelope, or was made with an unknown key.
            WireError: As for ``envelopes.unpack``.
        """
        if data[:1] == HEADER:
            stamps: list[int] = []
            found = unpack(data, lambda row: stamps.append(self._verify_parts(row)))
            # Only these fields are covered by the signatures, so the others are left out.
            return Envelope(found.sender, found.sequence, 0, found.kind, parts=found.parts), stamps[0], False
        signed = without_entry(data)
        start = len(signed) - SIGNATURE_BYTES
        if signed[start - len(_SLOT) : start] != _SLOT:
            raise UnsignedError("envelope is not signed")
        label = _whole(channel if signed is data else channel + STORED.encode())
        stamp_us = self._verify(signed[start:], label, signed[: start - len(_SLOT)])
        return unpack(data), stamp_us, True

    def _verify(self, signature: object, *signed: bytes) -> int:
        if not isinstance(signature, bytes) or len(signature) != SIGNATURE_BYTES:
            raise ForgedError("signature has the wrong size")
        head, code = signature[:-CODE_BYTES], signature[-CODE_BYTES:]
        key = self._keys.get(head[:KEY_ID_BYTES])
        if key is None:
            raise ForgedError(f"envelope was signed with the unknown key {head[:KEY_ID_BYTES].hex()}")
        if not hmac.compare_digest(key.code(*signed, head), code):
            raise ForgedError("signature is wrong: forged, altered or meant for another channel")
        return int.from_bytes(head[KEY_ID_BYTES:])

    def _verify_parts(self, row: tuple[Any, ...]) -> int:
        """Verify all messages of a direct envelope, and return their oldest stamp."""
        if len(row) <= _PARTS or row[_KIND] != Kind.DIRECT or not isinstance(row[_PARTS], tuple):
            raise UnsignedError("envelope is not signed")
        stamps = [self._verify_message(row, message, names) for message, names in _messages(row[_PARTS])]
        if not stamps:
            raise UnsignedError("direct envelope has no messages")
        return min(stamps)

    def _verify_message(self, row: tuple[Any, ...], item: object, names: tuple[str, ...]) -> int:
        if not isinstance(item, tuple) or len(item) < 4:
            raise UnsignedError("message is not signed")
        signed_names = names if len(item) < 5 or item[4] is None else item[4]
        if not isinstance(signed_names, tuple) or not set(map(type, signed_names)) <= {str}:
            raise ForgedError("signed client names of the message are malformed")
        if not set(names) <= set(signed_names):
            raise ForgedError("message is signed for other clients")
        return self._verify(item[3], self._part(row[_SENDER], row[_SEQUENCE], signed_names, item[:3]))

    def _part(self, sender: str, sequence: int, names: tuple[str, ...], message: tuple[Any, ...]) -> bytes:
        try:
            data: bytes = msgpack.packb((self._registry, sender, sequence, names, message))
        except ValueError as error:
            raise ForgedError(f"message cannot be packed again: {error}") from None
        return b"part" + data


def _whole(channel: bytes) -> bytes:
    return b"whole" + len(channel).to_bytes(4) + channel


def _messages(items: tuple[Any, ...]) -> list[tuple[Any, tuple[str, ...]]]:
    """Return each message with the client names that follow it."""
    found: list[tuple[Any, list[str]]] = []
    for item in items:
        if not isinstance(item, str):
            found.append((item, []))
        elif found:
            found[-1][1].append(item)
    return [(message, tuple(names)) for message, names in found]
