"""The handshake of ``stabilizer.v1``, the close codes that its clients must know, and the page about both."""

import json
import re
import string
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastapi_websocket_stabilizer.close_codes import CloseCode
from fastapi_websocket_stabilizer.exceptions import ClientInputError
from fastapi_websocket_stabilizer.wire.client_protocol import (
    MAX_HEADER_BYTES,
    SUBPROTOCOL,
    Offer,
    format_offer,
    parse_offer,
)
from fastapi_websocket_stabilizer.wire.cursors import Cursor, parse_cursor
from tests.support.protocol_vectors import vectors
from tests.unit.wire.test_cursors import cursors

PAGE = (Path(__file__).parents[3] / "docs/protocol.md").read_text()
CODES = {"size", "header", "encoding"}
CURSOR = Cursor("s1", 1, {"lobby": 5})
# RFC 9110 §5.6.2: browsers refuse every other character in an item.
TOKEN = set(string.ascii_letters + string.digits + "!#$%&'*+-.^_`|~")


@pytest.mark.parametrize("vector", vectors("offers.json", having="offer"))
def test_offer_is_read_and_written_as_recorded(vector: dict[str, Any]) -> None:
    if (value := vector["offer"]) is None:
        assert parse_offer(vector["items"]) is None
        return
    offer = Offer(value["cursor"], value["later"], value["token"])
    assert parse_offer(vector["items"]) == offer
    if "only_read" not in vector:
        cursor = CURSOR if offer.cursor is None and offer.is_cursor_later else None
        cursor = parse_cursor(offer.cursor) if offer.cursor is not None else cursor
        assert format_offer(cursor, offer.token, later=offer.is_cursor_later) == vector["items"]


@pytest.mark.parametrize("vector", vectors("offers.json", having="error"))
def test_contradictory_offer_raises_the_recorded_code(vector: dict[str, Any]) -> None:
    with pytest.raises(ClientInputError, match=r"Sec-WebSocket-Protocol|stabilizer\.v1") as caught:
        parse_offer(vector["items"])
    assert caught.value.code == vector["error"]


def test_every_code_is_recorded() -> None:
    assert {vector.values[0]["error"] for vector in vectors("offers.json", having="error")} == CODES


@given(st.none() | cursors, st.none() | st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_offer_comes_back(cursor: Cursor | None, token: str | None) -> None:
    items = format_offer(cursor, token)
    assert all(set(item) <= TOKEN for item in items)
    assert len(", ".join(items)) <= MAX_HEADER_BYTES
    offer = parse_offer(items)
    assert offer is not None
    assert offer.token == token
    assert offer.is_cursor_later or offer.cursor == (cursor and cursor.text())


def test_cursor_that_makes_the_header_too_long_comes_in_the_first_frame() -> None:
    long = Cursor("s", 1, {f"a room of many {i}": i for i in range(200)})
    assert format_offer(long) == [SUBPROTOCOL, f"{SUBPROTOCOL}.resume.later"]
    assert format_offer(CURSOR, later=True) == [SUBPROTOCOL, f"{SUBPROTOCOL}.resume.later"]
    token = "x" * 2980
    assert [len(item.split(".")) for item in format_offer(CURSOR, token)] == [2, 4, 4]
    assert len(", ".join(format_offer(CURSOR, token))) <= MAX_HEADER_BYTES


def test_token_that_makes_the_header_too_long_is_an_error() -> None:
    with pytest.raises(ClientInputError, match=r"the token makes a header of \d+ bytes"):
        format_offer(None, "x" * 3100)


@given(st.lists(st.text(max_size=20) | st.sampled_from([SUBPROTOCOL, f"{SUBPROTOCOL}.resume.", "."])))
def test_any_items_are_an_offer_or_the_named_error(items: list[str]) -> None:
    for more in ([], [SUBPROTOCOL, *(f"{SUBPROTOCOL}.auth.{item}" for item in items[:1])]):
        outcome = outcome_of([*items, *more])
        assert outcome in CODES if isinstance(outcome, str) else isinstance(outcome, Offer | None)


def outcome_of(items: list[str]) -> Offer | str | None:
    try:
        return parse_offer(items)
    except ClientInputError as error:
        return error.code


# Close codes


@pytest.mark.parametrize("vector", vectors("closes.json"))
def test_recorded_reaction_is_that_of_the_code(vector: dict[str, Any]) -> None:
    """A client of the protocol also connects again after 1000: proxies send it, and the library sends 4510."""
    code = vector["code"]
    if vector["do"] != "ignore" and code in set(CloseCode) - {CloseCode.NORMAL}:
        assert CloseCode(code).reconnects == (vector["do"] in ("retry", "renew"))
    if code >= 3000 and vector["do"] != "ignore":
        assert (code % 1000 < 500) == (vector["do"] in ("retry", "renew"))


def test_every_code_is_recorded_with_a_reaction() -> None:
    assert {vector.values[0]["code"] for vector in vectors("closes.json")} >= set(CloseCode)


# The page


def test_close_codes_of_the_page_are_recorded_with_the_same_reaction() -> None:
    table = re.findall(r"^\| ([\d, ]+) \| .* \| (.+) \|$", PAGE.partition("## Close codes")[2], re.MULTILINE)
    documented = {int(code): reaction for codes, reaction in table for code in codes.split(",")}
    assert set(documented) >= set(CloseCode)
    for vector in (parameter.values[0] for parameter in vectors("closes.json")):
        reaction = documented.get(vector["code"], "")
        words = {
            "retry": "connects again",
            "renew": "connects again",
            "stop": "stays away",
            "ignore": "ignores it",
        }
        assert not reaction or words[vector["do"]] in reaction, vector["code"]


def test_codes_of_input_that_the_page_has_are_those_that_are_raised() -> None:
    table = PAGE.partition("Input that breaks these rules")[2].partition("### Binary frames")[0]
    recorded = {
        row.values[0]["error"]
        for file in ("client_malformed.json", "offers.json")
        for row in vectors(file, having="error")
    }
    # A cursor that cannot be read does not end the connection.
    assert {*re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE), "cursor"} == recorded


def test_bytes_of_the_page_are_recorded() -> None:
    recorded = {
        row.values[0]["hex"]
        for file in ("server_frames.json", "client_frames.json")
        for row in vectors(file, having="hex")
    }
    examples = re.findall(r"^(0[0134] [0-9a-f ]+?) {2,}\w+ (?:\d+ )?(?:of|message)", PAGE, re.MULTILINE)
    assert len(examples) == 4
    assert {example.replace(" ", "") for example in examples} <= recorded


def test_handshake_of_the_page_offers_its_cursor() -> None:
    (header,) = re.findall(r"> Sec-WebSocket-Protocol: (.+)", PAGE)
    offer = parse_offer(header.split(", "))
    assert offer is not None
    assert parse_cursor(str(offer.cursor)).rooms == {"lobby": 1764396000000123}
    (cursor,) = re.findall(r"^\{\"s\".+$", PAGE, re.MULTILINE)
    assert parse_cursor(cursor).text() == cursor


def test_json_of_the_page_is_json() -> None:
    blocks = [
        json.loads(block) for block in re.findall(r"^```json\n(.+?)^```", PAGE, re.DOTALL | re.MULTILINE)
    ]
    assert [next(iter(block)) for block in blocks] == ["s", "hi"]
