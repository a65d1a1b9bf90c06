"""Reconnect tokens: what was signed comes back, and nothing else does."""

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fastapi_websocket_stabilizer.exceptions import InvalidTokenError, TokenExpiredError
from fastapi_websocket_stabilizer.names import MAX_NAME_BYTES
from fastapi_websocket_stabilizer.wire.tokens import MAX_TOKEN_LENGTH, TokenSigner
from tests.unit.strategies import legal_names

SIGNER = TokenSigner(b"a secret of sixteen bytes or more")
HOUR = timedelta(hours=1)
TOKEN, DIGEST = SIGNER.sign("a.b:{ü}", HOUR)


@given(legal_names)
def test_token_says_who_it_was_made_for(client_id: str) -> None:
    token, digest = SIGNER.sign(client_id, HOUR)
    ticket = SIGNER.read(token)
    assert (ticket.client_id, ticket.digest, ticket.is_long_past) == (client_id, digest, False)
    assert ticket.expired < timedelta(0)


@pytest.mark.parametrize(("ago_s", "is_long_past"), [(1, False), (59, False), (61, True)])
def test_token_is_long_past_when_no_clock_of_ours_would_still_take_it(ago_s: int, is_long_past: bool) -> None:
    token, _ = SIGNER.sign("alice", -timedelta(seconds=ago_s))
    ticket = SIGNER.read(token)
    assert (ticket.is_long_past, type(ticket.unredeemed())) == (is_long_past, TokenExpiredError)


@given(legal_names)
def test_token_has_four_parts_and_travels_in_a_url(client_id: str) -> None:
    token, _ = SIGNER.sign(client_id, HOUR)
    assert len(token.split(".")) == 4
    assert token.replace(".", "").replace("-", "").replace("_", "").isalnum()


@given(st.integers(0, len(TOKEN) - 1), st.characters())
def test_token_with_another_character_anywhere_is_refused(position: int, character: str) -> None:
    assume(TOKEN[position] != character)
    with pytest.raises(InvalidTokenError):
        SIGNER.read(TOKEN[:position] + character + TOKEN[position + 1 :])


def test_token_with_one_letter_in_the_other_case_is_refused() -> None:
    positions = [i for i, character in enumerate(TOKEN) if character.swapcase() != character]
    assert positions
    for position in positions:
        with pytest.raises(InvalidTokenError):
            SIGNER.read(TOKEN[:position] + TOKEN[position].swapcase() + TOKEN[position + 1 :])


@given(st.integers(0, len(TOKEN)), st.text(min_size=1, max_size=4))
def test_token_with_more_characters_anywhere_is_refused(position: int, more: str) -> None:
    with pytest.raises(InvalidTokenError):
        SIGNER.read(TOKEN[:position] + more + TOKEN[position:])


@given(st.integers(0, len(TOKEN)), st.integers(0, len(TOKEN)))
def test_part_of_a_token_is_refused(start: int, end: int) -> None:
    assume(TOKEN[:start] + TOKEN[end:] != TOKEN)
    with pytest.raises(InvalidTokenError):
        SIGNER.read(TOKEN[:start] + TOKEN[end:])


@given(st.permutations(TOKEN.split(".")))
def test_parts_of_a_token_in_another_order_are_refused(parts: list[str]) -> None:
    assume(parts != TOKEN.split("."))
    with pytest.raises(InvalidTokenError):
        SIGNER.read(".".join(parts))


def test_parts_of_two_tokens_do_not_make_a_third() -> None:
    theirs = SIGNER.sign("mallory", HOUR)[0].split(".")
    for i, part in enumerate(TOKEN.split(".")):
        mixed = [*theirs[:i], part, *theirs[i + 1 :]]
        with pytest.raises(InvalidTokenError):
            SIGNER.read(".".join(mixed))


@given(st.one_of(st.text(), st.binary(), st.none(), st.integers(), st.lists(st.text())))
def test_anything_else_is_refused(token: object) -> None:
    with pytest.raises(InvalidTokenError):
        SIGNER.read(token)


@pytest.mark.parametrize(
    "token", ["", ".", "...", "....", "x" * 10_000, "1.2.3.é", "a.b.c", None, b"a.b.c.d"]
)
def test_garbage_is_refused(token: Any) -> None:
    with pytest.raises(InvalidTokenError):
        SIGNER.read(token)


def test_altered_token_and_foreign_token_are_told_apart() -> None:
    with pytest.raises(InvalidTokenError, match="was altered"):
        SIGNER.read(TOKEN[:-1] + ("0" if TOKEN[-1] != "0" else "1"))
    with pytest.raises(InvalidTokenError, match="another secret"):
        SIGNER.read(TokenSigner(b"another secret").sign("a", HOUR)[0])


def test_refusal_repeats_no_part_of_the_token() -> None:
    with pytest.raises(InvalidTokenError) as caught:
        SIGNER.read(TOKEN + "0")
    assert not any(part in str(caught.value) for part in TOKEN.split("."))


def test_tokens_of_one_client_differ() -> None:
    tokens = {SIGNER.sign("alice", HOUR) for _ in range(100)}
    assert (len({token for token, _ in tokens}), len({digest for _, digest in tokens})) == (100, 100)


def test_digest_does_not_reveal_the_token() -> None:
    assert DIGEST not in TOKEN
    assert len(DIGEST) == 32


def test_signer_of_the_same_secret_reads_the_token() -> None:
    twin = TokenSigner(b"a secret of sixteen bytes or more")
    assert twin.read(TOKEN).client_id == "a.b:{ü}"


def test_token_of_the_longest_client_id_is_read() -> None:
    token, _ = SIGNER.sign("x" * MAX_NAME_BYTES, timedelta(days=365 * 1000))
    assert SIGNER.read(token).client_id == "x" * MAX_NAME_BYTES
    assert len(token) <= MAX_TOKEN_LENGTH


def test_token_without_a_record_has_expired_or_was_used() -> None:
    past, _ = SIGNER.sign("alice", timedelta(seconds=-1))
    present, _ = SIGNER.sign("alice", HOUR)
    assert isinstance(SIGNER.read(past).unredeemed(), TokenExpiredError)
    assert isinstance(SIGNER.read(present).unredeemed(), InvalidTokenError)


def test_expiry_of_an_altered_token_is_not_believed() -> None:
    past, _ = SIGNER.sign("alice", timedelta(seconds=-1))
    _, rest = past.split(".", 1)
    with pytest.raises(InvalidTokenError):
        SIGNER.read(f"99999999999999.{rest}")
