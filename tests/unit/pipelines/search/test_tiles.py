"""Tiles and their merge against brute force over all documents."""

import json
import weakref
from functools import partial
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from cluster.artifacts import ArtifactStore
from cluster.errors import UserError
from models.errors import ModelError
from models.search.exact import Documents
from models.search.merge import merge_top_k
from pipelines import schemas
from pipelines.search.merging import merge_range
from pipelines.search.tables import candidates_table, padded
from pipelines.search.tiles import merge_tiles, search_tile, take_queries

DIMENSION, DEPTH = 16, 7


def corpus(seed: int):
    rng = np.random.default_rng(seed)
    docs = rng.normal(size=(90, DIMENSION)).astype(np.float32)
    docs[60:75] = docs[5]  # fifteen copies: ties that straddle the cut and the groups
    docs /= np.linalg.norm(docs, axis=1, keepdims=True)
    queries = rng.normal(size=(12, DIMENSION)).astype(np.float32)
    queries[0] = docs[5] * 2
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    query_ids = np.arange(100, 136, 3)
    pairs = (np.arange(12).repeat(2), rng.permutation(90)[:24])
    return (query_ids, queries.astype(np.float32)), docs.astype(np.float32), pairs


def brute_force(queries, docs, pairs):
    rows = []
    for row, (query, vector) in enumerate(zip(queries[0].tolist(), queries[1], strict=True)):
        scores = np.array([np.float32(vector.astype(np.float64) @ doc.astype(np.float64)) for doc in docs])
        order = sorted(range(len(docs)), key=lambda d: (-round(float(scores[d]), 5), d))
        positives = set(pairs[1][pairs[0] == row].tolist())
        ranked = order[:DEPTH]
        rows += [(query, d, rank, d in positives) for rank, d in enumerate(ranked, 1)]
        rows += [(query, d, 0, True) for d in sorted(positives - set(ranked))]
    return rows


def tile(queries, documents, pairs, backend="torch"):
    return search_tile(queries, documents, pairs, DEPTH, partial(documents.top_k, backend=backend))


@pytest.mark.parametrize("backend", ["faiss", "torch"])
@pytest.mark.parametrize("cuts", [[0, 90], [0, 40, 90], [0, 7, 8, 64, 70, 90]])
def test_equals_brute_force_on_every_grid(backend, cuts):
    queries, docs, pairs = corpus(0)
    groups = [np.arange(start, stop) for start, stop in pairwise(cuts)]
    tiles = [tile(queries, Documents(docs[ids], int(ids[0])), pairs, backend) for ids in groups]
    merged = merge_tiles(tiles, DEPTH)
    assert [tuple(row.values()) for row in merged.drop(["score"]).to_pylist()] == brute_force(
        queries, docs, pairs
    )
    assert merged.schema.equals(schemas.CANDIDATES, check_metadata=True)
    one = merge_tiles([tile(queries, Documents(docs), pairs)], DEPTH)
    assert merged.equals(one), "scores must not depend on the grid or the backend, to the last bit"


