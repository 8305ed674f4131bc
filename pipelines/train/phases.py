"""The stages of a training as batches: homogeneous ones, then mixed ones, stage after stage."""

from collections import deque
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

from pipelines.train.alike import ALL_DIFFER, Alike
from pipelines.train.plan import Group, Known, Row, check_negatives, check_reserves, draw_rows, form_batches
from pipelines.train.stages import Stage

Batch = list[Row]
Form = Callable[[Sequence[Row]], list[Batch]]
"""Cuts rows into batches."""


def plan_order(
    groups: Sequence[Group], known: Known, stages: Sequence[Stage], seed: int, alike: Alike = ALL_DIFFER
) -> list[Batch]:
    """Return every global batch of a training, stage after stage, epoch after epoch.

    Args:
        groups: Clean ones of all data sets, sorted.
        known: Query -> all of its known positives.
        stages: What is trained on, and how.
        seed: Of every draw.
        alike: Texts that count as one.

    Raises:
        UserError: A data set has fewer negatives than are asked for, or nothing to train on.
    """
    check_reserves(groups, stages)
    batches: list[Batch] = []
    first_epoch = 0
    for place, stage in enumerate(stages):
        check_negatives(groups, stage)

        def form(rows: Sequence[Row], size: int = stage.batch_size) -> list[Batch]:
            return list(form_batches(rows, known, size, alike))

        num_rows = sum(group.dataset in stage.sets for group in groups)
        for epoch, num_homogeneous in enumerate(homogeneous_rows(stage, num_rows)):
            rows = draw_rows(groups, first_epoch + epoch, stage, seed, place)
            draws = np.random.default_rng((seed, 2, first_epoch + epoch))
            batches += homogeneous_batches(rows[:num_homogeneous], form, stage, draws)
            batches += form(rows[num_homogeneous:])
        first_epoch += stage.epochs
    return batches


def homogeneous_rows(stage: Stage, num_rows: int) -> list[int]:
    """Return how many rows of each epoch, its first ones, form homogeneous batches.

    The mixed ones are the last of the whole stage: the last epoch's first, then those of the one before.
    """
    total = stage.epochs * num_rows
    first_mixed = total - round(stage.mixed_share * total)
    starts = range(0, total + 1, num_rows)
    return [min(max(first_mixed - start, 0), end - start) for start, end in pairwise(starts)]


def homogeneous_batches(
    rows: Sequence[Row], form: Form, stage: Stage, draws: np.random.Generator
) -> list[Batch]:
    """Return batches of one task of one data set each; the last ones of a task may be smaller.

    Args:
        rows: Of all tasks, in the order in which they are wanted.
        form: Cuts rows into batches of at most `stage.batch_size`.
        stage: Says how tasks are drawn.
        draws: Of tasks and clusters.
    """
    of_task: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        of_task.setdefault((row.dataset, row.task), []).append(row)
    # Sorted, so that a draw does not depend on which task comes first.
    tasks = sorted(of_task)
    waiting = [deque(cluster_batches(of_task[task], form, stage.batch_size, draws)) for task in tasks]
    sizes = [[len(batch) for batch in batches] for batches in waiting]
    weights = [stage.sets[dataset].weight for dataset, _ in tasks]
    return [waiting[task].popleft() for task in draw_tasks(sizes, weights, stage.alpha, draws)]


def cluster_batches(
    rows: Sequence[Row], form: Form, batch_size: int, draws: np.random.Generator
) -> list[Batch]:
    """Return batches of one cluster each, in a drawn order, then batches of what filled none."""
    of_cluster: dict[int, list[Row]] = {}
    for row in rows:
        of_cluster.setdefault(row.cluster, []).append(row)
    if len(of_cluster) == 1:
        return form(rows)
    batches = [batch for own in of_cluster.values() for batch in form(own)]
    full = [batch for batch in batches if len(batch) == batch_size]
    left = [row for batch in batches if len(batch) < batch_size for row in batch]
    return [full[place] for place in draws.permutation(len(full))] + form(left)


def draw_tasks(
    sizes: Sequence[Sequence[int]], weights: Sequence[float], alpha: float, draws: np.random.Generator
) -> list[int]:
    """Draw which task gives the next batch, until none has one left.

    Args:
        sizes: Rows of the batches of each task, in their order.
        weights: Of each task.
        alpha: A task is drawn in proportion to its weight times its remaining rows to this power.
        draws: Where chance comes from.
    """
    left = [deque(batches) for batches in sizes]
    remaining = np.array([sum(batches) for batches in sizes], dtype=np.float64)
    drawn: list[int] = []
    while remaining.any():
        chances = np.where(remaining > 0, np.asarray(weights) * remaining**alpha, 0.0)
        task = int(draws.choice(len(chances), p=chances / chances.sum()))
        remaining[task] -= left[task].popleft()
        drawn.append(task)
    return drawn
