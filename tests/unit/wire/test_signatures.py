"""Signatures: nothing of an envelope can be changed, moved or left out by somebody who knows no key."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastapi_websocket_stabilizer.exceptions import WireError
from fastapi_websocket_stabilizer.names import NodeId
from fastapi_websocket_stabilizer.wire.envelopes import (
    Envelope,
    Kind,
    Part,
    pack,
    pack_before_parts,
    unpack,
    with_entry,
)
from fastapi_websocket_stabilizer.wire.messages import Form
from fastapi_websocket_stabilizer.wire.signatures import (
    STORED,
    ForgedError,
    Key,
    Keyring,
    UnsignedError,
)

NEW, OLD, OTHER = "new key " * 4, "old key " * 4, "other key " * 4
KEYS = Keyring([NEW, OLD], "ns:{")
STAMP_US = 1_700_000_000_000_000
CHANNEL = "ns:{n1}:inbox"


def composed(keys: Keyring, envelope: Envelope, share: list[Part] | None = None) -> bytes:
    """As ``clients_publish.lua`` puts a direct envelope together for one node."""
    items = []
    for part, shared in zip(envelope.parts, share or envelope.parts, strict=True):
        items.append(keys.pack_message(envelope, part, STAMP_US))
        items += [b"\xda" + len(name.encode()).to_bytes(2) + name.encode() for name in shared.targets]
    return pack_before_parts(envelope) + b"\xdd" + len(items).to_bytes(4) + b"".join(items)


BROADCAST = Envelope(
    NodeId("n2"), 7, 6, Kind.BROADCAST, ("room",), ("carol",), Form.BINARY, b"\xc4\x1c" * 20, 3
)
DIRECT = Envelope(
    NodeId("n2"), 7, 0, Kind.DIRECT,
    parts=(Part(["alice"], Form.TEXT, "one", 5), Part(["bob", "carol"], Form.BINARY, b"\xc4\x1c" * 20)),
)  # fmt: skip
WAYS: dict[str, Callable[[Keyring], bytes]] = {
    "whole": lambda keys: keys.pack(BROADCAST, CHANNEL, STAMP_US),
    "part by part": lambda keys: composed(keys, DIRECT),
}
each_way = pytest.mark.parametrize("made", WAYS.values(), ids=WAYS)


def opened(data: bytes, keys: Keyring = KEYS, channel: str = CHANNEL) -> Envelope:
    return keys.unpack(channel.encode(), data)[0]


@pytest.mark.parametrize("envelope", [BROADCAST, DIRECT], ids=["broadcast", "direct"])
def test_signed_envelope_comes_back_with_its_stamp(envelope: Envelope) -> None:
    data = KEYS.pack(envelope, CHANNEL, STAMP_US)
    assert KEYS.unpack(CHANNEL.encode(), data) == (envelope, STAMP_US, True)


def test_signed_envelope_that_redis_gives_a_place_comes_back_with_it() -> None:
    data = with_entry(KEYS.pack(BROADCAST, CHANNEL + STORED, STAMP_US), 2**52, 7)
    assert KEYS.unpack(CHANNEL.encode(), data) == (replace(BROADCAST, entry=(2**52, 7)), STAMP_US, True)
    assert KEYS.pack(replace(BROADCAST, entry=(2**52, 7)), CHANNEL, STAMP_US) == data
    assert unpack(data).entry == (2**52, 7)
    for changed in range(len(data) - 19):
        with pytest.raises(WireError):
            opened(data[:changed] + bytes([data[changed] ^ 1]) + data[changed + 1 :])


def test_message_that_is_not_stored_cannot_be_given_a_place_and_a_stored_one_not_be_without() -> None:
    with pytest.raises(ForgedError):
        opened(with_entry(KEYS.pack(BROADCAST, CHANNEL, STAMP_US), 2**52, 7))
    with pytest.raises(ForgedError):
        opened(KEYS.pack(BROADCAST, CHANNEL + STORED, STAMP_US))


def test_direct_envelope_whose_messages_are_signed_comes_back_with_its_stamp() -> None:
    assert KEYS.unpack(CHANNEL.encode(), composed(KEYS, DIRECT)) == (DIRECT, STAMP_US, False)


def test_node_gets_only_its_share_of_a_messages_clients() -> None:
    share = [DIRECT.parts[0], DIRECT.parts[1]._replace(targets=["carol"])]
    assert opened(composed(KEYS, DIRECT, share)).parts == tuple(share)


@each_way
def test_reader_without_keys_reads_what_is_signed(made: Callable[[Keyring], bytes]) -> None:
    assert unpack(made(KEYS)) == opened(made(KEYS))


@each_way
@given(data=st.data())
def test_any_changed_byte_is_refused(made: Callable[[Keyring], bytes], data: st.DataObject) -> None:
    signed = made(KEYS)
    at = data.draw(st.integers(0, len(signed) - 1))
    altered = bytearray(signed)
    altered[at] ^= data.draw(st.integers(1, 255))
    try:
        envelope = opened(bytes(altered))
    except WireError:
        return
    # Of a direct envelope the slots that parts replace are not signed, and not taken either.
    assert made is WAYS["part by part"]
    assert envelope == DIRECT


@each_way
@given(cut=st.integers(1, 60), more=st.binary(max_size=60))
def test_end_of_another_length_is_refused(made: Callable[[Keyring], bytes], cut: int, more: bytes) -> None:
    signed = made(KEYS)
    if (altered := signed[:-cut] + more) != signed:
        with pytest.raises(WireError):
            opened(altered)


@each_way
@pytest.mark.parametrize(
    ("signer", "verifier"),
    [([NEW, OLD], [OLD, NEW]), ([OLD], [NEW, OLD]), ([OLD, NEW], [NEW, OLD]), ([NEW], [OLD, NEW])],
)
def test_any_of_the_keys_verifies(
    made: Callable[[Keyring], bytes], signer: list[str], verifier: list[str]
) -> None:
    assert opened(made(Keyring(signer, "ns:{")), Keyring(verifier, "ns:{")) == opened(made(KEYS))


@each_way
def test_other_key_is_refused_by_its_name(made: Callable[[Keyring], bytes]) -> None:
    with pytest.raises(ForgedError, match=f"unknown key {Key(OTHER).id.hex()}"):
        opened(made(Keyring([OTHER], "ns:{")))


@pytest.mark.parametrize("envelope", [BROADCAST, DIRECT, replace(DIRECT, parts=())])
def test_unsigned_envelope_is_refused_as_such(envelope: Envelope) -> None:
    with pytest.raises(UnsignedError):
        opened(pack(envelope))


@pytest.mark.parametrize("channel", ["ns:{n2}:inbox", "ns:all", "", "other:{n1}:inbox"])
def test_whole_envelope_is_refused_on_another_channel(channel: str) -> None:
    with pytest.raises(ForgedError, match="another channel"):
        opened(KEYS.pack(BROADCAST, CHANNEL, STAMP_US), channel=channel)


def test_message_is_refused_in_another_registry_that_has_the_same_keys() -> None:
    with pytest.raises(ForgedError):
        opened(composed(KEYS, DIRECT), Keyring([NEW], "other:{"))


def parts_of(envelope: Envelope) -> list[Any]:
    row: list[Any] = msgpack.unpackb(composed(KEYS, envelope))
    return row


@pytest.mark.parametrize(
    "changes", [{"sender": NodeId("n3")}, {"sequence": 8}], ids=["another sender", "another sequence"]
)
def test_message_is_refused_in_another_envelope(changes: dict[str, Any]) -> None:
    row = parts_of(replace(DIRECT, **changes))
    row[11] = parts_of(DIRECT)[11]
    with pytest.raises(ForgedError):
        opened(msgpack.packb(row))


@pytest.mark.parametrize(
    "items",
    [
        lambda first, second: [first, "bob"],
        lambda first, second: [second, "alice"],
        lambda first, second: [first, "alice", "bob"],
        lambda first, second: [[*second[:4], ["alice"]], "alice"],
        lambda first, second: [[*second[:4], "bob"], "bob"],
        lambda first, second: [[*second[:4], [{"a": 1}]], "bob"],
        lambda first, second: [[*second[:4], ["bob", "carol", "dave"]], "dave"],
        lambda first, second: [second[:4], "bob"],
        lambda first, second: [first[:4]],
        lambda first, second: [[*first[:3], second[3]], "alice"],
        lambda first, second: [[*first[:3], None], "alice"],
        lambda first, second: [[*first[:3], b"short"], "alice"],
        lambda first, second: [first, "alice", [0, "forged", 0], "bob"],
        lambda first, second: [first, "alice", [0, "forged", 0, first[3]], "alice"],
        lambda first, second: [first, "alice", 7],
    ],
)
def test_messages_and_clients_cannot_be_mixed(items: Any) -> None:
    row = parts_of(DIRECT)
    row[11] = items(row[11][0], row[11][2])
    with pytest.raises((UnsignedError, ForgedError)):
        opened(msgpack.packb(row))


def deep(levels: int) -> Any:
    value: Any = None
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize("sender", [deep(300), {"a": 1}, 7, b"n"])
def test_sender_of_any_type_is_refused(sender: Any) -> None:
    row = parts_of(DIRECT)
    row[2] = sender
    with pytest.raises(WireError):
        opened(msgpack.packb(row))


def test_signature_does_not_show_the_key() -> None:
    signed = KEYS.pack(BROADCAST, CHANNEL, STAMP_US)
    assert NEW.encode() not in signed
    assert Key(NEW).id not in NEW.encode()
