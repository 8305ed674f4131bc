"""Which survivors become negatives: one function a method, on padded arrays.

Shapes: E examples, K survivors in order of rank, n negatives.
"""

from collections.abc import Callable

import numpy as np

Sampler = Callable[[np.ndarray, np.ndarray, int, int, float, np.ndarray], np.ndarray]


def top(
    scores_EK: np.ndarray, kept_EK: np.ndarray, n: int, pool: int, temperature: float, noise_EK: np.ndarray
) -> np.ndarray:
    """Choose the first ``n`` survivors."""
    return kept_EK & (np.cumsum(kept_EK, axis=1) <= n)


def sampled(
    scores_EK: np.ndarray, kept_EK: np.ndarray, n: int, pool: int, temperature: float, noise_EK: np.ndarray
) -> np.ndarray:
    """Draw ``n`` without replacement among the first ``pool`` survivors, by softmax(score / temperature).

    By the Gumbel-top-k trick: the ``n`` largest of score / temperature + Gumbel noise are such a draw.

    Args:
        scores_EK: Finite where kept.
        kept_EK: Survivors of the filter.
        n: Draws for each example.
        pool: Survivors that may be drawn.
        temperature: Above 0.
        noise_EK: Standard Gumbel noise.

    Returns:
        bool [E, K].
    """
    open_EK = kept_EK & (np.cumsum(kept_EK, axis=1) <= pool)
    keys_EK = np.where(open_EK, scores_EK / temperature + noise_EK, -np.inf)
    order_EK = np.argsort(-keys_EK, axis=1, kind="stable")
    drawn_EK = np.zeros(kept_EK.shape, bool)
    np.put_along_axis(drawn_EK, order_EK[:, :n], values=True, axis=1)
    return drawn_EK & open_EK


def top1_sampled(
    scores_EK: np.ndarray, kept_EK: np.ndarray, n: int, pool: int, temperature: float, noise_EK: np.ndarray
) -> np.ndarray:
    """Choose the first survivor and draw ``n - 1`` of the rest of the first ``pool``."""
    first_EK = top(scores_EK, kept_EK, 1, pool, temperature, noise_EK)
    rest_EK = kept_EK & ~first_EK
    return first_EK | sampled(scores_EK, rest_EK, n - 1, pool - 1, temperature, noise_EK)


SAMPLERS: dict[str, Sampler] = {"top": top, "sampled": sampled, "top1_sampled": top1_sampled}
