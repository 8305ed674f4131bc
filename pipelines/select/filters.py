"""Which candidates survive: one function a method, on padded arrays.

Shapes: Q queries, C candidates in order of rank. Methods of NV-Retriever (arXiv 2407.15831), section 3.
"""

from collections.abc import Callable

import numpy as np

Filter = Callable[[np.ndarray, np.ndarray, float, int], np.ndarray]


def naive(scores_QC: np.ndarray, positive_Q: np.ndarray, threshold: float, shift: int) -> np.ndarray:
    """Keep every candidate."""
    return np.ones(scores_QC.shape, bool)


def shifted(scores_QC: np.ndarray, positive_Q: np.ndarray, threshold: float, shift: int) -> np.ndarray:
    """Drop the first ``shift`` candidates (Shifted Top-k)."""
    return np.broadcast_to(np.arange(scores_QC.shape[1]) >= shift, scores_QC.shape)


def absolute(scores_QC: np.ndarray, positive_Q: np.ndarray, threshold: float, shift: int) -> np.ndarray:
    """Drop scores above ``threshold`` (TopK-Abs)."""
    return scores_QC <= threshold


def margin_pos(scores_QC: np.ndarray, positive_Q: np.ndarray, threshold: float, shift: int) -> np.ndarray:
    """Keep scores below the positive's minus ``threshold`` (TopK-MarginPos)."""
    return scores_QC < positive_Q[:, None] - threshold


def perc_pos(scores_QC: np.ndarray, positive_Q: np.ndarray, threshold: float, shift: int) -> np.ndarray:
    """Keep scores below ``threshold`` of the positive's (TopK-PercPos).

    Written as positive - |positive| (1 - threshold), so that the bound lies below a negative positive score too.
    """
    return scores_QC < (positive_Q - np.abs(positive_Q) * (1.0 - threshold))[:, None]


FILTERS: dict[str, Filter] = {
    "naive": naive,
    "shifted": shifted,
    "absolute": absolute,
    "margin_pos": margin_pos,
    "perc_pos": perc_pos,
}
