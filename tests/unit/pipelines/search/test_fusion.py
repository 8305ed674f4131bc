import numpy as np
import pyarrow as pa

from pipelines import schemas
from pipelines.search.fusion import fuse


def listing(rows):
    names = ["query", "doc", "rank", "score", "is_positive"]
    columns = dict(zip(names, zip(*rows, strict=True), strict=True))
    return schemas.conform(
        pa.table({name: list(column) for name, column in columns.items()}), schemas.CANDIDATES
    )


def teacher(rng, queries, positives, depth):
    rows = []
    for query in queries:
        docs = rng.permutation(30)[: rng.integers(1, depth + 1)].tolist()
        rows += [(query, doc, rank, -rank, doc in positives[query]) for rank, doc in enumerate(docs, 1)]
        rows += [(query, doc, 0, -99.0, True) for doc in positives[query] if doc not in docs]
    return rows


def naive(lists, depth, constant):
    rows = []
    for query in sorted({row[0] for rows in lists for row in rows}):
        score, positives = {}, set()
        for each in lists:
            for asked, doc, rank, _, positive in each:
                if asked == query:
                    score[doc] = score.get(doc, 0.0) + (1 / (constant + rank) if rank else 0.0)
                    positives |= {doc} if positive else set()
        ranked = sorted((d for d in score if score[d]), key=lambda d: (-np.float32(score[d]), d))[:depth]
        rows += [(query, d, r, np.float32(score[d]), d in positives) for r, d in enumerate(ranked, 1)]
        rows += [(query, d, 0, np.float32(score[d]), True) for d in sorted(positives - set(ranked))]
    return rows


def test_equals_a_naive_sum_with_ties():
    rng = np.random.default_rng(0)
    queries = [3, 5, 11, 12]
    for trial in range(20):
        positives = {query: set(rng.integers(0, 30, 2).tolist()) for query in queries}
        lists = [teacher(rng, queries, positives, 12) for _ in range(1 + trial % 3)]
        depth, constant = int(rng.integers(1, 20)), int(rng.integers(0, 80))
        fused = fuse([listing(rows) for rows in lists], depth, constant)
        assert [tuple(row.values()) for row in fused.to_pylist()] == naive(lists, depth, constant)


def test_a_query_that_a_teacher_does_not_know_is_fused_from_the_others():
    one, other = [(1, 7, 1, 0.5, True)], [(1, 8, 1, 9.0, False), (2, 9, 1, 8.0, False)]
    found = fuse([listing(one), listing(other)], 5, 60).to_pylist()
    assert [(row["query"], row["doc"], row["rank"]) for row in found] == [(1, 7, 1), (1, 8, 2), (2, 9, 1)]


def test_nothing_fused_is_nothing():
    assert fuse([schemas.CANDIDATES.empty_table()] * 2, 5, 60).num_rows == 0
