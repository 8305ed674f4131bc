"""From scores back to candidates; plain functions on tables."""

from collections.abc import Callable, Iterable

import numpy as np
import pyarrow as pa

from pipelines import schemas


def _sigmoid(scores: np.ndarray) -> np.ndarray:
    # By way of tanh, which does not overflow.
    return 0.5 + 0.5 * np.tanh(0.5 * scores.astype(np.float64))


ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "none": lambda scores: scores,
    "sigmoid": _sigmoid,
}
"""What is done to a score after the ranking is settled."""


def scores_of(kept: pa.Table, scored: Iterable[pa.Table], num_documents: int) -> np.ndarray:
    """Look up the score of each pair.

    Args:
        kept: Columns query and doc, each pair once.
        scored: Schema SCORED, in pieces; one is held at a time.
        num_documents: More than any document's ordinal.

    Returns:
        float32 [rows of ``kept``].
    """
    wanted = _pair_numbers(kept, num_documents)
    order = np.argsort(wanted)
    ordered = wanted[order]
    found, scores = np.zeros(len(wanted), bool), np.zeros(len(wanted), np.float32)
    for piece in scored if len(wanted) else ():
        pairs = _pair_numbers(piece, num_documents)
        at = np.minimum(np.searchsorted(ordered, pairs), len(ordered) - 1)
        mine = ordered[at] == pairs
        rows = order[at[mine]]
        scores[rows], found[rows] = piece.column("score").to_numpy()[mine], True
    assert found.all(), f"{int((~found).sum())} pairs were not scored"
    return scores


def _pair_numbers(table: pa.Table, num_documents: int) -> np.ndarray:
    return table.column("query").to_numpy() * num_documents + table.column("doc").to_numpy()


def rerank(kept: pa.Table, scores: np.ndarray, depth: int, activation: str) -> pa.Table:
    """Rank each query's candidates by their scores.

    Args:
        kept: Schema CANDIDATES: the first ``depth`` of each query, and its positives.
        scores: float32 [rows].
        depth: Positives beyond it are scored, but have rank 0.
        activation: A name in ACTIVATIONS.

    Returns:
        Schema CANDIDATES, ordered by query and rank: falling score, equal ones by document, positives of rank 0
        behind.
    """
    query, doc, rank = (kept.column(name).to_numpy() for name in ("query", "doc", "rank"))
    beyond = (rank == 0) | (rank > depth)
    order = np.lexsort((doc, np.where(beyond, 0.0, -scores), beyond, query))
    query, doc, beyond = query[order], doc[order], beyond[order]
    starts = np.concatenate([[True], query[1:] != query[:-1]]) if len(query) else np.zeros(0, bool)
    first = np.maximum.accumulate(np.where(starts, np.arange(len(query)), 0))
    table = pa.table(
        {
            "query": query,
            "doc": doc,
            "rank": np.where(beyond, 0, np.arange(len(query)) - first + 1).astype(np.int32),
            "score": ACTIVATIONS[activation](scores[order]).astype(np.float32),
            "is_positive": kept.column("is_positive").to_numpy(zero_copy_only=False)[order],
        }
    )
    return schemas.conform(table, schemas.CANDIDATES)
