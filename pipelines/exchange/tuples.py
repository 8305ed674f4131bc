"""Groups as a sentence-transformers Parquet file; columns are built from arrays, no text becomes a Python string.

Shapes: G groups of a batch, P their positives, R rows written, N negatives of a row (and its positive, in scores).
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cluster.errors import UserError
from pipelines.exchange.config import ExportConfig, Shape
from pipelines.exchange.groups import GroupBatch, MinedGroups, Side
from pipelines.exchange.judged import Judged

SCORED: frozenset[Shape] = frozenset({"triplet", "n-tuple"})
"""Layouts that carry `scores` unless told otherwise; in the labeled ones scores take the place of labels."""
UNSCORED = "rows with a missing score (--no-scores keeps them)"


def write_pairs(path: Path, judged: Judged, advance: Callable[[int], None]) -> dict[str, int]:
    """Write (anchor, positive), one row a judgment above zero.

    Returns:
        Rows written, by file.
    """
    rows = 0
    schema = pa.schema([("anchor", pa.string()), ("positive", pa.string())])
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for query_J, doc_J, relevance_J in judged.batches():
            positive = relevance_J > 0
            columns = [
                judged.query_texts.take(query_J[positive]),
                judged.document_texts.take(doc_J[positive]),
            ]
            writer.write_table(pa.table(columns, names=schema.names).cast(schema))
            rows += int(positive.sum())
            advance(len(query_J))
    return {path.name: rows}


def write_tuples(
    path: Path, mined: MinedGroups, config: ExportConfig, advance: Callable[[int], None]
) -> dict[str, int]:
    """Write the groups in the layout `config.shape`; rows of several positives repeat the query.

    Returns:
        Rows written, by file.

    Raises:
        UserError: Nothing is left to write.
    """
    scores = config.shape in SCORED if config.scores is None else config.scores
    num_negatives = config.num_negatives or mined.max_negatives()
    if not num_negatives:
        raise UserError("no group has a negative", where=mined.groups.key, fix="--shape pair needs none")
    build = BUILDERS[config.shape]
    rows, writer = 0, None
    try:
        for batch in mined.batches(advance):
            table = build(batch, mined, scores, num_negatives)
            if writer is None:
                writer = pq.ParquetWriter(path, table.schema, compression="zstd")
            writer.write_table(table)
            rows += table.num_rows
    finally:
        if writer is not None:
            writer.close()
    if not rows:
        reasons = ", ".join(f"{reason}: {count:,}" for reason, count in mined.left_out.items() if count)
        raise UserError("nothing is left to write", where=mined.groups.key, got=reasons)
    return {path.name: rows}


def _n_tuple(batch: GroupBatch, mined: MinedGroups, scores: bool, num_negatives: int) -> pa.Table:
    """Return (anchor, positive, negative_1 .. negative_n[, scores]): one row a positive of a full group."""
    pos, neg = batch.positives, batch.negatives
    full_P = neg.counts_G[pos.group_P] >= num_negatives
    mined.left_out["rows with fewer negatives than the n-tuple has"] += int((~full_P).sum())
    rows = np.flatnonzero(full_P)
    taken_RN = neg.starts_G[pos.group_P[rows]][:, None] + np.arange(num_negatives)
    return _tuples(batch, mined, rows, taken_RN, scores, [f"negative_{k + 1}" for k in range(num_negatives)])


def _triplet(batch: GroupBatch, mined: MinedGroups, scores: bool, num_negatives: int) -> pa.Table:
    """Return (anchor, positive, negative[, scores]): one row for each positive and each of the negatives."""
    pos, neg = batch.positives, batch.negatives
    mined.left_out["groups without a negative"] += int((neg.counts_G == 0).sum())
    each_P = np.minimum(neg.counts_G, num_negatives)[pos.group_P]
    rows = np.repeat(np.arange(len(pos.docs_P)), each_P)
    position = np.arange(len(rows)) - np.repeat(np.cumsum(each_P) - each_P, each_P)
    taken_RN = (neg.starts_G[pos.group_P[rows]] + position)[:, None]
    return _tuples(batch, mined, rows, taken_RN, scores, ["negative"])


def _tuples(
    batch: GroupBatch,
    mined: MinedGroups,
    rows: np.ndarray,
    taken_RN: np.ndarray,
    scores: bool,
    names: list[str],
) -> pa.Table:
    """Return the rows of some positives with the negatives at positions ``taken_RN`` of the batch."""
    pos, neg = batch.positives, batch.negatives
    scores_RN = np.concatenate([pos.scores_P[rows, None], neg.scores_P[taken_RN]], axis=1)
    if scores:
        finite_R = np.isfinite(scores_RN).all(axis=1)
        mined.left_out[UNSCORED] += int((~finite_R).sum())
        rows, taken_RN, scores_RN = rows[finite_R], taken_RN[finite_R], scores_RN[finite_R]
    anchors = mined.query_texts.take(batch.query_G[pos.group_P[rows]])
    # One lookup for all columns: a corpus that does not fit the cache is then read once a batch, not once a column.
    docs_RN = np.concatenate([pos.docs_P[rows, None], neg.docs_P[taken_RN]], axis=1)
    texts = mined.document_texts.take(docs_RN.T.ravel())
    table = {"anchor": anchors.cast(pa.string())}
    for column, name in enumerate(["positive", *names]):
        table[name] = texts.slice(column * len(rows), len(rows)).cast(pa.string())
    if scores:
        table["scores"] = _equal_lists(scores_RN)
    return pa.table(table)


def _equal_lists(values_RN: np.ndarray) -> pa.Array:
    offsets = np.arange(len(values_RN) + 1, dtype=np.int32) * np.int32(values_RN.shape[1])
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values_RN.ravel().astype(np.float32)))


def _labeled_pair(batch: GroupBatch, mined: MinedGroups, scores: bool, num_negatives: int) -> pa.Table:
    """Return (anchor, document, label), or `score` in place of the label; the positives of a query come first."""
    docs_R, group_R, labels_R, scores_R = _both_sides(batch, num_negatives)
    if scores:
        finite_R = np.isfinite(scores_R)
        mined.left_out[UNSCORED] += int((~finite_R).sum())
        docs_R, group_R, scores_R = docs_R[finite_R], group_R[finite_R], scores_R[finite_R]
    columns = {
        "anchor": mined.query_texts.take(batch.query_G[group_R]).cast(pa.string()),
        "document": mined.document_texts.take(docs_R).cast(pa.string()),
    }
    return pa.table(columns | ({"score": pa.array(scores_R)} if scores else {"label": pa.array(labels_R)}))


def _labeled_list(batch: GroupBatch, mined: MinedGroups, scores: bool, num_negatives: int) -> pa.Table:
    """Return (anchor, documents, labels), or `scores` in place of the labels: one row a group."""
    docs_R, group_R, labels_R, scores_R = _both_sides(batch, num_negatives)
    keep_G = np.ones(len(batch.query_G), bool)
    if scores:
        keep_G[group_R[~np.isfinite(scores_R)]] = False
        mined.left_out[UNSCORED] += int((~keep_G).sum())
    keep_R = keep_G[group_R]
    counts = np.bincount(group_R[keep_R], minlength=len(keep_G))[keep_G]
    offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32))

    def lists(values: pa.Array) -> pa.ListArray:
        return pa.ListArray.from_arrays(offsets, values)

    columns = {
        "anchor": mined.query_texts.take(batch.query_G[keep_G]).cast(pa.string()),
        "documents": lists(mined.document_texts.take(docs_R[keep_R]).cast(pa.string())),
    }
    judged = ("scores", scores_R) if scores else ("labels", labels_R)
    return pa.table(columns | {judged[0]: lists(pa.array(judged[1][keep_R]))})


def _both_sides(batch: GroupBatch, num_negatives: int) -> tuple[np.ndarray, ...]:
    """Return documents, groups, labels and scores [R] of positives and negatives, by group, positives first."""
    pos, neg = batch.positives, _first(batch.negatives, num_negatives)
    group_R = np.concatenate([pos.group_P, neg.group_P])
    labels_R = np.repeat(np.array([1, 0], np.int64), [len(pos.docs_P), len(neg.docs_P)])
    order = np.lexsort((-labels_R, group_R))
    docs_R, scores_R = (
        np.concatenate(both) for both in ((pos.docs_P, neg.docs_P), (pos.scores_P, neg.scores_P))
    )
    return docs_R[order], group_R[order], labels_R[order], scores_R[order]


def _first(side: Side, most: int) -> Side:
    """Return the first documents of every group."""
    kept_P = np.arange(len(side.docs_P)) - side.starts_G[side.group_P] < most
    return Side(np.minimum(side.counts_G, most), side.docs_P[kept_P], side.scores_P[kept_P])


Builder = Callable[[GroupBatch, MinedGroups, bool, int], pa.Table]
BUILDERS: dict[Shape, Builder] = {
    "triplet": _triplet,
    "n-tuple": _n_tuple,
    "labeled-pair": _labeled_pair,
    "labeled-list": _labeled_list,
}
