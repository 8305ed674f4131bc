"""The learning rate of each step."""

import math
from collections.abc import Callable, Sequence
from itertools import groupby

SCHEDULES: dict[str, Callable[[float, int, int], float]] = {
    "linear": lambda peak, done, total: peak * (total - done) / total,
    "cosine": lambda peak, done, total: peak * (1 + math.cos(math.pi * done / total)) / 2,
    "constant": lambda peak, _done, _total: peak,
}
"""Name -> learning rate, given its peak, the steps since the warm-up and how many there are."""


def num_warmup_steps(num_steps: int, warmup_ratio: float, warmup_steps: int | None) -> int:
    """Return how many steps rise: as many as are said, else a share of all."""
    return round(num_steps * warmup_ratio) if warmup_steps is None else warmup_steps


def learning_rate(step: int, num_steps: int, peak: float, warmup: int, schedule: str = "linear") -> float:
    """Rise linearly to ``peak`` over the first steps, then follow the schedule.

    Args:
        step: From 0 to num_steps - 1.
        num_steps: Of the stage.
        peak: The highest learning rate.
        warmup: How many steps rise; 0 for none.
        schedule: A name in SCHEDULES.

    Returns:
        Above 0 at every step.
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    return SCHEDULES[schedule](peak, step - warmup, num_steps - warmup)


def learning_rates(
    stages: Sequence[int],
    peaks: Sequence[float],
    warmup_ratio: float,
    warmup_steps: int | None,
    schedule: str,
) -> list[float]:
    """Return the learning rate of every step; each stage warms up and falls on its own.

    Args:
        stages: Stage of each step, not falling.
        peaks: Of each stage.
        warmup_ratio: Share of a stage's steps that rise.
        warmup_steps: Their number in its place; less than every stage has.
        schedule: A name in SCHEDULES.
    """
    rates: list[float] = []
    for stage, steps in groupby(stages):
        count = len(list(steps))
        warmup = num_warmup_steps(count, warmup_ratio, warmup_steps)
        rates += [learning_rate(step, count, peaks[stage], warmup, schedule) for step in range(count)]
    return rates
