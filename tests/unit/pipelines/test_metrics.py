from math import log2

import numpy as np
import pytest

from pipelines.metrics import Ranking, Relevance, per_query_metrics


def ranking(rows):
    query, doc, score = zip(*rows, strict=True)
    return Ranking(np.array(query, np.int64), np.array(doc, np.int64), np.array(score, np.float32))


def relevance(rows):
    query, doc, grade = zip(*rows, strict=True)
    return Relevance(np.array(query, np.int64), np.array(doc, np.int64), np.array(grade, np.float32))


def test_hand_checked_values():
    run = ranking([(7, 1, 0.9), (7, 2, 0.8), (7, 3, 0.7), (9, 5, 0.2), (9, 4, 0.6)])
    judged = relevance([(7, 2, 1), (7, 3, 3), (7, 8, 1), (9, 4, 1)])
    found = per_query_metrics(run, judged, ["ndcg@3", "mrr@3", "recall@2"])
    ideal = 3 + 1 / log2(3) + 1 / 2
    assert found.queries.tolist() == [7, 9]
    assert found.values["ndcg@3"] == pytest.approx([(1 / log2(3) + 3 / 2) / ideal, 1.0])
    assert found.values["mrr@3"] == pytest.approx([0.5, 1.0])
    assert found.values["recall@2"] == pytest.approx([1 / 3, 1.0])
    assert found.by_query("mrr@3") == {7: 0.5, 9: 1.0}


def test_a_reciprocal_rank_beyond_the_cutoff_is_zero():
    run = ranking([(0, doc, 1 - doc / 100) for doc in range(20)])
    judged = relevance([(0, 10, 1)])
    found = per_query_metrics(run, judged, ["mrr@10", "mrr@11", "recall@10", "recall@11"])
    assert {name: value[0] for name, value in found.values.items()} == pytest.approx(
        {"mrr@10": 0, "mrr@11": 1 / 11, "recall@10": 0, "recall@11": 1}
    )


def test_ties_go_to_the_smaller_document_whatever_the_order_of_the_rows():
    rows = [(0, 12, 0.5), (0, 3, 0.5), (0, 101, 0.5)]
    judged = relevance([(0, 12, 1)])
    for order in ([0, 1, 2], [2, 1, 0], [1, 0, 2]):
        found = per_query_metrics(ranking([rows[i] for i in order]), judged, ["mrr@10"])
        assert found.values["mrr@10"] == pytest.approx([0.5])


def test_a_document_that_stands_twice_counts_once_at_its_better_score():
    run = ranking([(0, 1, 0.9), (0, 1, 0.95), (0, 1, 0.1), (0, 2, 0.5)])
    assert per_query_metrics(run, relevance([(0, 2, 1)]), ["mrr@10"]).values["mrr@10"] == pytest.approx([0.5])


def test_ignored_pairs_leave_ranking_and_judgments():
    run = ranking([(0, 1, 0.9), (0, 2, 0.5), (1, 1, 0.4)])
    judged = relevance([(0, 2, 1), (0, 1, 1), (1, 1, 1)])
    found = per_query_metrics(run, judged, ["ndcg@10"], ignore=np.array([[0, 1]]))
    assert found.values["ndcg@10"] == pytest.approx([1.0, 1.0])


def test_queries_without_candidates_score_zero_and_unjudged_ones_are_left_out():
    run = ranking([(0, 1, 0.9), (5, 1, 0.9), (0, -1, -np.inf)])
    found = per_query_metrics(run, relevance([(0, 1, 1), (3, 1, 1), (4, 1, 0)]), ["ndcg@10", "recall@100"])
    assert found.queries.tolist() == [0, 3]
    assert found.values["ndcg@10"].tolist() == [1.0, 0.0]


def test_fractional_relevance_counts_as_relevant():
    run = ranking([(0, 1, 0.9), (0, 2, 0.8)])
    found = per_query_metrics(run, relevance([(0, 2, 0.3), (0, 1, 2.5)]), ["ndcg@10"])
    assert found.values["ndcg@10"] == pytest.approx([1.0])


def test_metrics_agree_with_a_naive_reference():
    generator = np.random.default_rng(0)
    rows, judged = [], []
    for query in range(40):
        rows += [(query, doc, generator.random()) for doc in generator.permutation(60)[:30]]
        judged += [(query, doc, generator.integers(1, 4)) for doc in generator.permutation(60)[:4]]
    found = per_query_metrics(ranking(rows), relevance(judged), ["ndcg@10", "mrr@10", "recall@20"])
    for query in range(40):
        ranked = [
            doc for _, doc, _ in sorted((r for r in rows if r[0] == query), key=lambda r: -np.float32(r[2]))
        ]
        grade = {doc: g for q, doc, g in judged if q == query}
        dcg = sum(grade.get(doc, 0) / log2(i + 2) for i, doc in enumerate(ranked[:10]))
        ideal = sum(g / log2(i + 2) for i, g in enumerate(sorted(grade.values(), reverse=True)))
        rank = next((i for i, doc in enumerate(ranked[:10]) if doc in grade), None)
        assert found.values["ndcg@10"][query] == pytest.approx(dcg / ideal)
        assert found.values["mrr@10"][query] == pytest.approx(0 if rank is None else 1 / (rank + 1))
        assert found.values["recall@20"][query] == pytest.approx(len(grade.keys() & set(ranked[:20])) / 4)


def test_empty_ranking():
    empty = Ranking(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))
    assert per_query_metrics(empty, relevance([(0, 1, 1)]), ["mrr@10"]).values["mrr@10"].tolist() == [0.0]
    none = Relevance(empty.query, empty.doc, empty.score)
    assert len(per_query_metrics(empty, none, ["mrr@10"]).queries) == 0
