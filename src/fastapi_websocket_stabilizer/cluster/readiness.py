"""What /readyz says of Redis: should new clients be sent here, and what would they miss?"""

from .context import Context


def unready(context: Context) -> str | None:
    """Why new clients should not be sent here; None when they should."""
    if context.is_away:
        return None if context.degrades else "Redis does not answer"
    # Nobody could reach them, and they would look connected.
    return "the bus is deaf: nothing of other nodes arrives" if context.backend.is_deaf else None


def degraded(context: Context) -> str | None:
    """What does not work while we are ready all the same; None when all does."""
    if context.is_away or not context.backend.is_connected:
        return "no Redis: only clients of this node are reached"
    return None
