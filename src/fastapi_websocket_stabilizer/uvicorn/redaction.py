"""Redaction of reconnect tokens in uvicorn's logs, which contain the query string of every request."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from ..wire.tokens import PATTERN

UVICORN_LOGGERS = ("uvicorn.access", "uvicorn.error", "uvicorn.asgi")
"""Loggers of handshakes and HTTP requests and, at the levels debug and trace, of whole requests."""
REDACTED = "<reconnect token>"


class TokenFilter(logging.Filter):
    """Replaces reconnect tokens in the arguments of log records, in any parameter or path.

    Attributes:
        users: One object for each block of ``tokens_redacted``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.users: set[object] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Redact the record, and return True so that it is logged."""
        if isinstance(record.args, tuple):  # the formatter of uvicorn.access relies on their number
            record.args = tuple(_redacted(value) for value in record.args)
        return True


def _redacted(value: object) -> object:
    text = str(value)
    redacted = PATTERN.sub(REDACTED, text)
    return value if redacted == text else redacted


_token_filter = TokenFilter()


@contextmanager
def tokens_redacted() -> Iterator[None]:
    """Redact tokens in uvicorn's logs during the block. Blocks may overlap, because managers do."""
    loggers = [logging.getLogger(name) for name in UVICORN_LOGGERS]
    user = object()
    _token_filter.users.add(user)
    for logger in loggers:
        logger.addFilter(_token_filter)
    try:
        yield
    finally:
        _token_filter.users.discard(user)
        if not _token_filter.users:
            for logger in loggers:
                logger.removeFilter(_token_filter)
