"""The examples in ``protocol/vectors``, which the server and the other clients read as well."""

import base64
import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from fastapi_websocket_stabilizer_client import frames, writing
from fastapi_websocket_stabilizer_client.closes import react
from fastapi_websocket_stabilizer_client.errors import InvalidDataError, RequestFailedError
from fastapi_websocket_stabilizer_client.handshake import offer
from fastapi_websocket_stabilizer_client.positions import Place

VECTORS = Path(__file__).parents[3] / "protocol" / "vectors"
SERVER_KINDS: dict[type, str] = {
    frames.Entry: "message", frames.Hi: "hi", frames.Live: "live", frames.Losses: "lost", frames.Resumed: "resumed",
    frames.Joined: "joined", frames.Left: "left", frames.Positions: "positions", frames.Time: "time",
    frames.Alive: "alive", frames.Probe: "probe", frames.Request: "request", frames.Answer: "answer",
    frames.Cancel: "cancel", frames.Handled: "handled", frames.Snapshot: "presence_snapshot",
    frames.Change: "presence_diff", frames.Go: "go", frames.Unknown: "unknown",
}  # fmt: skip
NAMES = {
    "expires_s": "expires", "ping_s": "ping", "in_ms": "in", "version": "v",
}  # fmt: skip


def rows(file: str) -> list[Any]:
    found = json.loads((VECTORS / file).read_text())
    return [pytest.param(row, id=row["name"]) for row in found]


def content(row: dict[str, Any]) -> str | bytes:
    if "hex" in row:
        return bytes.fromhex(row["hex"])
    return "".join(text * times for text, times in row["parts"]) if "parts" in row else row["text"]


def described(frame: frames.Frame) -> dict[str, Any]:
    """Return a frame as the vectors describe it."""
    kind = SERVER_KINDS[type(frame)]
    values = {NAMES.get(field.name, field.name): getattr(frame, field.name) for field in fields(frame)}
    describer = DESCRIBERS.get(kind)
    return {"kind": kind} | (values if describer is None else describer(values))


def _message(values: dict[str, Any]) -> dict[str, Any]:
    data = values.pop("data")
    values |= {"bytes": data.hex()} if isinstance(data, bytes) else {"data": data}
    return {key: value for key, value in values.items() if (key, value) != ("key", "")}


def _rows(values: tuple[frames.LostLog, ...]) -> list[Any]:
    return [[row.log, row.top, row.code] for row in values]


def _hi(values: dict[str, Any]) -> dict[str, Any]:
    at = values.pop("at")
    return values | _at(at) | {"lost": _rows(values["lost"])}


def _at(at: frames.Positions) -> dict[str, Any]:
    return {"rooms": at.rooms, "everybody": at.everybody, "mailbox": at.mailbox}


def _answer(values: dict[str, Any]) -> dict[str, Any]:
    error = values.pop("error")
    if error is None:
        return values
    return {"kind": "error_answer", "number": values["number"]} | _error(error)


def _error(error: RequestFailedError) -> dict[str, Any]:
    return {"code": error.code, "message": error.message, "retry": error.retry}


def _presence(values: dict[str, Any]) -> dict[str, Any]:
    values["version"] = values.pop("v")
    if values.get("after") == values["version"] - 1:
        del values["after"]
    return {key: _listed(value) for key, value in values.items()}


def _listed(value: Any) -> Any:
    return [_listed(inner) for inner in value] if isinstance(value, tuple) else value


DESCRIBERS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "message": _message,
    "hi": _hi,
    "lost": lambda values: {"lost": _rows(values["lost"])},
    "answer": _answer,
    "handled": lambda values: values | {"error": values["error"] and _error(values["error"])},
    "presence_snapshot": _presence,
    "presence_diff": _presence,
}


@pytest.mark.parametrize("row", rows("server_frames.json"))
def test_frame_of_the_server_is_read(row: dict[str, Any]) -> None:
    expected = dict(row["frame"])
    if expected["kind"] == "joined":
        del expected["outcome"]  # the client needs no more than the frame of lost, which comes before
    assert described(frames.read(content(row))) == expected


@pytest.mark.parametrize("row", rows("server_malformed.json"))
def test_malformed_frame_of_the_server_is_refused(row: dict[str, Any]) -> None:
    with pytest.raises(frames.FrameError):
        frames.read(content(row))


