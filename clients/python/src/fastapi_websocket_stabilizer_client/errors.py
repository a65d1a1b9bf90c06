"""Errors of the client.

::

    StabilizerClientError
    ├── ClosedError                  the client has ended and does not connect again
    │   ├── IncompatibleServerError  the server does not speak this protocol
    │   ├── UnauthorizedError        the server refused the credentials
    │   └── ReplacedError            a newer connection of the same client took the place
    ├── NotConnectedError            no connection is open, or none was opened in time
    ├── InterruptedRequestError      the connection ended before the answer came
    ├── RequestTimeoutError          no answer or confirmation came in time
    ├── RequestFailedError           the other side answered with an error
    ├── LimitError                   too much is waiting
    └── InvalidDataError             the data cannot be sent
"""


class StabilizerClientError(Exception):
    """Base of all errors of this package."""


class ClosedError(StabilizerClientError):
    """The client has ended, by ``close()`` or by a close code that forbids another attempt.

    Attributes:
        code: The close code of the server, or None.
        reason: Its reason, or "".
    """

    def __init__(self, message: str, *, code: int | None = None, reason: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason


class IncompatibleServerError(ClosedError):
    """The server does not speak ``stabilizer.v1``, or speaks another version of it."""


class UnauthorizedError(ClosedError):
    """The server refused the credentials, and newer ones as well if ``auth`` is a function."""


class ReplacedError(ClosedError):
    """A newer connection of the same client took the place of this one.

    The client does not connect again by itself, or the two would replace each other without end.
    """


class NotConnectedError(StabilizerClientError):
    """No connection is open, so nothing was sent."""


class InterruptedRequestError(StabilizerClientError):
    """The connection ended before the answer came. The request may have been carried out."""


class RequestTimeoutError(StabilizerClientError):
    """No answer or confirmation came in time. The request or message may have been handled."""


class RequestFailedError(StabilizerClientError):
    """An error answer. A handler of requests raises it to answer with an error.

    Attributes:
        code: The error for programs, such as "not_found".
        message: The error for people.
        retry: Whether the same request may succeed later.
    """

    def __init__(self, code: str, message: str, *, retry: bool = False) -> None:
        super().__init__(f"{message} ({code})")
        self.code = code
        self.message = message
        self.retry = retry


class LimitError(StabilizerClientError):
    """Too many requests or messages are waiting, so this one was not sent."""


class InvalidDataError(StabilizerClientError):
    """The data cannot be sent: it is no JSON, too deep or too large, or a name is illegal."""
