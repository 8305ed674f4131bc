"""Plots as inline SVG: what every plot needs, bars and heat maps.

Lengths are in units of the viewBox, 400 wide: at the width of a phone a unit is a pixel, so 12 is readable there.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.report.markup import text

WIDTH = 400.0


@dataclass(frozen=True)
class Bar:
    """One bar: a value and the interval around it, if there is one."""

    name: str
    value: float
    low: float | None
    high: float | None
    label: str


def nice_ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Return round numbers (1, 2 or 5 times a power of ten apart) within [low, high], about ``wanted`` of them."""
    if not high > low:
        return [low]
    rough = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= 0.7 * rough)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def svg(name: str, title: str, description: str, height: float, body: str) -> str:
    """Return an image with a title and a description for those who do not see it.

    Args:
        name: Unique in the page; letters, digits and dashes.
        title: Plain text.
        description: Plain text.
        height: Of the viewBox.
        body: SVG elements.
    """
    return (
        f'<svg viewBox="0 0 {WIDTH:g} {height:g}" role="img" aria-labelledby="{name}-t {name}-d">'
        f'<title id="{name}-t">{text(title)}</title><desc id="{name}-d">{text(description)}</desc>{body}</svg>'
    )


def bars(name: str, title: str, unit: str, rows: Sequence[Bar], note: str = "") -> str:
    """Return horizontal bars from zero with their intervals as whiskers, one below the other.

    Args:
        name: Unique in the page.
        title: Plain text.
        unit: Of the axis.
        rows: The bars; values at least 0.
        note: Plain text below.
    """
    row_height, top = 38.0, 4.0
    height = top + row_height * len(rows) + 34
    end = max([bar.high if bar.high is not None else bar.value for bar in rows] + [0.0]) or 1.0
    ticks = nice_ticks(0.0, end * 1.04, 4)
    x = linear(0.0, end * 1.04, 6.0, WIDTH - 12)
    bottom = height - 32
    parts = [
        f'<path class="grid" d="M{x(tick):.1f} {top:g}V{bottom:g}"/>'
        f'<text x="{x(tick):.1f}" y="{bottom + 14:g}" text-anchor="middle">{tick:g}</text>'
        for tick in ticks
    ]
    parts.append(f'<text x="{WIDTH - 12:g}" y="{height - 3:g}" text-anchor="end">{text(unit)}</text>')
    for number, bar in enumerate(rows):
        y = top + row_height * number
        middle = y + 25
        parts.append(
            f'<text class="strong" x="6" y="{y + 13:g}">{text(shortened(bar.name, 34))}</text>'
            f'<text class="strong" x="{WIDTH - 12:g}" y="{y + 13:g}" text-anchor="end">{text(bar.label)}</text>'
            f'<rect class="rail" x="6" y="{middle - 6:g}" width="{WIDTH - 18:g}" height="12" rx="2"/>'
            f'<rect class="bar" x="6" y="{middle - 6:g}" width="{max(x(bar.value) - 6, 0):.1f}" height="12" rx="2"/>'
        )
        if bar.low is not None and bar.high is not None and bar.high > bar.low:
            left, right = f"{x(bar.low):.1f}", f"{x(bar.high):.1f}"
            ends = f"M{left} {middle - 4:g}v8M{right} {middle - 4:g}v8M{left} {middle:g}H{right}"
            parts.append(f'<path class="whisker" d="{ends}"/>')
    told = "; ".join(f"{bar.name} {bar.label}" for bar in rows)
    image = svg(name, title, f"{title}, {unit}. {told}.", height, "".join(parts))
    caption = f"<figcaption>{text(note)}</figcaption>" if note else ""
    return f"<figure><h3>{text(title)}</h3>{image}{caption}</figure>"


def heat_map(name: str, title: str, labels: Sequence[str], values_TT: np.ndarray, note: str = "") -> str:
    """Return a square matrix of values from 0 to 1; rows are named, columns bear the rows' numbers.

    Args:
        name: Unique in the page.
        title: Plain text.
        labels: Of rows and columns.
        values_TT: NaN where there is no value.
        note: Plain text below.
    """
    label_width = min(170.0, 30 + 7.0 * max(_columns(label) for label in labels))
    cell = min(64.0, (WIDTH - label_width) / len(labels))
    row_height = min(cell, 40.0)
    parts = []
    for column in range(len(labels)):
        parts.append(
            f'<text x="{label_width + cell * (column + 0.5):.1f}" y="14" text-anchor="middle">{column + 1}</text>'
        )
    for row, label in enumerate(labels):
        y = 22 + row_height * row
        fitting = shortened(label, int((label_width - 24) / 7))
        parts.append(
            f'<text class="strong" x="0" y="{y + row_height / 2 + 4:.1f}">{row + 1} {text(fitting)}</text>'
        )
        for column in range(len(labels)):
            value = float(values_TT[row, column])
            x = label_width + cell * column
            shown = "" if math.isnan(value) else f"{value:.2f}"
            opacity = 0.0 if math.isnan(value) else 0.06 + 0.84 * value
            parts.append(
                f'<rect class="cell" x="{x:.1f}" y="{y:.1f}" width="{cell:.1f}" height="{row_height:.1f}" '
                f'fill-opacity="{opacity:.2f}"><title>{text(label)}, {text(labels[column])}: {shown}</title></rect>'
                f'<text class="strong" x="{x + cell / 2:.1f}" y="{y + row_height / 2 + 4:.1f}" '
                f'text-anchor="middle" pointer-events="none">{shown}</text>'
            )
    told = "; ".join(
        f"{labels[row]} and {labels[column]} {values_TT[row, column]:.2f}"
        for row in range(len(labels))
        for column in range(row)
    )
    image = svg(name, title, f"{title}. {told}.", 26 + row_height * len(labels), "".join(parts))
    caption = f"<figcaption>{text(note)}</figcaption>" if note else ""
    return f"<figure><h3>{text(title)}</h3>{image}{caption}</figure>"


def shortened(label: str, columns: int) -> str:
    """Return ``label`` cut to ``columns`` columns; wide letters take two."""
    if _columns(label) <= columns:
        return label
    kept = label
    while kept and _columns(kept) > columns - 2:
        kept = kept[:-1]
    return f"{kept}..."


def _columns(label: str) -> int:
    return sum(2 if ord(letter) > 0x1100 else 1 for letter in label)


def linear(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    """Return the scale that takes ``low`` to ``start`` and ``high`` to ``end``."""
    return lambda value: start + (value - low) / (high - low) * (end - start)
