"""Frames to clients: each is the text or the bytes that the vectors have."""

import json
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import to_json

from fastapi_websocket_stabilizer.names import MAX_NAME_BYTES
from fastapi_websocket_stabilizer.wire import client_frames as frames
from fastapi_websocket_stabilizer.wire.client_frames import Fault, Hi, Lost, LostLog, Member, Positions
from fastapi_websocket_stabilizer.wire.foreign_json import MAX_ID
from fastapi_websocket_stabilizer.wire.frames import BINARY, TEXT
from fastapi_websocket_stabilizer.wire.frames import frame as frame_of
from fastapi_websocket_stabilizer.wire.messages import WITH_ADDRESS, Address, Encoded, Form, encode
from tests.support.protocol_vectors import data_of, vectors
from tests.unit.strategies import legal_names

LIMIT = 1 << 20
VECTORS = vectors("server_frames.json")
WRITTEN = [vector for vector in VECTORS if "only_read" not in vector.values[0]]
ids = st.integers(0, MAX_ID)
texts = st.text(st.characters(exclude_categories=["Cs"]))


@pytest.mark.parametrize("vector", WRITTEN)
def test_frame_is_written_as_recorded(vector: dict[str, Any]) -> None:
    assert written(vector["frame"]) == data_of(vector)


def test_only_frames_that_a_node_does_not_write_so_are_excluded() -> None:
    assert len(WRITTEN) > 50
    assert {vector.values[0]["frame"]["kind"] for vector in WRITTEN} == set(WRITERS)


def written(frame: dict[str, Any]) -> str | bytes:
    frame = dict(frame)
    kind = frame.pop("kind")
    if kind == "message":
        return message(frame)
    text: str = WRITERS[kind](**frame)
    return text


def message(frame: dict[str, Any]) -> str | bytes:
    encoded = encode(bytes.fromhex(frame["bytes"]), LIMIT) if "bytes" in frame else any_json(frame["data"])
    return sent(encoded, Address(frame["log"], frame["id"], key=frame.get("key")))


def sent(message: Encoded, address: Address) -> str | bytes:
    """Return the payload of the frame with this address, which is the same for each server."""
    addressed = message.addressed(address)
    event = addressed.asgi_with_address
    payload: str | bytes = event["text"] if "text" in event else event["bytes"]
    data = payload.encode() if isinstance(payload, str) else payload
    opcode = TEXT if isinstance(payload, str) else BINARY
    assert addressed.frame(WITH_ADDRESS) == frame_of(opcode, data)
    return payload


def any_json(data: object) -> Encoded:
    return encode(data, LIMIT) if isinstance(data, str | dict | list) else Encoded(Form.JSON, str(data), 0)


def hi(v: int, client: str, session: str, t: int, **frame: Any) -> str:
    assert v == 1
    return frames.hi(
        Hi(
            client,
            session,
            t,
            frame["ping"],
            frame["pong"],
            frame["expires"],
            frame["outcome"],
            frame["handled"],
            rows(frame["lost"]),
            Positions(frame["rooms"], frame["everybody"], frame["mailbox"]),
        )
    )


def rows(lost: list[Any]) -> list[LostLog]:
    return [LostLog(log, top, Lost(code)) for log, top, code in lost]


def snapshot(room: str, version: int, members: list[Any], more: bool) -> str:
    (page,) = frames.presence_snapshot(room, version, [Member(*member) for member in members])
    assert not more
    return page


def diff(room: str, version: int, arrived: list[Any], departed: list[str], after: int | None = None) -> str:
    return frames.presence_diff(room, version, [Member(*member) for member in arrived], departed, after=after)


def fault(error: dict[str, Any] | None) -> Fault | None:
    return None if error is None else Fault(error["code"], error["message"], error["retry"])


WRITERS: dict[str, Any] = {
    "message": message,
    "hi": hi,
    "live": lambda replayed: frames.live(replayed),
    "lost": lambda lost: frames.lost(rows(lost)),
    "resumed": lambda outcome: frames.resumed(outcome),
    "joined": lambda room, at, outcome: frames.joined(room, at, outcome),
    "left": lambda room: frames.left(room),
    "positions": lambda rooms, everybody, mailbox: frames.moved(Positions(rooms, everybody, mailbox)),
    "time": lambda t: frames.whole_until(t),
    "alive": lambda: frames.ALIVE,
    "probe": lambda: frames.PROBE,
    "request": lambda number, name, data: frames.request(number, name, to_json(data).decode()),
    "answer": lambda number, data: frames.answer(number, data),
    "error_answer": lambda number, code, message, retry: frames.error_answer(
        number, Fault(code, message, retry)
    ),
    "cancel": lambda number: frames.cancel(number),
    "handled": lambda number, error: frames.handled(number, fault(error)),
    "presence_snapshot": snapshot,
    "presence_diff": diff,
    "go": lambda **frame: frames.go(frame["in"]),
}


