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


async def test_lifespan_redacts_and_its_end_leaves_the_loggers_as_they_were() -> None:
    loggers = [logging.getLogger(name) for name in UVICORN_LOGGERS]
    before = [list(logger.filters) for logger in loggers]
    async with WebSocketConnectionManager().lifespan(FastAPI()):
        added = [logger.filters[-1] for logger in loggers]
    assert [type(each) for each in added] == [TokenFilter] * len(loggers)
    assert [logger.filters for logger in loggers] == before
