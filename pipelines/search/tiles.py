"""One tile of a dense search, and the merge of a query range's tiles; plain functions on tables."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.artifacts import Artifact
from models.search.exact import Documents, pair_scores
from models.search.merge import merge_top_k
from pipelines import schemas


def read_embeddings(artifact: Artifact, table: str, shards: range) -> tuple[np.ndarray, np.ndarray]:
    """Return the ordinals, int64 [N], and the embeddings, float32 [N, D], of contiguous shards."""
    ids, vectors = [], []
    for index in shards:
        shard = artifact.read_shard(table, index)
        column = shard.column("embedding").combine_chunks()
        ids.append(shard.column("id").to_numpy())
        vectors.append(column.values.to_numpy().reshape(-1, column.type.list_size).astype(np.float32))
    return np.concatenate(ids), np.concatenate(vectors)


def range_queries(
    data: Artifact, embeddings: Artifact, split: str, shards: tuple[int, int]
) -> tuple[tuple[np.ndarray, np.ndarray], pa.Table]:
    """Return the queries of ``split`` that lie in a range of shards, and their labelled pairs.

    Returns:
        Ordinals, int64 [Q] ascending, with embeddings, float32 [Q, D]; and a table with columns query and doc.
    """
    ids, vectors_QD = read_embeddings(embeddings, "queries", range(*shards))
    qrels = data.read("qrels", columns=["query", "doc", "split"])
    pairs = qrels.filter(pc.equal(qrels.column("split"), split)).select(["query", "doc"])
    mine = np.isin(ids, pairs.column("query").to_numpy())
    pairs = pairs.filter(pa.array(np.isin(pairs.column("query").to_numpy(), ids)))
    return (ids[mine], vectors_QD[mine]), pairs


def search_tile(
    queries: tuple[np.ndarray, np.ndarray],
    documents: Documents,
    positives: pa.Table,
    retrieval_depth: int,
    backend: str,
) -> pa.Table:
    """Search a range of queries in a group of documents.

    Args:
        queries: Ordinals, int64 [Q] ascending, and embeddings, float32 [Q, D].
        documents: A group of N documents with dense ordinals.
        positives: Columns query and doc: the labelled pairs of these queries.
        retrieval_depth: Documents kept for each query.
        backend: ``"faiss"`` or ``"torch"``.

    Returns:
        Schema PARTIALS: the best documents of each query in this group, and the scores of those of its positives
        that lie in this group.
    """
    query_ids, query_QD = queries
    first = documents.first_document
    scores_QK, docs_QK = documents.top_k(query_QD, retrieval_depth, backend)
    found = docs_QK >= 0
    pair_query, pair_doc = positives.column("query").to_numpy(), positives.column("doc").to_numpy()
    here = (pair_doc >= first) & (pair_doc < first + len(documents)) & np.isin(pair_query, query_ids)
    pair_query, pair_doc = pair_query[here], pair_doc[here]
    rows = np.searchsorted(query_ids, pair_query)
    pair_score = pair_scores(query_QD, documents.doc_ND, rows, pair_doc - first)
    query_Q1 = np.broadcast_to(query_ids[:, None], docs_QK.shape)
    table = pa.table(
        {
            "query": np.concatenate([query_Q1[found], pair_query]),
            "doc": np.concatenate([docs_QK[found], pair_doc]),
            "score": np.concatenate([scores_QK[found], pair_score]).astype(np.float32),
            "is_positive": np.repeat([False, True], [int(found.sum()), len(pair_doc)]),
        }
    )
    return schemas.conform(table, schemas.PARTIALS)


def merge_tiles(tiles: list[pa.Table], query_ids: np.ndarray, retrieval_depth: int) -> pa.Table:
    """Merge the tiles of one query range into its candidates.

    Args:
        tiles: Schema PARTIALS, one for each group of documents.
        query_ids: int64 [Q], ascending.
        retrieval_depth: Candidates kept for each query.

    Returns:
        Schema CANDIDATES, ordered by query and rank; ranks count from 1, and a positive that was not retrieved
        follows with rank 0.
    """
    parts = [_padded(tile.filter(pc.invert(tile.column("is_positive"))), query_ids) for tile in tiles]
    scores_QK, docs_QK = merge_top_k(parts, retrieval_depth)
    positives = pa.concat_tables([tile.filter(tile.column("is_positive")) for tile in tiles])
    pair_row = np.searchsorted(query_ids, positives.column("query").to_numpy())
    pair_doc, pair_score = positives.column("doc").to_numpy(), positives.column("score").to_numpy()

    found = docs_QK >= 0
    row_Q1 = np.broadcast_to(np.arange(len(query_ids))[:, None], docs_QK.shape)
    rank_QK = np.broadcast_to(np.arange(1, docs_QK.shape[1] + 1), docs_QK.shape)
    num_docs = max(int(docs_QK.max(initial=0)), int(pair_doc.max(initial=0))) + 1
    pair_keys = pair_row * num_docs + pair_doc
    found_keys = (row_Q1 * num_docs + docs_QK)[found]
    beyond = ~np.isin(pair_keys, found_keys)
    row = np.concatenate([row_Q1[found], pair_row[beyond]])
    rank = np.concatenate([rank_QK[found], np.zeros(int(beyond.sum()), np.int64)])
    doc = np.concatenate([docs_QK[found], pair_doc[beyond]])
    order = np.lexsort((doc, np.where(rank == 0, np.iinfo(np.int64).max, rank), row))
    table = pa.table(
        {
            "query": query_ids[row[order]],
            "doc": doc[order],
            "rank": rank[order].astype(np.int32),
            "score": np.concatenate([scores_QK[found], pair_score[beyond]]).astype(np.float32)[order],
            "is_positive": np.concatenate([np.isin(found_keys, pair_keys), np.ones(int(beyond.sum()), bool)])[
                order
            ],
        }
    )
    return schemas.conform(table, schemas.CANDIDATES)


def _padded(table: pa.Table, query_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return scores and documents of a tile as [Q, K], -inf and -1 where a query has fewer."""
    row = np.searchsorted(query_ids, table.column("query").to_numpy())
    counts = np.bincount(row, minlength=len(query_ids))
    column = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
    shape = (len(query_ids), int(counts.max(initial=1)))
    scores_QK, docs_QK = np.full(shape, -np.inf, np.float32), np.full(shape, -1, np.int64)
    scores_QK[row, column] = table.column("score").to_numpy()
    docs_QK[row, column] = table.column("doc").to_numpy()
    return scores_QK, docs_QK
