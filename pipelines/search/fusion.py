"""Reciprocal rank fusion: one list from the ranks of several (Cormack, Clarke and Buettcher, SIGIR 2009)."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from models.search.canonical import order
from pipelines.search.tables import candidates_table


def fuse(lists: Sequence[pa.Table], depth: int, constant: int) -> pa.Table:
    """Fuse the candidates of several teachers.

    Args:
        lists: Schema CANDIDATES, of the same queries.
        depth: Candidates kept for each query.
        constant: Added to every rank.

    Returns:
        Schema CANDIDATES: the score is the sum of 1 / (constant + rank) over the lists in which the document was
        retrieved; 0 for a positive that was retrieved nowhere.
    """
    columns = ("query", "doc", "rank", "is_positive")
    query, doc, rank, positive = (
        np.concatenate([table.column(name).to_numpy(zero_copy_only=False) for table in lists])
        for name in columns
    )
    share = np.where(rank > 0, 1.0 / (constant + np.maximum(rank, 1).astype(np.float64)), 0.0)
    queries, row = np.unique(query, return_inverse=True)
    num_docs = int(doc.max(initial=0)) + 1
    keys, pair = np.unique(row * num_docs + doc, return_inverse=True)
    # Added one by one in the order of the lists: bincount neither reorders nor uses a tree.
    score = np.bincount(pair, weights=share, minlength=len(keys)).astype(np.float32)
    retrieved = np.bincount(pair, weights=rank > 0, minlength=len(keys)) > 0
    is_positive = np.bincount(pair, weights=positive, minlength=len(keys)) > 0
    key_row, key_doc = np.divmod(keys, num_docs)

    kept_row, kept_doc, kept_score = key_row[retrieved], key_doc[retrieved], score[retrieved]
    counts = np.bincount(kept_row, minlength=len(queries))
    column = np.arange(len(kept_row)) - np.repeat(np.cumsum(counts) - counts, counts)
    shape = (len(queries), int(counts.max(initial=0)))
    scores_QK, docs_QK = np.full(shape, -np.inf, np.float32), np.full(shape, -1, np.int64)
    scores_QK[kept_row, column], docs_QK[kept_row, column] = kept_score, kept_doc
    pairs = (key_row[is_positive], key_doc[is_positive], score[is_positive])
    return candidates_table(queries, order(scores_QK, docs_QK, depth), pairs)
