"""Line charts as SVG: a figure along an axis that grows, both scales logarithmic or linear. Pure."""

from collections.abc import Iterable, Sequence
from html import escape
from math import ceil, floor, log10
from typing import NamedTuple

WIDTH, HEIGHT = 300, 230
"""Of a panel, in pixels."""
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 34, 40
"""Margins around the plot of a panel."""
MARKER_RADIUS = 3.5
LABEL_WIDTH = 18
TICKS = 4
FONT = "system-ui, -apple-system, 'Segoe UI', sans-serif"
SURFACE, TEXT, QUIET_TEXT, GRID = "#ffffff", "#1f2328", "#59636e", "#e4e7ea"
COLOURS = ("#2a6fdb", "#c2570c")
"""The colours of the first and second line: distinct without red and green, and each line has a label."""


class Line(NamedTuple):
    """A line of a panel, with a value at each place of the axis."""

    name: str
    values: Sequence[float]


class Panel(NamedTuple):
    """A chart of one unit."""

    title: str
    lines: Sequence[Line]


class Scale(NamedTuple):
    """From a value to pixels."""

    low: float
    high: float
    start: float
    end: float
    is_logarithmic: bool

    def at(self, value: float) -> float:
        low, high, here = (
            (log10(self.low), log10(self.high), log10(value))
            if self.is_logarithmic
            else (self.low, self.high, value)
        )
        share = (here - low) / (high - low) if high > low else 0.5
        return self.start + share * (self.end - self.start)


def draw(label: str, places: Sequence[float], panels: Sequence[Panel]) -> str:
    """Panels side by side, over the same axis."""
    width = WIDTH * len(panels)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {HEIGHT}" width="{width}"'
        f' height="{HEIGHT}" font-family="{FONT}" font-size="11" role="img" aria-label="{escape(label)}">',
        f'<rect width="{width}" height="{HEIGHT}" fill="{SURFACE}"/>',
    ]
    for number, panel in enumerate(panels):
        parts += [f'<g transform="translate({number * WIDTH} 0)">', *_panel(label, places, panel), "</g>"]
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(label: str, places: Sequence[float], panel: Panel) -> Iterable[str]:
    across = _across(places)
    values = [value for line in panel.lines for value in line.values]
    up = _up(values)
    yield _text(LEFT, 16, panel.title, fill=TEXT, weight="600")
    for tick in _ticks(up):
        y = up.at(tick)
        yield f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="{GRID}"/>'
        yield _text(LEFT - 6, y + 4, short(tick), anchor="end")
    for place in _labelled(places, across):
        yield _text(across.at(place), HEIGHT - BOTTOM + 16, short(place), anchor="middle")
    yield _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, label, anchor="middle")
    for line, colour in zip(panel.lines, COLOURS, strict=False):
        yield from _line(line, places, across, up, colour)
    if len(panel.lines) > 1:
        yield from _legend(panel.lines)


def _line(line: Line, places: Sequence[float], across: Scale, up: Scale, colour: str) -> Iterable[str]:
    points = [(across.at(place), up.at(value)) for place, value in zip(places, line.values, strict=True)]
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    yield f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2" stroke-linejoin="round"/>'
    for (x, y), place, value in zip(points, places, line.values, strict=True):
        title = f"<title>{escape(line.name)}, {short(place)}: {short(value)}</title>"
        yield (
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{MARKER_RADIUS}" fill="{colour}" stroke="{SURFACE}">'
            f"{title}</circle>"
        )


def _legend(lines: Sequence[Line]) -> Iterable[str]:
    x = WIDTH - RIGHT
    for line, colour in reversed(list(zip(lines, COLOURS, strict=False))):
        yield _text(x, 29, line.name, anchor="end")
        x -= 6 * len(line.name) + 12
        yield f'<circle cx="{x + 5}" cy="25" r="{MARKER_RADIUS}" fill="{colour}"/>'
        x -= 8


def _across(places: Sequence[float]) -> Scale:
    is_logarithmic = min(places) > 0 and max(places) / min(places) > 10  # noqa: PLR2004 - a decade
    return Scale(min(places), max(places), LEFT + 10, WIDTH - RIGHT - 10, is_logarithmic)


def _up(values: Sequence[float]) -> Scale:
    """From zero, or by decades where the values span more than one."""
    low, high = min(values), max(values)
    bottom, top = HEIGHT - BOTTOM, TOP
    if low > 0 and high / low > 10:  # noqa: PLR2004 - a decade
        return Scale(10 ** floor(log10(low)), 10 ** ceil(log10(high)), bottom, top, True)
    step = _step(high or 1.0)
    return Scale(0.0, ceil((high or 1.0) / step) * step, bottom, top, False)


def _ticks(scale: Scale) -> list[float]:
    if scale.is_logarithmic:
        first, last = round(log10(scale.low)), round(log10(scale.high))
        return [10.0**power for power in range(first, last + 1)]
    step = _step(scale.high)
    return [step * number for number in range(round(scale.high / step) + 1)]


def _step(high: float) -> float:
    """A round number that is contained in `high` about `TICKS` times."""
    rough = high / TICKS
    power = 10.0 ** floor(log10(rough))
    return next(factor * power for factor in (1.0, 2.0, 2.5, 5.0, 10.0) if factor * power >= rough * 0.999)


def short(value: float) -> str:
    """A number in few characters: 1.5M, 20k, 385, 0.25."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def _labelled(places: Sequence[float], across: Scale) -> list[float]:
    """The places whose labels have room beside the one before."""
    found: list[float] = []
    for place in places:
        if not found or across.at(place) - across.at(found[-1]) >= LABEL_WIDTH:
            found.append(place)
    return found


def _text(
    x: float, y: float, text: str, *, anchor: str = "start", fill: str = QUIET_TEXT, weight: str = ""
) -> str:
    bold = f' font-weight="{weight}"' if weight else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{fill}"{bold}>{escape(text)}</text>'
