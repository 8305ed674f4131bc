"""Which survivors become negatives: one function a method, on padded arrays.

Shapes: Q queries, C candidates in order of rank, n negatives.
"""

from collections.abc import Callable

import numpy as np

Sampler = Callable[[np.ndarray, np.ndarray, int, int, float, np.ndarray], np.ndarray]


def top(
    scores_QC: np.ndarray, kept_QC: np.ndarray, n: int, pool: int, temperature: float, noise_QC: np.ndarray
) -> np.ndarray:
    """Choose the first ``n`` survivors."""
    return kept_QC & (np.cumsum(kept_QC, axis=1) <= n)


def sampled(
    scores_QC: np.ndarray, kept_QC: np.ndarray, n: int, pool: int, temperature: float, noise_QC: np.ndarray
) -> np.ndarray:
    """Draw ``n`` without replacement among the first ``pool`` survivors, by softmax(score / temperature).

    By the Gumbel-top-k trick: the ``n`` largest of score / temperature + Gumbel noise are such a draw.

    Args:
        scores_QC: Finite where kept.
        kept_QC: Survivors of the filter.
        n: Draws for each query.
        pool: Survivors that may be drawn.
        temperature: Above 0.
        noise_QC: Standard Gumbel noise.

    Returns:
        bool [Q, C].
    """
    open_QC = kept_QC & (np.cumsum(kept_QC, axis=1) <= pool)
    keys_QC = np.where(open_QC, scores_QC / temperature + noise_QC, -np.inf)
    order_QC = np.argsort(-keys_QC, axis=1, kind="stable")
    drawn_QC = np.zeros(kept_QC.shape, bool)
    np.put_along_axis(drawn_QC, order_QC[:, :n], values=True, axis=1)
    return drawn_QC & open_QC


def top1_sampled(
    scores_QC: np.ndarray, kept_QC: np.ndarray, n: int, pool: int, temperature: float, noise_QC: np.ndarray
) -> np.ndarray:
    """Choose the first survivor and draw ``n - 1`` of the rest of the first ``pool``."""
    first_QC = top(scores_QC, kept_QC, 1, pool, temperature, noise_QC)
    rest_QC = kept_QC & ~first_QC
    return first_QC | sampled(scores_QC, rest_QC, n - 1, pool - 1, temperature, noise_QC)


SAMPLERS: dict[str, Sampler] = {"top": top, "sampled": sampled, "top1_sampled": top1_sampled}
