"""Histograms of several methods over one another, as inline SVG.

Shapes: B bins.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.report.markup import text
from pipelines.report.plots import WIDTH, linear, nice_ticks, svg
from pipelines.report.style import NUM_STYLES

_HEIGHT = 236.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 52.0, 10.0, 12.0, 40.0
# Share of a series' values that may lie beyond the plot on one side: a few outliers would squeeze the rest.
_TAIL = 0.0025
_MAX_AREAS = 3


@dataclass(frozen=True)
class Series:
    """One histogram of a plot.

    Args:
        name: Plain text.
        style: Number of its colour and dash; stands for the same method in all plots.
        low_B: Left edges of adjoining bins of one width.
        high_B: Right edges.
        count_B: Values in each.
    """

    name: str
    style: int
    low_B: np.ndarray
    high_B: np.ndarray
    count_B: np.ndarray

    @property
    def percent_B(self) -> np.ndarray:
        """Share of the values in each bin, in percent."""
        return 100.0 * self.count_B / max(self.count_B.sum(), 1)


def step_histogram(
    name: str,
    title: str,
    x_label: str,
    y_label: str,
    series: Sequence[Series],
    *,
    log: bool = False,
    mark: float | None = None,
) -> str:
    """Return histograms of several series over one another, each in percent of its own values.

    Args:
        name: Unique in the page.
        title: Plain text.
        x_label: The quantity and its unit.
        y_label: What is counted.
        series: At least one, with a count above zero.
        log: Logarithmic percent axis.
        mark: Where a dashed line stands.
    """
    low, high = _span(series)
    x = linear(low, high, _LEFT, WIDTH - _RIGHT)
    top = max(float(each.percent_B.max()) for each in series)
    y, y_ticks = _log_axis(series, top) if log else _linear_axis(top)
    parts = [_frame(x, y, nice_ticks(low, high), y_ticks, x_label, y_label)]
    if mark is not None and low < mark < high:
        parts.append(f'<path class="axis zero" d="M{x(mark):.1f} {_TOP:g}V{_HEIGHT - _BOTTOM:g}"/>')
    for each in series:
        path = (_log_steps if log else _steps)(each, low, high, x, y)
        label = text(each.name)
        # Areas over areas turn grey.
        area = f'<path class="area" d="{path}Z"/>' if len(series) <= _MAX_AREAS and not log else ""
        parts.append(
            f'<g class="s{each.style % NUM_STYLES} m{each.style}"><title>{label}</title>'
            f'{area}<path class="line" d="{path}"/></g>'
        )
    beyond = max(_beyond(each, low, high) for each in series)
    told = "; ".join(f"{each.name}: {_middle(each)}" for each in series)
    width = series[0].high_B[0] - series[0].low_B[0]
    description = f"{y_label} against {x_label}, bins {width:.3g} wide. Medians: {told}."
    caption = f" Up to {beyond:.1f}% lie beyond the axis." if beyond >= 0.05 else ""
    image = svg(name, title, description, _HEIGHT, "".join(parts))
    return f"<figure><h3>{text(title)}</h3>{image}<figcaption>Bins {width:.3g} wide.{caption}</figcaption></figure>"


def _span(series: Sequence[Series]) -> tuple[float, float]:
    lows, highs = [], []
    for each in series:
        reached = np.cumsum(each.count_B) / each.count_B.sum()
        first = int(np.searchsorted(reached, _TAIL, side="right"))
        last = int(np.searchsorted(reached, 1 - _TAIL - 1e-12))
        lows.append(float(each.low_B[first]))
        highs.append(float(each.high_B[last]))
    return min(lows), max(highs)


def _beyond(series: Series, low: float, high: float) -> float:
    outside = (series.low_B < low) | (series.high_B > high)
    return float(series.percent_B[outside].sum())


def _middle(series: Series) -> str:
    place = int(np.searchsorted(np.cumsum(series.count_B), series.count_B.sum() / 2))
    return f"{(series.low_B[place] + series.high_B[place]) / 2:.3g}"


def _linear_axis(top: float) -> tuple[Callable[[float], float], list[float]]:
    y = linear(0.0, top * 1.05, _HEIGHT - _BOTTOM, _TOP)
    return y, nice_ticks(0.0, top * 1.05, 4)


def _log_axis(series: Sequence[Series], top: float) -> tuple[Callable[[float], float], list[float]]:
    least = min(float(each.percent_B[each.count_B > 0].min()) for each in series)
    first, last = math.floor(math.log10(least)), math.ceil(math.log10(top) - 1e-9)
    place = linear(first, max(last, first + 1), _HEIGHT - _BOTTOM, _TOP)
    return lambda percent: place(math.log10(percent)), [10.0**n for n in range(first, last + 1)]


def _frame(
    x: Callable[[float], float],
    y: Callable[[float], float],
    x_ticks: Sequence[float],
    y_ticks: Sequence[float],
    x_label: str,
    y_label: str,
) -> str:
    bottom, right = _HEIGHT - _BOTTOM, WIDTH - _RIGHT
    parts = [
        f'<path class="grid" d="M{_LEFT:g} {y(tick):.1f}H{right:g}"/>'
        f'<text x="{_LEFT - 6:g}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>'
        for tick in y_ticks
    ]
    parts += [
        f'<path class="axis" d="M{x(tick):.1f} {bottom:g}v4"/>'
        f'<text x="{x(tick):.1f}" y="{bottom + 16:g}" text-anchor="middle">{tick:g}</text>'
        for tick in x_ticks
    ]
    middle = (_TOP + bottom) / 2
    parts.append(
        f'<path class="axis" d="M{_LEFT:g} {_TOP:g}V{bottom:g}H{right:g}"/>'
        f'<text x="{(_LEFT + right) / 2:g}" y="{_HEIGHT - 5:g}" text-anchor="middle">{text(x_label)}</text>'
        f'<text transform="translate(11 {middle:g}) rotate(-90)" text-anchor="middle">{text(y_label)}</text>'
    )
    return "".join(parts)


def _steps(
    series: Series, low: float, high: float, x: Callable[[float], float], y: Callable[[float], float]
) -> str:
    """Return a path that runs along the axis where bins are empty."""
    parts = [f"M{x(low):.1f} {y(0.0):.1f}"]
    for left, right, percent in _shown(series, low, high):
        parts.append(f"H{x(left):.1f}V{y(percent):.1f}H{x(right):.1f}")
    parts.append(f"V{y(0.0):.1f}H{x(high):.1f}")
    return "".join(parts)


def _log_steps(
    series: Series, low: float, high: float, x: Callable[[float], float], y: Callable[[float], float]
) -> str:
    """Return a path that breaks off where bins are empty: no logarithm stands for nothing."""
    parts: list[str] = []
    joined = False
    for left, right, percent in _shown(series, low, high):
        if percent:
            start = f"V{y(percent):.1f}" if joined else f"M{x(left):.1f} {y(percent):.1f}"
            parts.append(f"{start}H{x(right):.1f}")
        joined = bool(percent)
    return "".join(parts)


def _shown(series: Series, low: float, high: float) -> list[tuple[float, float, float]]:
    inside_B = (series.low_B >= low) & (series.high_B <= high)
    edges = (series.low_B[inside_B], series.high_B[inside_B], series.percent_B[inside_B])
    return list(zip(*(values.tolist() for values in edges), strict=True))
