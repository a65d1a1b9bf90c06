"""Reconnect tokens in uvicorn's log records."""

import logging
from datetime import timedelta
from urllib.parse import quote

import pytest
from fastapi import FastAPI

from fastapi_websocket_stabilizer import WebSocketConnectionManager
from fastapi_websocket_stabilizer.uvicorn.redaction import REDACTED, UVICORN_LOGGERS, TokenFilter
from fastapi_websocket_stabilizer.wire.tokens import TokenSigner

TOKENS = [TokenSigner(b"secret").sign(name, timedelta(hours=1))[0] for name in ("ann", "", "ä.b:c" * 100)]


def logged(*arguments: object) -> tuple[object, ...]:
    record = logging.LogRecord("uvicorn.access", logging.INFO, __file__, 1, "%s", arguments, None)
    assert TokenFilter().filter(record)
    assert isinstance(record.args, tuple)
    return record.args


@pytest.mark.parametrize("token", TOKENS)
@pytest.mark.parametrize("shape", ["/ws?token={}", "/ws?room=tea&resume={}&n=1", "/back/{}/now", "{}"])
def test_token_is_redacted_wherever_it_stands(token: str, shape: str) -> None:
    escaped = shape.format(token.replace(".", "%2E"))
    assert logged("1.2.3.4:5", shape.format(token), 200) == ("1.2.3.4:5", shape.format(REDACTED), 200)
    assert logged(escaped) == (shape.format(REDACTED),)
    scope, redacted = [{"query_string": shape.format(each).encode()} for each in (token, REDACTED)]
    assert logged(1, scope) == (1, str(redacted))


@pytest.mark.parametrize(
    "text", ["/ws?token=abc", "/files/1.2.3.4", "/v/1700000000000.0a.b.c", quote("ä.ö.ü.ß")]
)
def test_other_text_is_left_alone(text: str) -> None:
    assert logged(text, 1, None) == (text, 1, None)


def filters() -> list[list[object]]:
    return [list(logging.getLogger(name).filters) for name in UVICORN_LOGGERS]


def is_redacting() -> bool:
    """Whether all loggers have the filter, each of them once."""
    return all([type(each) for each in chain].count(TokenFilter) == 1 for chain in filters())


async def test_lifespan_redacts_and_its_end_leaves_the_loggers_as_they_were() -> None:
    before = filters()
    async with WebSocketConnectionManager().lifespan(FastAPI()):
        assert is_redacting()
    assert filters() == before


async def test_manager_redacts_from_start_to_shutdown_without_its_lifespan() -> None:
    """As in release 1.1, where the application's own lifespan calls both."""
    before = filters()
    one, two = WebSocketConnectionManager(), WebSocketConnectionManager()
    await one.start()
    await two.start()
    await one.graceful_shutdown()
    assert is_redacting()
    await two.graceful_shutdown()
    assert filters() == before
    await two.start()
    assert is_redacting()
    await two.graceful_shutdown()
    assert filters() == before