@pytest.mark.parametrize("vector", VECTORS)
def test_first_key_of_a_recorded_text_is_its_kind_and_no_key_looks_like_an_index(
    vector: dict[str, Any],
) -> None:
    """ECMAScript moves keys that look like an array index to the front."""
    if isinstance(text := data_of(vector), str) and isinstance(value := json.loads(text), dict):
        assert not any(key.isdecimal() for key in value)


# Messages


@given(legal_names, ids, texts)
def test_text_message_is_a_string_in_its_frame(room: str, entry_id: int, text: str) -> None:
    encoded = encode(text, LIMIT)
    assert json.loads(sent(encoded, Address(room, entry_id))) == [entry_id, room, text]
    assert json.loads(sent(encoded, Address(room, entry_id, key="k"))) == [entry_id, room, text, "k"]
    assert json.loads(sent(encoded, Address(frames.MAILBOX, entry_id))) == [entry_id, 0, text]
    assert json.loads(sent(encoded, Address(frames.EVERYBODY, entry_id))) == [entry_id, 1, text]


json_values = st.recursive(
    st.none() | st.booleans() | ids | texts,
    lambda inner: st.lists(inner) | st.dictionaries(texts, inner),
    max_leaves=8,
)


@given(legal_names, ids, st.lists(json_values) | st.dictionaries(texts, json_values))
def test_json_message_stands_in_its_frame_as_it_was_encoded(room: str, entry_id: int, value: Any) -> None:
    encoded = encode(value, LIMIT)
    frame = str(sent(encoded, Address(room, entry_id)))
    assert frame.endswith(f",{encoded.payload!s}]")
    assert json.loads(frame) == [entry_id, room, value]


@given(legal_names, ids, st.binary(), st.none() | st.text("abcXYZ019-_", min_size=1, max_size=32))
def test_binary_message_has_a_header_of_fixed_form(
    room: str, entry_id: int, data: bytes, key: str | None
) -> None:
    frame = sent(encode(data, LIMIT), Address(room, entry_id, key=key))
    assert isinstance(frame, bytes)
    kind, found_id, length = struct.unpack(">BQH", frame[:11])
    rest = frame[11:]
    assert (kind, found_id, rest[:length].decode()) == (0 if key is None else 4, entry_id, room)
    if key is not None:
        assert rest[length : length + 1 + len(key)] == bytes([len(key)]) + key.encode()
        length += 1 + len(key)
    assert rest[length:] == data


def test_longest_room_name_has_a_length_of_two_bytes() -> None:
    frame = sent(encode(b"x", LIMIT), Address("a" * MAX_NAME_BYTES))
    assert isinstance(frame, bytes)
    assert frame[9:11] == b"\x02\x00"


# Presence


def test_snapshot_continues_in_the_next_frame_above_the_size_of_a_page() -> None:
    members = [Member(f"client {i}", {"about": "x" * 1000}) for i in range(200)]
    pages = list(frames.presence_snapshot("lobby", 5, members))
    assert len(pages) > 2
    assert all(len(page) < frames.MAX_PAGE_BYTES + 2000 for page in pages)
    read = [json.loads(page) for page in pages]
    assert [page.get("more") for page in read] == [1] * (len(pages) - 1) + [None]
    assert [tuple(member) for page in read for member in page["="]] == members
    assert {(page["p"], page["v"]) for page in read} == {("lobby", 5)}


def test_member_larger_than_a_page_has_one_of_its_own() -> None:
    members = [Member("a", "x" * frames.MAX_PAGE_BYTES), Member("b", "x" * frames.MAX_PAGE_BYTES)]
    pages = list(frames.presence_snapshot("lobby", 5, members))
    assert [len(json.loads(page)["="]) for page in pages] == [1, 1]


# Reasons of close frames


def test_reasons_fit_into_a_close_frame() -> None:
    assert frames.replaced_reason("s" * 64) == f'{{"by":"{"s" * 64}"}}'
    assert frames.wait_reason(250) == '{"reconnect_in_ms":250}'
    assert frames.input_reason("encoding") == '{"code":"encoding"}'
    assert len(frames.replaced_reason("s" * 64)) <= 123
