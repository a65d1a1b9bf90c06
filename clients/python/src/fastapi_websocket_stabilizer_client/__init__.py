"""Client of the WebSocket subprotocol ``stabilizer.v1``: nothing is missed across reconnects."""

from .client import Client
from .errors import (
    ClosedError,
    IncompatibleServerError,
    InterruptedRequestError,
    InvalidDataError,
    LimitError,
    NotConnectedError,
    ReplacedError,
    RequestFailedError,
    RequestTimeoutError,
    StabilizerClientError,
    UnauthorizedError,
)
from .messages import EVERYBODY, MAILBOX, Lost, Message, Status, StatusChange
from .rooms import Room

__all__ = [
    "Client", "Room", "Message", "Lost", "Status", "StatusChange", "MAILBOX", "EVERYBODY",
    "StabilizerClientError", "ClosedError", "IncompatibleServerError", "UnauthorizedError", "ReplacedError",
    "NotConnectedError", "InterruptedRequestError", "RequestTimeoutError", "RequestFailedError", "LimitError",
    "InvalidDataError",
]  # fmt: skip
