"""The candidates of one shard, from all teachers, padded side by side.

Shapes: Q queries in ascending order, C candidates of one teacher in order of rank, T teachers, P labelled pairs,
R rows of a table.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


@dataclass(frozen=True)
class Ranking:
    """What one teacher retrieved; column c holds rank c + 1.

    Args:
        docs_QC: int64, -1 where a query has fewer.
        scores_QC: float32, NaN where a query has fewer or the score is not finite.
        labelled_QC: bool: a labelled pair of the query, be it of another split.
    """

    docs_QC: np.ndarray
    scores_QC: np.ndarray
    labelled_QC: np.ndarray

    def take(self, rows: np.ndarray | slice) -> "Ranking":
        """Return some of the queries."""
        return Ranking(self.docs_QC[rows], self.scores_QC[rows], self.labelled_QC[rows])


@dataclass(frozen=True)
class Pairs:
    """Labelled pairs, in ascending order of row and document.

    Args:
        row_P: Row of the query, int64.
        doc_P: Document, int64.
        scores_PT: float32, NaN where a teacher did not score the pair, or not finitely.
        ranks_PT: int32, 0 where a teacher did not retrieve it.
    """

    row_P: np.ndarray
    doc_P: np.ndarray
    scores_PT: np.ndarray
    ranks_PT: np.ndarray

    def take(self, pairs: np.ndarray) -> "Pairs":
        """Return some of the pairs: bool [P], or indices in ascending order."""
        return Pairs(self.row_P[pairs], self.doc_P[pairs], self.scores_PT[pairs], self.ranks_PT[pairs])


@dataclass(frozen=True)
class Candidates:
    """What all teachers say of some queries.

    Args:
        query_Q: Ordinals, int64.
        rankings: One a teacher.
        pairs: Labelled pairs of these queries.
    """

    query_Q: np.ndarray
    rankings: tuple[Ranking, ...]
    pairs: Pairs

    @classmethod
    def from_tables(cls, tables: Sequence[pa.Table]) -> "Candidates":
        """Pad one table of schema CANDIDATES a teacher; only queries with a labelled pair are kept."""
        columns = [_Columns.of(table) for table in tables]
        labelled = [each.query[each.positive] for each in columns]
        query_Q = distinct(np.concatenate(labelled))
        rows = [_rows_of(each.query, query_Q) for each in columns]
        rankings = tuple(
            _ranking(each, row_R, len(query_Q)) for each, row_R in zip(columns, rows, strict=True)
        )
        return cls(query_Q, rankings, _pairs(columns, rows))

    def take(self, rows: np.ndarray) -> "Candidates":
        """Return some of the queries.

        Args:
            rows: Indices in ascending order.
        """
        new_row_Q = np.full(len(self.query_Q), -1, np.int64)
        new_row_Q[rows] = np.arange(len(rows))
        contiguous = len(rows) > 0 and rows[-1] - rows[0] + 1 == len(rows)
        index = slice(int(rows[0]), int(rows[-1]) + 1) if contiguous else rows
        pairs = self.pairs.take(new_row_Q[self.pairs.row_P] >= 0)
        moved = Pairs(new_row_Q[pairs.row_P], pairs.doc_P, pairs.scores_PT, pairs.ranks_PT)
        return Candidates(self.query_Q[rows], tuple(each.take(index) for each in self.rankings), moved)


@dataclass(frozen=True)
class _Columns:
    query: np.ndarray
    doc: np.ndarray
    rank: np.ndarray
    score: np.ndarray
    positive: np.ndarray

    @classmethod
    def of(cls, table: pa.Table) -> "_Columns":
        query, doc, rank, score = (
            table.column(name).to_numpy() for name in ("query", "doc", "rank", "score")
        )
        known = np.where(np.isfinite(score), score, np.float32(np.nan))
        positive = np.flatnonzero(table.column("is_positive").to_numpy(zero_copy_only=False))
        return cls(query, doc, rank, known, positive)


def _rows_of(query: np.ndarray, query_Q: np.ndarray) -> np.ndarray:
    """Return int64 [R]: the row of every query in ``query_Q``, -1 where it is not there."""
    if not len(query) or not len(query_Q):
        return np.full(len(query), -1, np.int64)
    # A shard's queries are a range of ordinals, so a table over the range beats a binary search.
    first = int(query.min())
    row_of = np.full(int(query.max()) - first + 1, -1, np.int64)
    inside = (query_Q >= first) & (query_Q < first + len(row_of))
    row_of[query_Q[inside] - first] = np.flatnonzero(inside)
    return row_of[query - first]


def distinct(query: np.ndarray) -> np.ndarray:
    """Return the distinct ordinals of a shard's column, ascending; they lie in a range of about as many."""
    if not len(query):
        return np.zeros(0, np.int64)
    first = int(query.min())
    present = np.zeros(int(query.max()) - first + 1, bool)
    present[query - first] = True
    return np.flatnonzero(present) + first


