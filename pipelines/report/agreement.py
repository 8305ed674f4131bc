"""How far teachers agree: mean Jaccard of their best candidates, labelled positives excluded.

NV-Retriever (arXiv 2407.15831), section 4.3, with the best four. Shapes: Q queries, K candidates.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa


def top_unlabelled(table: pa.Table, depth: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the best candidates of every query that are no labelled positive.

    Args:
        table: Columns query, doc, rank, is_positive of schema CANDIDATES.
        depth: K, candidates of a query at most.

    Returns:
        query_Q: int64, ascending.
        docs_QK: int64, -1 where a query has fewer.
    """
    query, doc = table.column("query").to_numpy(), table.column("doc").to_numpy()
    rank = table.column("rank").to_numpy()
    positive = table.column("is_positive").to_numpy(zero_copy_only=False)
    # As many positives as may stand before a query's last candidate that counts.
    _, num_positives = np.unique(query[positive & (rank > 0)], return_counts=True)
    shallow = rank <= depth + num_positives.max(initial=0)
    query, doc, rank, positive = query[shallow], doc[shallow], rank[shallow], positive[shallow]
    query_Q, row = np.unique(query, return_inverse=True)
    open_ = ~positive & (rank > 0)
    order = np.flatnonzero(open_)[np.lexsort((rank[open_], row[open_]))]
    place = np.arange(len(order)) - np.searchsorted(row[order], row[order])
    within = place < depth
    docs_QK = np.full((len(query_Q), depth), -1, np.int64)
    docs_QK[row[order][within], place[within]] = doc[order][within]
    return query_Q, docs_QK


class Agreement:
    """The running mean of |A n B| / |A u B| over queries, for every pair of teachers.

    Args:
        teachers: Names.
        depth: Best candidates compared.
    """

    def __init__(self, teachers: Sequence[str], depth: int) -> None:
        self.teachers, self.depth = tuple(teachers), depth
        self._sums_TT = np.zeros((len(self.teachers), len(self.teachers)))
        self._counts_TT = np.zeros((len(self.teachers), len(self.teachers)), np.int64)

    def add(self, tables: Mapping[str, pa.Table]) -> None:
        """Add a shard: teacher -> its candidates of the same queries.

        A query for which both teachers have no unlabelled candidate is left out of their mean.
        """
        tops = {name: top_unlabelled(tables[name], self.depth) for name in self.teachers}
        query_Q = np.unique(np.concatenate([queries for queries, _ in tops.values()]))
        docs_TQK = np.full((len(self.teachers), len(query_Q), self.depth), -1, np.int64)
        for number, name in enumerate(self.teachers):
            queries, docs = tops[name]
            docs_TQK[number, np.searchsorted(query_Q, queries)] = docs
        size_TQ = (docs_TQK >= 0).sum(axis=2)
        for first in range(len(self.teachers)):
            for second in range(len(self.teachers)):
                same_QKK = docs_TQK[first][:, :, None] == docs_TQK[second][:, None, :]
                common_Q = (same_QKK & (docs_TQK[first] >= 0)[:, :, None]).sum(axis=(1, 2))
                union_Q = size_TQ[first] + size_TQ[second] - common_Q
                told_Q = union_Q > 0
                self._sums_TT[first, second] += (common_Q[told_Q] / union_Q[told_Q]).sum()
                self._counts_TT[first, second] += told_Q.sum()

    def rows(self) -> list[dict[str, object]]:
        """Return rows of schema AGREEMENT, the whole matrix; pairs without a query are left out."""
        return [
            {"teacher_a": a, "teacher_b": b, "jaccard": float(self._sums_TT[i, j] / self._counts_TT[i, j])}
            for i, a in enumerate(self.teachers)
            for j, b in enumerate(self.teachers)
            if self._counts_TT[i, j]
        ]
