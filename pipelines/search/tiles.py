"""One tile of a search, and the merge of the tiles of one part of the queries; plain functions on tables."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.artifacts import Artifact
from cluster.errors import UserError
from models.search.canonical import tensor_of
from models.search.exact import Documents
from models.search.merge import merge_top_k
from pipelines import schemas
from pipelines.search.tables import candidates_table, padded

TopK = Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]
"""Query embeddings and depth -> scores and documents, [Q, K] each."""


def read_documents(embeddings: Artifact, shards: range, device: str) -> Documents:
    """Return the documents of contiguous shards; rows of equal ordinal are chunks of one document.

    The shards are read one after the other into one float32 matrix, so that no more than that and one shard are
    held.
    """
    rows = np.diff(embeddings.first_rows("documents"))[shards.start : shards.stop]
    ids = np.empty(int(rows.sum()), np.int64)
    doc_ND = np.empty((0, 0), np.float32)
    first = 0
    for index in shards:
        shard_ids, shard_ND = read_shard(embeddings, "documents", index)
        if not first:
            doc_ND = np.empty((len(ids), shard_ND.shape[1]), np.float32)
        stop = first + len(shard_ids)
        ids[first:stop] = shard_ids
        # torch widens float16 four times as fast as numpy.
        tensor_of(doc_ND[first:stop]).copy_(tensor_of(shard_ND))
        first = stop
    dense = not len(ids) or bool(np.array_equal(ids, np.arange(ids[0], ids[0] + len(ids))))
    if dense:
        return Documents(doc_ND, int(ids[0]) if len(ids) else 0, device)
    return Documents(doc_ND, device=device, row_docs=ids)


def read_shard(embeddings: Artifact, table: str, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the ordinals, int64 [N], and the embeddings, [N, D] as they are stored, of one shard.

    Raises:
        UserError: They are stored as codes.
    """
    shard = embeddings.read_shard(table, index)
    column = shard.column("embedding").combine_chunks()
    if not pa.types.is_floating(column.type.value_type):
        raise UserError(
            "embeddings are stored as codes, which have no inner product",
            where=f"{embeddings.key}, table {table}",
            got=str(column.type.value_type),
            expected="float16 or float32",
            fix="search the embeddings that the codes were made of",
        )
    return shard.column("id").to_numpy(), column.values.to_numpy().reshape(-1, column.type.list_size)


def take_queries(shards: Sequence[tuple[np.ndarray, np.ndarray]], queries: np.ndarray) -> np.ndarray:
    """Return the embeddings of ``queries`` (int64 [Q] ascending), float32 [Q, D].

    Args:
        shards: Ordinals and embeddings of the shards that hold them, in order.
        queries: Ordinals.

    Raises:
        UserError: One has no embedding.
    """
    ids = np.concatenate([shard_ids for shard_ids, _ in shards])
    taken = [vectors_ND[np.isin(shard_ids, queries)].astype(np.float32) for shard_ids, vectors_ND in shards]
    absent = np.setdiff1d(queries, ids)
    if len(absent):
        raise UserError(
            "a query has no embedding",
            where=f"query {absent[0]}",
            got=f"{len(absent)} such queries",
            expected="embeddings of all queries of the split",
            fix="encode the split that is searched",
        )
    return np.concatenate(taken)


def search_tile(
    queries: tuple[np.ndarray, np.ndarray],
    documents: Documents,
    pairs: tuple[np.ndarray, np.ndarray],
    depth: int,
    top_k: TopK,
) -> pa.Table:
    """Search some queries in a group of documents.

    Args:
        queries: Ordinals, int64 [Q] ascending, and embeddings, float32 [Q, D].
        documents: The group.
        pairs: Labelled pairs of these queries: row of the query and document, int64 [P] each.
        depth: Documents kept for each query.
        top_k: Finds them among ``documents``.

    Returns:
        Schema PARTIALS: the best documents of each query in this group, and the scores of those of its positives
        that lie in this group.
    """
    query_ids, query_QD = queries
    found = top_k(query_QD, depth)
    here = documents.holds(pairs[1])
    pair_row, pair_doc = pairs[0][here], pairs[1][here]
    positives = (pair_row, pair_doc, documents.pair_scores(query_QD, pair_row, pair_doc))
    return partials_table(query_ids, found, positives)


def partials_table(
    query_ids: np.ndarray, found: tuple[np.ndarray, np.ndarray], positives: tuple[np.ndarray, ...]
) -> pa.Table:
    """Return a tile, schema PARTIALS: what was found, in order of rank, then the positives; as for candidates."""
    scores_QK, docs_QK = found
    pair_row, pair_doc, pair_score = positives
    found_QK = docs_QK >= 0
    table = pa.table(
        {
            "query": query_ids[np.concatenate([np.nonzero(found_QK)[0], pair_row])],
            "doc": np.concatenate([docs_QK[found_QK], pair_doc]),
            "score": np.concatenate([scores_QK[found_QK], pair_score]).astype(np.float32),
            "is_positive": np.repeat([False, True], [int(found_QK.sum()), len(pair_doc)]),
        }
    )
    return schemas.conform(table, schemas.PARTIALS)


def merge_tiles(tiles: Iterable[pa.Table], depth: int) -> pa.Table:
    """Merge the tiles of one part of the queries into their candidates.

    Args:
        tiles: Schema PARTIALS, one for each group of documents; merged one by one, so that none has to wait.
        depth: Candidates kept for each query.

    Returns:
        Schema CANDIDATES, ordered by query and rank; ranks count from 1, and a positive that was not retrieved
        follows with rank 0.
    """
    query_ids = np.zeros(0, np.int64)
    best = np.zeros((0, depth), np.float32), np.zeros((0, depth), np.int64)
    labelled = [schemas.PARTIALS.empty_table()]
    for tile in tiles:
        # A positive that an approximate search did not find is the only row of its query here.
        known_ids, query_ids = query_ids, np.union1d(query_ids, tile.column("query").to_numpy())
        found = padded(tile.filter(pc.invert(tile.column("is_positive"))), query_ids)
        best = merge_top_k([_spread(best, known_ids, query_ids), found], depth)
        labelled.append(tile.filter(tile.column("is_positive")))
        # It would be held while the next one is read.
        del tile
    positives = pa.concat_tables(labelled)
    pair_row = np.searchsorted(query_ids, positives.column("query").to_numpy())
    pair = (pair_row, positives.column("doc").to_numpy(), positives.column("score").to_numpy())
    return candidates_table(query_ids, best, pair)


def _spread(
    best: tuple[np.ndarray, np.ndarray], known_ids: np.ndarray, query_ids: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of ``known_ids`` as rows of ``query_ids``, which holds them; nothing is found for the others."""
    if len(known_ids) == len(query_ids):
        return best
    shape = (len(query_ids), best[0].shape[1])
    scores_QK, docs_QK = np.full(shape, -np.inf, np.float32), np.full(shape, -1, np.int64)
    rows = np.searchsorted(query_ids, known_ids)
    scores_QK[rows], docs_QK[rows] = best
    return scores_QK, docs_QK
