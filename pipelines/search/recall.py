"""How much of an exact search an approximate one finds, on a sample of the queries."""

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.search.merge import merge_top_k
from pipelines.search.tables import padded


def sample_queries(queries: np.ndarray, count: int) -> np.ndarray:
    """Return at most ``count`` of the ordinals, evenly spaced."""
    count = min(count, len(queries))
    return queries[np.arange(count) * len(queries) // max(1, count)]


def exact_documents(tiles: Iterable[pa.Table], queries: np.ndarray, depth: int) -> np.ndarray:
    """Return the true best documents, int64 [Q, depth], -1 where there are fewer.

    Args:
        tiles: Schema PARTIALS, one for each group of documents; merged one by one, so that none has to wait.
        queries: Ordinals, int64 [Q] ascending.
        depth: Documents of a query.
    """
    best = np.full((len(queries), 0), 0, np.float32), np.full((len(queries), 0), -1, np.int64)
    for tile in tiles:
        found = padded(tile.filter(pc.invert(tile.column("is_positive"))), queries)
        best = merge_top_k([best, found], depth)
    return best[1]


def recall(candidates: Iterable[pa.Table], queries: np.ndarray, exact_QK: np.ndarray) -> float:
    """Return the share of the true best documents that were retrieved.

    Args:
        candidates: Schema CANDIDATES; between them they hold all of ``queries``.
        queries: Ordinals, int64 [Q] ascending.
        exact_QK: Their true best documents, -1 where there are fewer.
    """
    num_docs = int(exact_QK.max(initial=0)) + 1
    row_QK = np.broadcast_to(np.arange(len(queries))[:, None], exact_QK.shape)
    wanted = (row_QK * num_docs + exact_QK)[exact_QK >= 0]
    hits = 0
    for table in candidates:
        query, doc, rank = (table.column(name).to_numpy() for name in ("query", "doc", "rank"))
        mine = (rank > 0) & np.isin(query, queries) & (doc < num_docs)
        hits += int(np.isin(np.searchsorted(queries, query[mine]) * num_docs + doc[mine], wanted).sum())
    return hits / max(1, len(wanted))
