"""Releases side by side: what 2.0 wrote is read for as long as its version is, and 2.0 reads what comes next.

``tests/vectors/envelopes_v1.json`` holds bytes as 2.0 published them, direct envelopes as ``clients_publish.lua``
put them together in Redis, and entries of logs as ``log_append.lua`` publishes them. No line of it is ever changed:
another kind gets a line of its own, and another format a file.
"""

import json
from dataclasses import replace
from pathlib import Path

import msgpack
import pytest

from fastapi_websocket_stabilizer.exceptions import WireError
from fastapi_websocket_stabilizer.names import NodeId
from fastapi_websocket_stabilizer.wire.envelopes import OLDEST_READER, VERSION, Envelope, Kind, Part, unpack
from fastapi_websocket_stabilizer.wire.messages import Form
from fastapi_websocket_stabilizer.wire.signatures import Keyring

RECORDED: dict[str, str] = json.loads(
    (Path(__file__).parents[2] / "vectors" / "envelopes_v1.json").read_text()
)
SENDER = NodeId("0123456789abcdef")
KEYS = Keyring(["a key that only this recording has"], "fws:{")
STAMP_US = 1_900_000_000_000_000
CHANNEL = "fws:{fedcba9876543210}:inbox"
PARTS = (
    Part(["alice", "böb 🦊"], Form.JSON, '{"to": "two"}', 9),
    Part(["carol"], Form.BINARY, bytes(range(256))),
)
ENVELOPES = {
    "broadcast": Envelope(SENDER, 70_000, 300, Kind.BROADCAST, (), ("alice",), Form.TEXT, "grüß 🦊"),
    "broadcast to rooms": Envelope(
        SENDER, 7, 0, Kind.BROADCAST, ("lobby", "日本"), (), Form.BINARY, b"\x00\xff", 12
    ),
    "direct": Envelope(SENDER, 8, 0, Kind.DIRECT, parts=PARTS),
    "evict": Envelope(SENDER, 9, 0, Kind.EVICT, ("fedcba9876543210.17",)),
    "request": Envelope(
        SENDER, 10, 0, Kind.REQUEST, ("alice",), (), Form.JSON, '{"do": "join", "room": "lobby"}', 13
    ),
    "reply": Envelope(SENDER, 11, 0, Kind.REPLY, (), (), Form.JSON, "[1, 0, 1, 0, []]", 13),
    "socket": Envelope(
        SENDER, 2**40, 0, Kind.SOCKET, ("alice", "fedcba9876543210.17"), (), Form.TEXT, "to one socket"
    ),
    "logged broadcast": Envelope(
        SENDER,
        12,
        7,
        Kind.BROADCAST,
        ("lobby",),
        ("alice",),
        Form.JSON,
        '{"a": 1}',
        14,
        entry=(2**50 + 1, 2**50),
    ),
    "lost": Envelope(SENDER, 13, 0, Kind.LOST, ("lobby",), (), Form.TEXT, "hole", entry=(2**50, 2**50 + 1)),
    "presence": Envelope(
        SENDER, 14, 0, Kind.PRESENCE, ("lobby",), (), Form.JSON, '["alice",{"a":1}]', entry=(18, 17)
    ),
}
TRACE = bytes(range(1, 25)) + b"\1"
TRACED = {
    "traced broadcast": replace(ENVELOPES["broadcast"], trace=TRACE),
    "traced logged broadcast": replace(ENVELOPES["logged broadcast"], trace=TRACE),
    "traced direct": replace(ENVELOPES["direct"], parts=tuple(part._replace(trace=TRACE) for part in PARTS)),
}
"""Envelopes of senders in a sampled span. A later release puts its slots behind the signature of these."""
ALL = {**ENVELOPES, **TRACED}
each_envelope = pytest.mark.parametrize("name", ENVELOPES)
each_recorded = pytest.mark.parametrize("name", ALL)


def test_every_kind_is_recorded_with_and_without_a_signature() -> None:
    assert {envelope.kind for envelope in ENVELOPES.values()} == set(Kind)
    assert set(RECORDED) == {*ALL, *(f"signed {name}" for name in ALL)}


@each_recorded
def test_recorded_envelope_is_read_as_it_was_meant(name: str) -> None:
    assert unpack(bytes.fromhex(RECORDED[name])) == ALL[name]


@each_recorded
def test_recorded_signature_is_accepted_and_does_not_disturb_who_has_no_keys(name: str) -> None:
    data = bytes.fromhex(RECORDED[f"signed {name}"])
    assert KEYS.unpack(CHANNEL.encode(), data)[:2] == (ALL[name], STAMP_US)
    assert unpack(data) == ALL[name]


def later(name: str, *, oldest_reader: int = OLDEST_READER) -> bytes:
    """An envelope as a later release may write it: more slots behind ours, and more behind a message's."""
    row = msgpack.unpackb(bytes.fromhex(RECORDED[name]))
    row[:2], row[12:] = [VERSION + 3, oldest_reader], row[12:] or [None]
    row[11] = [item if isinstance(item, str) else [*item, None, "more"] for item in row[11]]
    row += ["trace", None, 7, [["what"], "else", 1.5]]
    data: bytes = msgpack.packb(row)
    return data


@each_envelope
def test_envelope_of_a_later_release_is_read_without_what_is_new(name: str) -> None:
    assert unpack(later(name)) == ENVELOPES[name]


@each_envelope
def test_envelope_of_a_later_release_for_later_readers_is_refused(name: str) -> None:
    with pytest.raises(WireError, match=f"needs a reader of version {VERSION + 1}"):
        unpack(later(name, oldest_reader=VERSION + 1))


def test_signature_of_a_later_release_is_found_behind_its_new_slots() -> None:
    data = bytes.fromhex(RECORDED["signed broadcast"])
    assert KEYS.unpack(CHANNEL.encode(), data)[0] == ENVELOPES["broadcast"]
    keyless = b"\xdc\x00\x11" + data[1:-30] + b"\x07\xc0"  # array of 17: two more before the signature
    head = data[-28:-16]
    code = KEYS._first.code(b"whole" + len(CHANNEL.encode()).to_bytes(4) + CHANNEL.encode(), keyless, head)
    assert KEYS.unpack(CHANNEL.encode(), keyless + b"\xc4\x1c" + head + code)[0] == ENVELOPES["broadcast"]
