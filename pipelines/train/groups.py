"""The groups of a rank's rows as padded arrays.

Shapes: B rows of one rank, G documents of the largest group, K teachers.
"""

from collections.abc import Sequence

import numpy as np

from pipelines.train.order import Order


def padded_groups(columns: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Return group_BG (int64) and group_mask_BG (bool) of the columns that each row's group has."""
    size = max(map(len, columns))
    group_BG = np.zeros((len(columns), size), np.int64)
    mask_BG = np.zeros((len(columns), size), bool)
    for index, group in enumerate(columns):
        group_BG[index, : len(group)] = group
        mask_BG[index, : len(group)] = True
    return group_BG, mask_BG


def teacher_scores(order: Order, rows: np.ndarray, size: int) -> np.ndarray:
    """Return teacher_BGK (float32) of some rows, NaN where a teacher gave no score.

    Args:
        order: The plan.
        rows: int64 [B].
        size: G.
    """
    scores = [order.scores_of(row) for row in rows]
    num_teachers = max((len(each) for row in scores for each in row), default=0)
    teacher_BGK = np.full((len(rows), size, num_teachers), np.nan, np.float32)
    for index, row in enumerate(scores):
        for place, given in enumerate(row):
            teacher_BGK[index, place, : len(given)] = np.array(given, np.float32)
    return teacher_BGK