WRITERS: dict[str, Callable[[dict[str, Any]], str | bytes]] = {
    "message": lambda f: writing.message(
        bytes.fromhex(f["bytes"]) if "bytes" in f else f["data"], f["number"]
    ),
    "request": lambda f: writing.request(f["number"], f["name"], f["data"]),
    "answer": lambda f: writing.answer(f["number"], f["data"]),
    "error_answer": lambda f: writing.error_answer(
        f["number"], RequestFailedError(f["code"], f["message"], retry=f["retry"])
    ),
    "cancel": lambda f: writing.cancel(f["number"]),
    "join": lambda f: writing.join(f["room"], f["number"]),
    "leave": lambda f: writing.leave(f["room"], f["number"]),
    "mailbox_read": lambda f: writing.mailbox_read(f["id"]),
    "watch": lambda f: writing.watch(f["room"], f["version"]),
    "unwatch": lambda f: writing.watch(f["room"], None),
    "renewal": lambda f: writing.renewal(f["token"], f["number"]),
    "resume": lambda f: writing.resume(cursor_text(f["cursor"])),
    "probe": lambda f: writing.PROBE,
    "alive": lambda f: writing.ALIVE,
}


@pytest.mark.parametrize(
    "row", [row for row in rows("client_frames.json") if not row.values[0].get("only_read")]
)
def test_frame_of_the_client_is_written(row: dict[str, Any]) -> None:
    assert WRITERS[row["frame"]["kind"]](row["frame"]) == content(row)


def cursor_text(cursor: dict[str, Any]) -> str:
    """Return the cursor of a client that received ``hi`` with these positions."""
    at = frames.Positions(cursor["rooms"], cursor["everybody"], cursor["mailbox"])
    hi = frames.Hi(1, "ann", cursor["session"], cursor["t"], 25, False, None, None, None, (), at)
    place = Place()
    place.begin(hi, had_cursor=False)
    text = place.cursor()
    assert text is not None
    return text


def is_written(row: dict[str, Any]) -> bool:
    return not row.get("only_read") and "error" not in row


@pytest.mark.parametrize("row", [row for row in rows("cursors.json") if is_written(row.values[0])])
def test_cursor_is_written(row: dict[str, Any]) -> None:
    assert cursor_text(row["cursor"]) == content(row)


@pytest.mark.parametrize(
    "row",
    [
        row
        for row in rows("offers.json")
        if is_written(row.values[0])
        and row.values[0]["offer"]
        and row.values[0]["items"][0] == "stabilizer.v1"
    ],
)
def test_offer_is_written(row: dict[str, Any]) -> None:
    offered = row["offer"]
    cursor = "{}" if offered["later"] else offered["cursor"]
    items, _ = offer(cursor, offered["token"], later=offered["later"])
    assert list(items) == row["items"]


def test_cursor_that_makes_the_header_too_long_is_sent_later() -> None:
    longest = 4096 - len("stabilizer.v1, stabilizer.v1.resume.")
    cursor = "x" * (longest * 3 // 4)
    items, is_first = offer(cursor, None, later=False)
    assert (len(", ".join(items)), is_first) == (4096, False)
    assert offer(cursor + "x", None, later=False) == (("stabilizer.v1", "stabilizer.v1.resume.later"), True)


def test_token_that_makes_the_header_too_long_is_refused() -> None:
    with pytest.raises(InvalidDataError, match=r"the limit is 4096: send it in another way"):
        offer(None, "x" * 4096, later=False)


def test_items_have_no_padding() -> None:
    items, _ = offer("ü", "a", later=False)
    assert items == ("stabilizer.v1", "stabilizer.v1.auth.YQ", "stabilizer.v1.resume.w7w")
    assert base64.urlsafe_b64decode("w7w=").decode() == "ü"


@pytest.mark.parametrize("row", rows("closes.json"))
def test_close_code_has_its_reaction(row: dict[str, Any]) -> None:
    reaction = react(row["code"], row["reason"], row.get("own_sessions", ()))
    hint_ms = None if reaction.after_s is None else reaction.after_s * 1000
    assert (reaction.do, hint_ms) == (row["do"], row.get("after_ms"))


REFUSED_DATA = ("depth", "number", "size")


def data_of(row: dict[str, Any]) -> Any:
    """Return the data of a message that the server refuses, or None if no application can ask for it."""
    try:
        return (
            json.loads(content(row))["m"]
            if row["error"] in REFUSED_DATA or "surrogate" in row["name"]
            else None
        )
    except (ValueError, RecursionError):
        return None


@pytest.mark.parametrize(
    "row", [row for row in rows("client_malformed.json") if data_of(row.values[0]) is not None]
)
def test_data_that_the_server_would_refuse_is_not_sent(row: dict[str, Any]) -> None:
    with pytest.raises(InvalidDataError):
        writing.check_data(data_of(row), 1_000_000)
