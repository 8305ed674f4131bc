"""From arrays of candidates to tables and back; every teacher writes its candidates with the same function."""

import numpy as np
import pyarrow as pa

from pipelines import schemas


def candidates_table(
    queries: np.ndarray, found: tuple[np.ndarray, np.ndarray], positives: tuple[np.ndarray, ...]
) -> pa.Table:
    """Return the candidates of some queries, schema CANDIDATES, ordered by query and rank.

    Args:
        queries: Ordinals, int64 [Q] ascending.
        found: Scores, float32 [Q, K], and documents, int64 [Q, K] (-1 where a query has fewer), in order of rank.
        positives: Of each labelled pair the row of its query, its document and its score, [P] each.

    Returns:
        Ranks count from 1; a positive that was not retrieved follows with rank 0.
    """
    scores_QK, docs_QK = found
    pair_row, pair_doc, pair_score = positives
    found_QK = docs_QK >= 0
    row, column = np.nonzero(found_QK)
    docs = docs_QK[found_QK]
    num_docs = max(int(docs.max(initial=0)), int(pair_doc.max(initial=0))) + 1
    keys, pair_keys = row * num_docs + docs, pair_row * num_docs + pair_doc
    beyond = ~np.isin(pair_keys, keys)
    rows = np.concatenate([row, pair_row[beyond]])
    # Beyond all ranks, so that they follow; the sort below puts several in order of document.
    places = np.concatenate([column, np.full(int(beyond.sum()), docs_QK.shape[1])])
    docs = np.concatenate([docs, pair_doc[beyond]])
    order = np.lexsort((docs, places, rows))
    ranks = np.where(places < docs_QK.shape[1], places + 1, 0)
    is_positive = np.concatenate([np.isin(keys, pair_keys), np.ones(int(beyond.sum()), bool)])
    table = pa.table(
        {
            "query": queries[rows[order]],
            "doc": docs[order],
            "rank": ranks[order].astype(np.int32),
            "score": np.concatenate([scores_QK[found_QK], pair_score[beyond]]).astype(np.float32)[order],
            "is_positive": is_positive[order],
        }
    )
    return schemas.conform(table, schemas.CANDIDATES)


def padded(table: pa.Table, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return scores, float32 [Q, K], and documents, int64 [Q, K], -inf and -1 where a query has fewer.

    Args:
        table: Columns query, doc and score, rows of one query together, in order of rank.
        queries: Ordinals, int64 [Q] ascending.
    """
    row = np.searchsorted(queries, table.column("query").to_numpy())
    counts = np.bincount(row, minlength=len(queries))
    column = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
    shape = (len(queries), int(counts.max(initial=1)))
    scores_QK, docs_QK = np.full(shape, -np.inf, np.float32), np.full(shape, -1, np.int64)
    scores_QK[row, column] = table.column("score").to_numpy()
    docs_QK[row, column] = table.column("doc").to_numpy()
    return scores_QK, docs_QK
