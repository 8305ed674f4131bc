"""Tiles and their merge against brute force over all documents."""

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest

from models.search.exact import Documents
from pipelines import schemas
from pipelines.search.grid import plan_grid
from pipelines.search.tiles import merge_tiles, search_tile

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
    pairs = pa.table({"query": query_ids.repeat(2), "doc": rng.permutation(90)[:24]})
    return (query_ids, queries.astype(np.float32)), docs.astype(np.float32), pairs


def brute_force(queries, docs, pairs):
    query_ids, vectors = queries
    rows = []
    for query, vector in zip(query_ids.tolist(), vectors, strict=True):
        scores = np.array([np.float32(vector.astype(np.float64) @ doc.astype(np.float64)) for doc in docs])
        order = sorted(range(len(docs)), key=lambda d: (-round(float(scores[d]), 5), d))
        positives = {p["doc"] for p in pairs.to_pylist() if p["query"] == query}
        ranked = order[:DEPTH]
        rows += [(query, d, rank, d in positives) for rank, d in enumerate(ranked, 1)]
        rows += [(query, d, 0, True) for d in positives - set(ranked)]
    return rows


@pytest.mark.parametrize("backend", ["faiss", "torch"])
@pytest.mark.parametrize("cuts", [[0, 90], [0, 40, 90], [0, 7, 8, 64, 70, 90]])
def test_equals_brute_force_on_every_grid(backend, cuts):
    queries, docs, pairs = corpus(0)
    groups = [np.arange(start, stop) for start, stop in pairwise(cuts)]
    tiles = [search_tile(queries, Documents(docs[ids], int(ids[0])), pairs, DEPTH, backend) for ids in groups]
    merged = merge_tiles(tiles, queries[0], DEPTH)
    got = [(r["query"], r["doc"], r["rank"], r["is_positive"]) for r in merged.to_pylist()]
    expected = brute_force(queries, docs, pairs)
    assert sorted(got) == sorted(expected)
    assert merged.schema.equals(schemas.CANDIDATES, check_metadata=True)
    one = merge_tiles([search_tile(queries, Documents(docs), pairs, DEPTH, "faiss")], queries[0], DEPTH)
    assert merged.equals(one), "scores must not depend on the grid or the backend, to the last bit"


def test_a_query_range_without_queries_is_an_empty_table():
    queries, docs, pairs = corpus(1)
    nobody = (queries[0][:0], queries[1][:0])
    tile = search_tile(nobody, Documents(docs), pairs, DEPTH, "faiss")
    assert merge_tiles([tile], nobody[0], DEPTH).num_rows == 0


def test_the_grid_covers_every_shard_once_and_keeps_its_bounds():
    documents, queries = np.array([5, 5, 20, 1, 1]), np.array([3, 3, 3])
    grid = plan_grid(documents, queries, group_rows=10, range_rows=6)
    assert grid.document_groups == ((0, 2), (2, 3), (3, 5))
    assert grid.query_ranges == ((0, 2), (2, 3))
    assert sorted(grid.tile(g, r) for g in range(3) for r in range(2)) == list(range(grid.num_tiles))
