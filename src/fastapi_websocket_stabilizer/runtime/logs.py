"""Logging: release 1.1's helpers, and the logger of one manager."""

import logging
import sys
import time
from typing import Any

ROOT = "fastapi_websocket_stabilizer"
EVENTS = "connections"
"""Name of the logger with a line for each connection. These lines appear only if logging is configured."""
_OF_ANY_RECORD = {*vars(logging.makeLogRecord({})), "message", "asctime"}


class Line(logging.Formatter):
    """Time, logger, level and message of a record, followed by its ``extra`` values."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s - %(name)s - %(levelname)s - %(message)s", "%Y-%m-%d %H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Return the line without the traceback."""
        extra = [f" {key}={_line(value)}" for key, value in vars(record).items() if key not in _OF_ANY_RECORD]
        return super().formatMessage(record) + "".join(extra)


def _line(value: object) -> str:
    """Return a value as part of one line. Otherwise foreign input with a line break could forge a log line."""
    text = str(value)
    return text if text.isprintable() else repr(text)


class Fallback(logging.Handler):
    """Prints this library's log to stderr while the application has no handler for it.

    Otherwise Python would print bare messages. Uvicorn and ``fastapi run`` configure only their own loggers.
    """

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(Line())

    def filter(self, record: logging.LogRecord) -> bool:
        """Skip records that another handler prints, and the line for each connection."""
        is_seldom = record.levelno >= logging.WARNING or record.name != f"{ROOT}.{EVENTS}"
        return is_seldom and not self._is_doubled() and bool(super().filter(record))

    def _is_doubled(self) -> bool:
        logger = logging.getLogger(ROOT)
        return logger.handlers != [self] or not logger.propagate or logging.root.hasHandlers()

    def emit(self, record: logging.LogRecord) -> None:
        """Write to the current ``sys.stderr``, which may have been replaced since the import."""
        try:
            sys.stderr.write(self.format(record) + "\n")
        except Exception:  # noqa: BLE001 - a failed log line must not break the code that logs
            self.handleError(record)


logging.getLogger(ROOT).addHandler(Fallback())


def get_logger(name: str) -> logging.Logger:
    """Return the logger ``fastapi_websocket_stabilizer.<name>``."""
    return logging.getLogger(f"{ROOT}.{name}")


def configure_logging(level: str = "INFO") -> None:
    """Print this library's log to stderr from ``level`` on. Further calls change only the level."""
    logger = logging.getLogger(ROOT)
    logger.setLevel(level.upper())
    if not any(type(handler) is logging.StreamHandler for handler in logger.handlers):
        handler = logging.StreamHandler()
        handler.setFormatter(Line())
        logger.addHandler(handler)


def manager_logger(level: str, name: str = "manager") -> logging.Logger:
    """Return a separate logger for one manager, so that its ``log_level`` does not mute other managers.

    The logger is not in the table of ``logging``, which never frees its entries. Its parent is this library's
    logger.
    """
    logger = logging.Logger(f"{ROOT}.{name}", level)
    logger.parent = logging.getLogger(ROOT)
    return logger


class Occasionally:
    """Logs a warning at most once a minute. Otherwise a client could fill the log with malformed input."""

    EVERY_S = 60.0

    def __init__(self, logger: logging.Logger) -> None:
        self._logger, self._again_at_s = logger, 0.0

    def log(self, message: str, **extra: object) -> None:
        """Log ``message`` with ``extra``, unless a warning was logged within the last minute."""
        now_s = time.monotonic()
        if now_s >= self._again_at_s:
            self._again_at_s = now_s + self.EVERY_S
            self._logger.warning(message, extra=extra)


class StructuredLogger:
    """Writes one ``[WS_…] key=value …`` line per event."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger

    def log_connection(self, event: str, client_id: str, **kwargs: Any) -> None:
        """Log at INFO that a connection was opened, was closed or failed."""
        self._log(logging.INFO, "WS_CONNECTION", event=event, client_id=client_id, **kwargs)

    def log_broadcast(self, total: int, succeeded: int, failed: int, **kwargs: Any) -> None:
        """Log the result of a broadcast at INFO."""
        self._log(logging.INFO, "WS_BROADCAST", total=total, succeeded=succeeded, failed=failed, **kwargs)

    def log_heartbeat(self, event: str, client_id: str, **kwargs: Any) -> None:
        """Log a ping, a pong or a timeout at DEBUG."""
        self._log(logging.DEBUG, "WS_HEARTBEAT", event=event, client_id=client_id, **kwargs)

    def log_token(self, event: str, client_id: str, **kwargs: Any) -> None:
        """Log at INFO that a reconnect token was issued or redeemed (never the token)."""
        self._log(logging.INFO, "WS_TOKEN", event=event, client_id=client_id, **kwargs)

    def log_error(self, error_type: str, client_id: str, error_message: str, **kwargs: Any) -> None:
        """Log an error of one client at ERROR."""
        self._log(
            logging.ERROR,
            "WS_ERROR",
            error_type=error_type,
            client_id=client_id,
            error=error_message,
            **kwargs,
        )

    def _log(self, level: int, tag: str, /, **fields: Any) -> None:
        if self._logger.isEnabledFor(level):
            text = " ".join(f"{key}={value}" for key, value in fields.items())
            self._logger.log(level, "[%s] %s", tag, text)
