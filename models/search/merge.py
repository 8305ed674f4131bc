"""Partial top-k lists over disjoint documents, merged into one."""

from collections.abc import Sequence

import numpy as np

from models.errors import ModelError
from models.search.canonical import order


def merge_top_k(partial: Sequence[tuple[np.ndarray, np.ndarray]], k: int) -> tuple[np.ndarray, np.ndarray]:
    """Merge the results of ``top_k`` over parts of the documents.

    Args:
        partial: (scores float32 [Q, k_i], docs int64 [Q, k_i]) of each part; the parts share no document, and
            k_i is at least k, or the part is smaller.
        k: Candidates a query.

    Returns:
        scores float32 [Q, k] and docs int64 [Q, k]: what one search over all documents returns, to the bit.

    Raises:
        ModelError: Nothing to merge.
    """
    if not partial:
        raise ModelError("no partial results to merge", expected="at least one list of candidates")
    scores_QK = np.concatenate([scores for scores, _ in partial], axis=1)
    docs_QK = np.concatenate([docs for _, docs in partial], axis=1)
    return order(scores_QK.astype(np.float32, copy=False), docs_QK.astype(np.int64, copy=False), k)
