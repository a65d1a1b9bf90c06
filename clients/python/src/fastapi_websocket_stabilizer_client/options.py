"""Settings of the machine."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Bounds of a client.

    Attributes:
        has_auth: Whether each attempt begins with getting credentials.
        can_renew: Whether newer credentials can be had.
        attempt_timeout_s: Seconds from the opening of a socket to ``hi``, and for getting credentials.
        max_message_bytes: Longest message or request that is sent, in bytes.
        max_unconfirmed: Messages that are kept until they are confirmed.
        max_unconfirmed_bytes: Their data in bytes.
        max_held: Frames of the old socket that wait until the next socket is ready.
    """

    has_auth: bool = False
    can_renew: bool = False
    attempt_timeout_s: float = 10.0
    max_message_bytes: int = 1_000_000
    max_unconfirmed: int = 1000
    max_unconfirmed_bytes: int = 1_048_576
    max_held: int = 10_000
