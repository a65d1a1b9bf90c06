"""Logging: release 1.1's helpers, and the logger of one manager."""

import logging
import time
from typing import Any

ROOT = "fastapi_websocket_stabilizer"


def get_logger(name: str) -> logging.Logger:
    """Return the logger ``fastapi_websocket_stabilizer.<name>``."""
    return logging.getLogger(f"{ROOT}.{name}")


def configure_logging(level: str = "INFO") -> None:
    """Print this library's log to stderr from ``level`` on; calling it again changes the level only."""
    logger = logging.getLogger(ROOT)
    logger.setLevel(level.upper())
    if not any(type(handler) is logging.StreamHandler for handler in logger.handlers):
        handler = logging.StreamHandler()
        handler.setFormatter(
            logging.Formatter("%(asctime)s - %(name)s - %(levelname)s - %(message)s", "%Y-%m-%d %H:%M:%S")
        )
        logger.addHandler(handler)


def manager_logger(level: str) -> logging.Logger:
    """Return a logger of its own for one manager, so that ``log_level`` of one does not mute another.

    It is not in logging's table (which never forgets), and hands its records to this library's logger.
    """
    logger = logging.Logger(f"{ROOT}.manager", level)
    logger.parent = logging.getLogger(ROOT)
    return logger


class Occasionally:
    """Logs a warning at most once a minute: whoever sends us garbage must not fill the log with it."""

    EVERY_S = 60.0

    def __init__(self, logger: logging.Logger) -> None:
        self._logger, self._again_at_s = logger, 0.0

    def log(self, message: str, **extra: object) -> None:
        """Log ``message`` with ``extra`` unless something was logged within the last minute."""
        now_s = time.monotonic()
        if now_s >= self._again_at_s:
            self._again_at_s = now_s + self.EVERY_S
            self._logger.warning(message, extra=extra)


class StructuredLogger:
    """Writes one ``[WS_…] key=value …`` line per event."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger

    def log_connection(self, event: str, client_id: str, **kwargs: Any) -> None:
        """Log at INFO that a connection came, went or failed."""
        self._log(logging.INFO, "WS_CONNECTION", event=event, client_id=client_id, **kwargs)

    def log_broadcast(self, total: int, succeeded: int, failed: int, **kwargs: Any) -> None:
        """Log at INFO what a broadcast did."""
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
