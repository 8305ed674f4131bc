"""Points with names and vertical intervals, as inline SVG."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.report.markup import text
from pipelines.report.plots import WIDTH, linear, nice_ticks, shortened, svg
from pipelines.report.style import NUM_STYLES

_HEIGHT = 250.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 52.0, 12.0, 14.0, 40.0
_LINE = 14.0


@dataclass(frozen=True)
class Point:
    """One point; ``low`` and ``high`` bound its y."""

    name: str
    style: int
    x: float
    y: float
    low: float
    high: float


def scatter(
    name: str, title: str, x_label: str, y_label: str, points: Sequence[Point], note: str = ""
) -> str:
    """Return points over a frame that begins at y = 0; names stand beside them without covering one another.

    Args:
        name: Unique in the page; letters, digits and dashes.
        title: Plain text.
        x_label: The quantity and its unit.
        y_label: The quantity and its unit.
        points: At least one.
        note: Plain text below.
    """
    left, right = min(point.x for point in points), max(point.x for point in points)
    room = 0.08 * (right - left) or 0.5 * abs(right) or 1.0
    low, high, top = left - room, right + room, 1.08 * max(point.high for point in points) or 1.0
    bottom, end = _HEIGHT - _BOTTOM, WIDTH - _RIGHT
    x, y = linear(low, high, _LEFT, end), linear(0.0, top, bottom, _TOP)
    parts = [
        f'<path class="grid" d="M{_LEFT:g} {y(tick):.1f}H{end:g}"/>'
        f'<text x="{_LEFT - 6:g}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>'
        for tick in nice_ticks(0.0, top, 4)
    ]
    parts += [
        f'<path class="axis" d="M{x(tick):.1f} {bottom:g}v4"/>'
        f'<text x="{x(tick):.1f}" y="{bottom + 16:g}" text-anchor="middle">{tick:g}</text>'
        for tick in nice_ticks(low, high)
    ]
    parts.append(
        f'<path class="axis" d="M{_LEFT:g} {_TOP:g}V{bottom:g}H{end:g}"/>'
        f'<text x="{(_LEFT + end) / 2:g}" y="{_HEIGHT - 5:g}" text-anchor="middle">{text(x_label)}</text>'
        f'<text transform="translate(11 {(_TOP + bottom) / 2:g}) rotate(-90)" '
        f'text-anchor="middle">{text(y_label)}</text>'
    )
    heights = _label_heights([y(point.y) for point in points], bottom)
    parts += [_mark(point, x(point.x), y(point.y), y(point.low), y(point.high)) for point in points]
    # Names last, so that no mark covers one.
    parts += [
        _name(point, x(point.x), y(point.y), height) for point, height in zip(points, heights, strict=True)
    ]
    told = "; ".join(f"{point.name}: {point.x:.3g}, {point.y:.3g}" for point in points)
    image = svg(name, title, f"{y_label} against {x_label}. {told}.", _HEIGHT, "".join(parts))
    caption = f"<figcaption>{text(note)}</figcaption>" if note else ""
    return f"<figure><h3>{text(title)}</h3>{image}{caption}</figure>"


def _mark(point: Point, x: float, y: float, low: float, high: float) -> str:
    return (
        f'<g class="s{point.style % NUM_STYLES}"><path class="error" d="M{x:.1f} {low:.1f}V{high:.1f}"/>'
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5"/></g>'
    )


def _name(point: Point, x: float, y: float, height: float) -> str:
    anchor, away = ("start", 1) if x < 0.6 * WIDTH else ("end", -1)
    return (
        f'<path class="axis" d="M{x + 5 * away:.1f} {y:.1f}L{x + 14 * away:.1f} {height:.1f}"/>'
        f'<text class="strong halo" x="{x + 16 * away:.1f}" y="{height + 4:.1f}" text-anchor="{anchor}">'
        f"{text(shortened(point.name, 24))}</text>"
    )


def _label_heights(heights: Sequence[float], bottom: float) -> list[float]:
    """Return heights near the given ones, none closer to another than a line of text."""
    order = sorted(range(len(heights)), key=lambda number: heights[number])
    placed = [0.0] * len(heights)
    above = _TOP - _LINE
    for number in order:
        above = placed[number] = max(heights[number], above + _LINE)
    below = bottom
    for number in reversed(order):
        below = placed[number] = min(placed[number], below - 0.4 * _LINE)
        below -= 0.6 * _LINE
    return placed