def test_chunks_are_merged_as_documents():
    queries, docs, pairs = corpus(2)
    row_docs = np.repeat(np.arange(45), 2)
    pairs = (pairs[0], pairs[1] // 2)
    groups = [slice(0, 30), slice(30, 90)]
    tiles = [tile(queries, Documents(docs[rows], row_docs=row_docs[rows]), pairs) for rows in groups]
    merged = merge_tiles(tiles, DEPTH).to_pylist()
    for row, query in enumerate(queries[0].tolist()):
        best = [max(float(queries[1][row] @ docs[2 * doc + i]) for i in (0, 1)) for doc in range(45)]
        expected = sorted(range(45), key=lambda doc: (-round(best[doc], 5), doc))[:DEPTH]
        mine = [found for found in merged if found["query"] == query]
        assert [found["doc"] for found in mine if found["rank"]] == expected
        positives = set(pairs[1][pairs[0] == row].tolist())
        assert {found["doc"] for found in mine if found["is_positive"]} == positives
        assert all(abs(found["score"] - best[found["doc"]]) < 1e-5 for found in mine)


def test_a_positive_without_an_embedding_is_refused():
    queries, docs, _ = corpus(1)
    absent = Documents(docs[[0, 1, 3]], row_docs=np.array([0, 1, 3]))
    assert not absent.holds(np.array([2]))[0]
    with pytest.raises(ModelError, match="no embedding here"):
        absent.pair_scores(queries[1], np.array([0]), np.array([2]))


def test_queries_are_taken_from_their_shards_alone():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(9, 4)).astype(np.float16)
    ids = np.array([1, 2, 4, 5, 6, 8, 9, 11, 12])
    shards = [(ids[:4], vectors[:4]), (ids[4:], vectors[4:])]
    taken = take_queries(shards, np.array([2, 5, 11]))
    assert taken.dtype == np.float32 and np.array_equal(taken, vectors[[1, 3, 7]].astype(np.float32))
    with pytest.raises(UserError, match="query 7"):
        take_queries(shards, np.array([2, 7]))


def test_an_empty_tile_merges_to_nothing():
    empty = schemas.PARTIALS.empty_table()
    assert merge_tiles([empty], DEPTH).num_rows == 0


def merged_at_once(tiles):
    """Merge with all tiles in memory."""
    query_ids = np.unique(np.concatenate([each.column("query").to_numpy() for each in tiles]))
    parts = [padded(each.filter(pc.invert(each.column("is_positive"))), query_ids) for each in tiles]
    positives = pa.concat_tables([each.filter(each.column("is_positive")) for each in tiles])
    row = np.searchsorted(query_ids, positives.column("query").to_numpy())
    pair = row, positives.column("doc").to_numpy(), positives.column("score").to_numpy()
    return candidates_table(query_ids, merge_top_k(parts, DEPTH), pair)


class OneAtATime:
    """Stands for a writer, and fails where a tile is read while another is held."""

    def __init__(self, writer):
        self._writer, self._held, self.num_read = writer, None, 0

    def read_finished(self, shard):
        assert self._held is None or self._held() is None, "two tiles are held at once"
        table = self._writer.read_finished(shard)
        self._held, self.num_read = weakref.ref(table), self.num_read + 1
        return table

    def write_shard(self, *arguments):
        return self._writer.write_shard(*arguments)


@pytest.mark.parametrize("cuts", [[0, 90], [0, 40, 90], [0, 7, 8, 64, 70, 90]])
def test_a_range_is_merged_holding_one_tile(tmp_path, cuts):
    (ids, vectors), docs, (pair_row, pair_doc) = corpus(3)
    rng = np.random.default_rng(0)
    writer = ArtifactStore(str(tmp_path)).open("search", "tiny", "0" * 20)
    tiles, told = [], []
    for rows in (np.arange(5), np.arange(5, 12)):
        mine = np.isin(pair_row, rows)
        pairs = pair_row[mine] - rows[0], pair_doc[mine]
        part = []
        for start, stop in pairwise(cuts):
            found = tile((ids[rows], vectors[rows]), Documents(docs[start:stop], start), pairs)
            # An approximate search may find nothing for a query, not even in the first group.
            missed = pc.is_in(found.column("query"), pa.array(rng.choice(ids[rows], 2, replace=False)))
            part.append(found.filter(pc.or_(found.column("is_positive"), pc.invert(missed))))
        told.append([])
        for each in part:
            shard = writer.write_shard("tiles", len(told) * 10 + len(told[-1]), each)
            told[-1].append(shard.model_dump(mode="json"))
        tiles.append(part)
    reader = OneAtATime(writer)
    merge_range({"range": 4, "parts": json.dumps(told)}, reader, DEPTH)
    assert reader.num_read == 2 * (len(cuts) - 1)
    candidates = writer.read_finished(writer.finished("candidates")[4])
    assert candidates.equals(pa.concat_tables([merged_at_once(part) for part in tiles]).combine_chunks())
