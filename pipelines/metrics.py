"""Retrieval metrics of every query, by trec_eval's definitions."""

from collections.abc import Sequence
from dataclasses import dataclass

import ir_measures
import numpy as np
from ir_measures import RR, R, nDCG
from numpy.typing import NDArray

MEASURES = {"ndcg": nDCG, "mrr": RR, "recall": R}


@dataclass(frozen=True)
class PerQuery:
    """Metrics of Q queries.

    Args:
        queries: int64 [Q], ascending; every query that has a positive.
        values: ``"ndcg@10"`` -> float64 [Q], 0 to 1.
    """

    queries: NDArray[np.int64]
    values: dict[str, NDArray[np.float64]]

    def by_query(self, metric: str) -> dict[int, float]:
        """Return one metric as query -> value."""
        return dict(zip(self.queries.tolist(), self.values[metric].tolist(), strict=True))


@dataclass(frozen=True)
class Ranking:
    """Scored candidates, in any order; of a (query, document) that stands twice the better score counts.

    Args:
        query: int64 [C].
        doc: int64 [C]; negative where a query had fewer candidates than places.
        score: float [C]; equal scores are ranked by the smaller document, as search ranks them.
    """

    query: NDArray[np.int64]
    doc: NDArray[np.int64]
    score: NDArray[np.floating]


@dataclass(frozen=True)
class Relevance:
    """Judgments of one split.

    Args:
        query: int64 [J].
        doc: int64 [J].
        relevance: float [J]; above zero is relevant. Grades count for nDCG when all are whole numbers;
            otherwise every relevant document counts as 1.
    """

    query: NDArray[np.int64]
    doc: NDArray[np.int64]
    relevance: NDArray[np.floating]


def per_query_metrics(
    ranking: Ranking,
    relevance: Relevance,
    metrics: Sequence[str] = ("ndcg@10", "mrr@10", "recall@100"),
    ignore: NDArray[np.int64] | None = None,
) -> PerQuery:
    """Return metrics of every query with a positive; a query without candidates scores 0.

    nDCG has linear gain and log2 discount, recall is the share of the positives within the first k, MRR is
    one over the rank of the first positive within k, else 0. A ranking shorter than k is taken as it is.

    Args:
        ranking: The candidates.
        relevance: The judgments.
        metrics: Each ``<name>@<k>``, the name one of ndcg, mrr, recall.
        ignore: int64 [P, 2], (query, document) to drop from ranking and judgments before scoring, such as the
            document that is the query itself.
    """
    parsed = {metric: _parse(metric) for metric in metrics}
    judged_q, judged_d, grades = _judged(relevance, ignore)
    queries = np.unique(judged_q)
    deepest = max(k for _, k in parsed.values())
    ranked_q, ranked_d, ranks = _ranked(ranking, queries, deepest, ignore)
    qrels: dict[str, dict[str, int]] = {str(query): {} for query in queries.tolist()}
    for query, doc, grade in zip(judged_q.tolist(), judged_d.tolist(), grades.tolist(), strict=True):
        qrels[str(query)][str(doc)] = max(grade, qrels[str(query)].get(str(doc), 0))
    run: dict[str, dict[str, float]] = {str(query): {} for query in queries.tolist()}
    for query, doc, rank in zip(ranked_q.tolist(), ranked_d.tolist(), ranks.tolist(), strict=True):
        # A score made of the rank leaves trec_eval no tie to break in its own way.
        run[str(query)][str(doc)] = -float(rank)
    # pytrec_eval knows reciprocal rank without a cutoff only; one below 1/k lies beyond it.
    measures = {metric: RR if name == "mrr" else MEASURES[name] @ k for metric, (name, k) in parsed.items()}
    found = {measure: np.zeros(len(queries)) for measure in measures.values()}
    position = {str(query): number for number, query in enumerate(queries.tolist())}
    if len(queries):
        provider = ir_measures.providers.registry["pytrec_eval"]
        for result in provider.iter_calc(list(found), qrels, run):
            found[result.measure][position[result.query_id]] = result.value
    values = {metric: found[measure].copy() for metric, measure in measures.items()}
    for metric, (name, k) in parsed.items():
        if name == "mrr":
            values[metric][values[metric] * k < 1 - 1e-9] = 0
    return PerQuery(queries, values)


def _parse(metric: str) -> tuple[str, int]:
    name, _, cutoff = metric.partition("@")
    assert name in MEASURES and cutoff.isdecimal() and int(cutoff) > 0, f"unknown metric {metric}"
    return name, int(cutoff)


def _judged(
    relevance: Relevance, ignore: NDArray[np.int64] | None
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    keep = (relevance.relevance > 0) & ~_ignored(relevance.query, relevance.doc, ignore)
    grades = relevance.relevance[keep]
    whole = np.array_equal(grades, np.rint(grades))
    return (
        relevance.query[keep],
        relevance.doc[keep],
        (grades if whole else np.ones_like(grades)).astype(np.int64),
    )


def _ranked(
    ranking: Ranking, queries: NDArray[np.int64], deepest: int, ignore: NDArray[np.int64] | None
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return query, document and rank (from 0) of the first ``deepest`` candidates of every judged query."""
    keep = (ranking.doc >= 0) & np.isin(ranking.query, queries)
    keep &= ~_ignored(ranking.query, ranking.doc, ignore)
    query, doc, score = ranking.query[keep], ranking.doc[keep], ranking.score[keep]
    assert not np.isnan(score).any(), "a score is not a number"
    order = np.lexsort((-score, doc, query))
    query, doc, score = query[order], doc[order], score[order]
    best = np.ones(len(query), bool)
    best[1:] = (query[1:] != query[:-1]) | (doc[1:] != doc[:-1])
    query, doc, score = query[best], doc[best], score[best]
    order = np.lexsort((doc, -score, query))
    query, doc = query[order], doc[order]
    rank = np.arange(len(query)) - np.searchsorted(query, query)
    shallow = rank < deepest
    return query[shallow], doc[shallow], rank[shallow]


def _ignored(
    query: NDArray[np.int64], doc: NDArray[np.int64], ignore: NDArray[np.int64] | None
) -> NDArray[np.bool_]:
    if ignore is None or not len(ignore):
        return np.zeros(len(query), bool)
    width = int(max(doc.max(initial=0), ignore[:, 1].max())) + 1
    return np.isin(query * width + doc, ignore[:, 0] * width + ignore[:, 1])
