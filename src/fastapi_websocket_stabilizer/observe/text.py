"""Text for people: tables, durations, sizes and numbers."""

from collections.abc import Sequence

from ..names import printable

_UNITS = (("d", 86400), ("h", 3600), ("m", 60))
_SIZES = (("GB", 1_000_000_000), ("MB", 1_000_000), ("kB", 1000))


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return rows below their heads, each column as wide as its longest cell."""
    lines = [tuple(head), *(tuple(map(printable, row)) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def duration(seconds: float) -> str:
    """Return seconds as people read them: "3d02h", "2h11m", "4m09s", "12s", "41ms"."""
    if seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    if seconds < 60:
        return f"{seconds:.0f}s"
    names = [*(name for name, _ in _UNITS), "s"]
    for (name, length), small in zip(_UNITS, names[1:], strict=True):
        if seconds >= length:
            whole, rest = divmod(int(seconds), length)
            below = dict(_UNITS).get(small, 1)
            return f"{whole}{name}{rest // below:02d}{small}"
    return ""


def size(count: float) -> str:
    """Return bytes as people read them: "912 kB"."""
    for unit, length in _SIZES:
        if count >= length:
            return f"{count / length:.1f} {unit}"
    return f"{count:.0f} B"


def counted(count: float, thing: str) -> str:
    """Return a number with its noun: "1 node", "2 nodes"."""
    return f"{count:,.0f} {thing}" + ("" if count == 1 else "s")
