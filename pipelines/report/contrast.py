"""How hard a group is by its teacher's scores: margins and the InfoNCE loss.

Shapes: P positives, M pairs of a positive and a negative of one group.
"""

import numpy as np

from pipelines.report.members import Members


def margins(members: Members) -> tuple[np.ndarray, np.ndarray]:
    """Return (positive - negative) of every scored pair of a group.

    Returns:
        margin_M: float64.
        positive_M: int64, position of the pair's positive, ascending.
    """
    size_Q = members.num_negatives_Q
    first_Q = np.cumsum(size_Q) - size_Q
    size_P = size_Q[members.positive_row_P]
    positive_M = np.repeat(np.arange(len(size_P)), size_P)
    within_M = np.arange(len(positive_M)) - np.repeat(np.cumsum(size_P) - size_P, size_P)
    negative_M = first_Q[members.positive_row_P][positive_M] + within_M
    margin_M = members.positive_score_P[positive_M] - members.negative_score_N[negative_M]
    scored_M = ~np.isnan(margin_M)
    return margin_M[scored_M], positive_M[scored_M]


def infonce(margin_M: np.ndarray, positive_M: np.ndarray, temperature: float) -> np.ndarray:
    """Return the InfoNCE loss of every positive against the negatives of its own group.

    -log(exp(s+ / t) / (exp(s+ / t) + sum_n exp(s_n / t))) = log(1 + sum_n exp(-(s+ - s_n) / t)); a negative that
    stands twice weighs double. Positives without a scored negative have no loss.

    Args:
        margin_M: float64, s+ - s_n.
        positive_M: Ascending.
        temperature: t, above 0.

    Returns:
        float64 [P with a pair].
    """
    if not len(margin_M):
        return np.empty(0)
    starts = np.flatnonzero(np.concatenate([[True], positive_M[1:] != positive_M[:-1]]))
    logit_M = -margin_M / temperature
    # The positive's own logit is 0; the largest is taken out, or exp overflows at small temperatures.
    largest = np.maximum(np.maximum.reduceat(logit_M, starts), 0.0)
    sizes = np.diff(np.append(starts, len(logit_M)))
    sums = np.add.reduceat(np.exp(logit_M - np.repeat(largest, sizes)), starts)
    return largest + np.log(np.exp(-largest) + sums)
