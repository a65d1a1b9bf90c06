"""Rows of all nodes as tables."""

from collections.abc import Sequence

from ..models import ConnectionView
from ..observe.looking import Shown
from ..observe.text import duration, size, table


def connections_as_text(shown: Shown) -> str:
    """Return what ``stabilizer conns`` prints."""
    head = ("CLIENT", "CONNECTION", "NODE", "OPEN", "HEARD", "PING", "OUTBOX", "ROOMS", "STATE")
    return table(head, [_connection(shown, view) for view in shown.rows])


def _connection(shown: Shown, view: ConnectionView) -> Sequence[str]:
    states = {
        "slow": view.queued_bytes > 0 or view.is_behind,
        "silent": view.is_asked,
        "parked": view.is_parked,
        f"expires in {duration(max(0.0, view.expires_s or 0.0))}": view.expires_s is not None,
    }
    return (
        view.client_id,
        view.connection_id,
        shown.name(view.node),
        duration(view.open_s),
        f"{duration(view.silent_s)} ago",
        "-" if view.ping_s is None else duration(view.ping_s),
        size(view.queued_bytes),
        str(view.room_count),
        ", ".join(name for name, holds in states.items() if holds) or "-",
    )


def closed_as_text(shown: Shown) -> str:
    """Return what ``stabilizer closed`` prints."""
    head = ("AT", "CLIENT", "NODE", "CAUSE", "CODE", "OPEN", "HEARD", "OUTBOX", "REASON", "ERROR")
    return table(
        head,
        [
            (
                f"{end.at:%Y-%m-%d %H:%M:%S}",
                end.client_id,
                shown.name(end.node),
                end.cause.value,
                str(end.code),
                duration(end.lasted_s),
                f"{duration(end.silent_s)} before",
                size(end.queued_bytes),
                end.reason or "-",
                end.error or "-",
            )
            for end in shown.rows
        ],
    )


def rooms_as_text(shown: Shown) -> str:
    """Return what ``stabilizer rooms`` prints."""
    rows = [(room.room, f"{room.connections:,}", str(room.nodes)) for room in shown.rows]
    return table(("ROOM", "CONNS", "NODES"), rows)
