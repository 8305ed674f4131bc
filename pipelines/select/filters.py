"""Which candidates survive: one function a method, on padded arrays.

Shapes: E examples (queries, or pairs of query and positive), C candidates in order of rank. A score of NaN is
unknown and passes no bound. Methods of NV-Retriever (arXiv 2407.15831), section 3.
"""

from collections.abc import Callable

import numpy as np

from pipelines.select.config import DEFAULT_MAX_POSITIVE_RATIO, DEFAULT_SHIFTS, FilterConfig

Filter = Callable[[np.ndarray, np.ndarray, float, FilterConfig], np.ndarray]


def naive(scores_EC: np.ndarray, positive_E: np.ndarray, threshold: float, rule: FilterConfig) -> np.ndarray:
    """Keep every candidate."""
    return np.ones(scores_EC.shape, bool)


def shifted(
    scores_EC: np.ndarray, positive_E: np.ndarray, threshold: float, rule: FilterConfig
) -> np.ndarray:
    """Drop the first ``rule.shift`` ranks (Shifted Top-k)."""
    shift = DEFAULT_SHIFTS[rule.method] if rule.shift is None else rule.shift
    return np.broadcast_to(np.arange(scores_EC.shape[1]) >= shift, scores_EC.shape)


def absolute(
    scores_EC: np.ndarray, positive_E: np.ndarray, threshold: float, rule: FilterConfig
) -> np.ndarray:
    """Drop scores above ``threshold`` (TopK-Abs)."""
    return scores_EC <= threshold


def margin_pos(
    scores_EC: np.ndarray, positive_E: np.ndarray, threshold: float, rule: FilterConfig
) -> np.ndarray:
    """Keep scores below the positive's minus ``threshold`` (TopK-MarginPos)."""
    return scores_EC < positive_E[:, None] - threshold


def perc_pos(
    scores_EC: np.ndarray, positive_E: np.ndarray, threshold: float, rule: FilterConfig
) -> np.ndarray:
    """Keep scores below ``threshold`` of the positive's (TopK-PercPos).

    Written as positive - |positive| (1 - threshold), so that the bound lies below a negative positive score too.
    """
    return scores_EC < (positive_E - np.abs(positive_E) * (1.0 - threshold))[:, None]


def double(scores_EC: np.ndarray, positive_E: np.ndarray, threshold: float, rule: FilterConfig) -> np.ndarray:
    """Keep scores below ``threshold`` and below ``rule.max_positive_ratio`` of the positive's, after a shift."""
    ratio = DEFAULT_MAX_POSITIVE_RATIO if rule.max_positive_ratio is None else rule.max_positive_ratio
    below_EC = (scores_EC < threshold) & perc_pos(scores_EC, positive_E, ratio, rule)
    return below_EC & shifted(scores_EC, positive_E, threshold, rule)


FILTERS: dict[str, Filter] = {
    "naive": naive,
    "shifted": shifted,
    "absolute": absolute,
    "margin_pos": margin_pos,
    "perc_pos": perc_pos,
    "double": double,
}

NEED_POSITIVE = ("margin_pos", "perc_pos", "double")
"""Methods for which an example whose positive has no score has no survivor."""
