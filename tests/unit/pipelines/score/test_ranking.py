"""Ranking by scores against a loop."""

import numpy as np
import pyarrow as pa
import pytest

from pipelines import schemas
from pipelines.score.gather import kept_candidates
from pipelines.score.ranking import rerank, scores_of
from tests.tiny_scoring import candidate_rows, naive_rerank


def judge(query, doc):
    return float(np.float32(((query * 7 + doc * 13) % 5) - 2.5))  # many ties


@pytest.mark.parametrize("depth", [1, 3, 6, 100])
def test_equal_to_a_loop(depth):
    rows = candidate_rows()
    table = pa.Table.from_pylist(rows, schema=schemas.CANDIDATES)
    kept = kept_candidates(table, depth)
    scores = np.array([judge(row["query"], row["doc"]) for row in kept.to_pylist()], np.float32)
    shuffled = np.random.default_rng(1).permutation(kept.num_rows)
    ranked = rerank(kept.take(pa.array(shuffled)), scores[shuffled], depth, "none")
    assert ranked.schema.equals(schemas.CANDIDATES, check_metadata=True)
    assert [tuple(row.values()) for row in ranked.to_pylist()] == naive_rerank(rows, depth, judge)


def test_sigmoid_changes_scores_but_no_rank():
    kept = pa.Table.from_pylist(candidate_rows(), schema=schemas.CANDIDATES)
    # Two of them are 1 in float32: the logit decides.
    scores = np.linspace(-800, 40, kept.num_rows).astype(np.float32)
    plain, squashed = (rerank(kept, scores, 6, activation) for activation in ("none", "sigmoid"))
    assert squashed.drop_columns("score").equals(plain.drop_columns("score"))
    expected = [1 / (1 + np.exp(-float(s))) if s > -700 else 0.0 for s in plain.column("score").to_pylist()]
    np.testing.assert_allclose(squashed.column("score").to_numpy(), expected, atol=1e-7)


def test_scores_are_found_by_pair():
    kept = pa.Table.from_pylist(candidate_rows(), schema=schemas.CANDIDATES)
    everything = [(query, doc) for query in range(14) for doc in range(40)]
    pieces = [
        pa.table(
            {
                "query": [query for query, _ in part],
                "doc": [doc for _, doc in part],
                "score": np.array([query * 100 + doc for query, doc in part], np.float32),
            }
        )
        for part in (everything[::2], everything[1::2], [])
        if part
    ]
    found = scores_of(kept, pieces, 40)
    assert found.tolist() == [row["query"] * 100 + row["doc"] for row in kept.to_pylist()]
    with pytest.raises(AssertionError, match="not scored"):
        scores_of(kept, pieces[:1], 40)


def test_nothing_to_rank():
    nothing = schemas.CANDIDATES.empty_table()
    assert rerank(nothing, scores_of(nothing, [], 1), 5, "none").num_rows == 0
