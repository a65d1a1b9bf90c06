"""Durations that applications give as arguments."""

import math

from ..exceptions import ConfigurationError


def positive_seconds(what: str, value: object) -> float:
    """Return a positive, finite number of seconds.

    Raises:
        ConfigurationError: It is something else; the message names the argument, and has the value.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            seconds = float(value)
        except OverflowError:  # an integer of more than 308 digits
            seconds = math.inf
        if 0 < seconds < math.inf:
            return seconds
    raise ConfigurationError(f"{what} must be a positive number of seconds, got {value!r:.80}")