def _ranking(columns: _Columns, row_R: np.ndarray, num_queries: int) -> Ranking:
    retrieved_R = (columns.rank > 0) & (row_R >= 0)
    row, column = row_R[retrieved_R], columns.rank[retrieved_R] - 1
    width = int(column.max(initial=0)) + 1
    flat = row * width + column
    doc, score = columns.doc[retrieved_R], columns.score[retrieved_R]
    size = num_queries * width
    if len(flat) != size or not np.array_equal(flat, np.arange(size)):
        docs, scores = np.full(size, -1, np.int64), np.full(size, np.nan, np.float32)
        docs[flat], scores[flat] = doc, score
        doc, score = docs, scores
    labelled = np.zeros(size, bool)
    found = columns.positive[retrieved_R[columns.positive]]
    labelled[row_R[found] * width + columns.rank[found] - 1] = True
    shape = (num_queries, width)
    return Ranking(doc.reshape(shape), score.reshape(shape), labelled.reshape(shape))


def _pairs(columns: Sequence[_Columns], rows: Sequence[np.ndarray]) -> Pairs:
    num_docs = 1 + max((int(each.doc[each.positive].max(initial=-1)) for each in columns), default=-1)
    keys = [
        row_R[each.positive] * num_docs + each.doc[each.positive]
        for each, row_R in zip(columns, rows, strict=True)
    ]
    key_P = np.unique(np.concatenate(keys))
    shape = (len(key_P), len(columns))
    scores_PT, ranks_PT = np.full(shape, np.nan, np.float32), np.zeros(shape, np.int32)
    for teacher, (each, key) in enumerate(zip(columns, keys, strict=True)):
        at = np.searchsorted(key_P, key)
        scores_PT[at, teacher], ranks_PT[at, teacher] = each.score[each.positive], each.rank[each.positive]
    return Pairs(key_P // max(num_docs, 1), key_P % max(num_docs, 1), scores_PT, ranks_PT)


def split_by_depth(
    tables: Sequence[pa.Table], deeper: Sequence[pa.Table | None]
) -> list[tuple[pa.Table, ...]]:
    """Put the deeper list of a query in the place of its shallow one.

    Queries searched deeper come apart from the others, so that their depth does not pad all.

    Args:
        tables: Candidates of each teacher.
        deeper: Of each teacher, the candidates of queries that were searched again; None where none were.

    Returns:
        Tables of each teacher, for the queries that no teacher searched again, then for those that one did.
    """
    again = [table.column("query") for table in deeper if table is not None]
    if not sum(len(column) for column in again):
        return [tuple(tables)]
    deep = pa.array(np.unique(np.concatenate([column.to_numpy() for column in again])))
    shallow = tuple(table.filter(pc.invert(pc.is_in(table.column("query"), deep))) for table in tables)
    replaced = []
    for table, better in zip(tables, deeper, strict=True):
        mine = table.filter(pc.is_in(table.column("query"), deep))
        if better is not None:
            mine = mine.filter(
                pc.invert(pc.is_in(mine.column("query"), better.column("query").combine_chunks()))
            )
            mine = pa.concat_tables([mine, better])
        replaced.append(mine)
    return [shallow, tuple(replaced)]


def locate(docs_EA: np.ndarray, docs_EC: np.ndarray) -> np.ndarray:
    """Return int64 [E, A]: the column in which each document stands in its row of ``docs_EC``, -1 where none.

    Both are sorted together, packed as document and column, so that a document follows its own column.

    Args:
        docs_EA: Documents to look for, repeated or not; those below 0 are nowhere.
        docs_EC: Distinct documents of each row, padded with -1; documents below 2^47 and C + A below 2^16.
    """
    width, wanted = docs_EC.shape[1], docs_EA.shape[1]
    assert width + wanted < 2**16
    packed = np.concatenate([docs_EC, docs_EA], axis=1) << 16
    packed |= np.arange(width + wanted)
    packed.sort(axis=1)
    columns, docs = packed & 0xFFFF, packed >> 16
    # The position of the last column of docs_EC at or before each place.
    place = np.where(columns < width, np.arange(width + wanted), -1)
    place = np.maximum.accumulate(place, axis=1)
    before = np.maximum(place, 0)
    same = (place >= 0) & (np.take_along_axis(docs, before, 1) == docs) & (docs >= 0)
    found = np.where(same, np.take_along_axis(columns, before, 1), -1)
    located = np.empty(packed.shape, np.int64)
    np.put_along_axis(located, columns, found, axis=1)
    return located[:, width:]
