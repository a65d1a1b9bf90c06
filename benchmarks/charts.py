"""Small SVG charts, readable on light and dark pages."""

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

WIDTH, BAR, GAP, TOP = 760, 20, 8, 44
LABELS, VALUES = 285, 110
OURS, OTHERS, INK, RULE = "#0b7a75", "#9aa5b1", "#1f2933", "#d9dee3"
FONT = 'font-family="system-ui, sans-serif" font-size="13"'


class Bar(NamedTuple):
    """One bar: its name, its length with the words for it, whether it is ours."""

    name: str
    value: float
    shown: str
    is_ours: bool


class Line(NamedTuple):
    """One line: its name and its points."""

    name: str
    points: Sequence[tuple[float, float]]


def bars(title: str, given: Sequence[Bar]) -> str:
    """Return a bar chart, all bars from zero."""
    most = max(bar.value for bar in given)
    room = WIDTH - LABELS - VALUES
    parts = []
    for index, bar in enumerate(given):
        y, length = TOP + index * (BAR + GAP), room * bar.value / most
        weight = ' font-weight="bold"' if bar.is_ours else ""
        parts += [
            f'<text x="{LABELS - 8}" y="{y + 15}" text-anchor="end"{weight}>{escape(bar.name)}</text>',
            _rectangle(LABELS, y, max(1.0, length), OURS if bar.is_ours else OTHERS),
            f'<text x="{LABELS + length + 6:.1f}" y="{y + 15}"{weight}>{escape(bar.shown)}</text>',
        ]
    return _page(title, TOP + len(given) * (BAR + GAP) + 8, parts)


def lines(title: str, across: str, given: Sequence[Line]) -> str:
    """Return a line chart from zero up; the horizontal axis is logarithmic."""
    height, left, right, bottom = 300, 60, WIDTH - 170, 250
    points = [point for line in given for point in line.points]
    low, high = (math.log10(edge(x for x, _ in points)) for edge in (min, max))
    most = max(y for _, y in points) * 1.1

    def at(x: float, y: float) -> tuple[float, float]:
        share = (math.log10(x) - low) / ((high - low) or 1)
        return left + share * (right - left), bottom - y / most * (bottom - TOP)

    parts = [f'<path d="M{left} {TOP}V{bottom}H{right}" fill="none" stroke="{RULE}"/>']
    parts.append(
        f'<text x="{(left + right) / 2}" y="{height - 12}" text-anchor="middle">{escape(across)}</text>'
    )
    parts += [
        f'<text x="{at(x, 0)[0]:.1f}" y="{bottom + 18}" text-anchor="middle">{x:,.0f}</text>'
        for x in sorted({x for x, _ in points})
    ]
    for share in (0.0, 0.5, 1.0):
        y = most * share
        parts.append(f'<text x="{left - 6}" y="{at(1, y)[1] + 4:.1f}" text-anchor="end">{y:.3g}</text>')
    for line, colour in zip(given, (OURS, "#c2571a", "#5b5fc7", "#9aa5b1"), strict=False):
        drawn = " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(*point) for point in line.points))
        end = at(*line.points[-1])
        parts.append(f'<polyline points="{drawn}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(
            f'<text x="{end[0] + 8:.1f}" y="{end[1] + 4:.1f}" fill="{colour}">{escape(line.name)}</text>'
        )
    return _page(title, height, parts)


def _rectangle(x: float, y: float, width: float, colour: str) -> str:
    return f'<rect x="{x}" y="{y}" width="{width:.1f}" height="{BAR}" fill="{colour}"/>'


def _page(title: str, height: int, parts: Sequence[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" role="img" {FONT}>'
    back = f'<rect width="{WIDTH}" height="{height}" rx="6" fill="#ffffff"/>'
    name = f'<title>{escape(title)}</title><text x="16" y="26" font-size="15">{escape(title)}</text>'
    return "\n".join([head, back, f'<g fill="{INK}">', name, *parts, "</g>", "</svg>", ""])
