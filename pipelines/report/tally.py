"""The measures of one method, shard by shard: whole numbers that add up, never a list of queries."""

from collections import defaultdict
from collections.abc import Mapping

import numpy as np

from pipelines.report.contrast import infonce, margins
from pipelines.report.histograms import Histograms
from pipelines.report.members import Members
from pipelines.report.ratios import Ratio
from pipelines.report.sample import Findings, Sample


class Tally:
    """Running measures of one method.

    Args:
        method: Its name.
        asked: Negatives that every group should have.
        num_docs: Documents there are.
        listed_keys: int64, (query, document) pairs known to be false negatives.
        listed_queries: Their queries; None where there is no list.
        temperature: Of the InfoNCE loss.
    """

    def __init__(
        self,
        method: str,
        asked: int,
        num_docs: int,
        listed_keys: np.ndarray,
        listed_queries: np.ndarray | None,
        temperature: float,
    ) -> None:
        self.method, self.asked, self.num_docs = method, asked, num_docs
        self._listed_keys, self._listed_queries = listed_keys, listed_queries
        self._temperature = temperature
        self._ratios: dict[str, Ratio] = defaultdict(Ratio)
        self._rank_counts = np.zeros(0, np.int64)
        self._sums = dict.fromkeys(("positive", "negative", "margin", "loss"), 0.0)
        self._counts = dict.fromkeys(self._sums, 0)
        self._sizes = {"queries": 0, "negatives": 0}
        self.unscored = 0

    def add(self, members: Members, num_eligible: int, histograms: Mapping[str, Histograms]) -> None:
        """Count one shard.

        Args:
            members: Its groups.
            num_eligible: Queries of the shard that could have a group.
            histograms: Quantity -> histograms that are counted into.
        """
        size_Q = members.num_negatives_Q
        self._sizes["queries"] += len(size_Q)
        self._sizes["negatives"] += int(size_Q.sum())
        # A query without a group is a starved one that was dropped.
        short_Q = np.ones(max(num_eligible, len(size_Q)), np.int64)
        short_Q[: len(size_Q)] = size_Q < self.asked
        self._ratios["starved"].add(short_Q, np.ones_like(short_Q))
        keys = members.negative_keys(self.num_docs)
        labelled = np.isin(keys, members.positive_keys(self.num_docs))
        self._ratios["labelled"].add(members.count_Q(labelled), size_Q)
        again = np.ones(len(keys), bool)
        again[np.unique(keys, return_index=True)[1]] = False
        self._ratios["repeated"].add(members.count_Q(again), size_Q)
        if self._listed_queries is not None:
            covered_Q = np.isin(members.query_Q, self._listed_queries)
            false_Q = members.count_Q(np.isin(keys, self._listed_keys))
            self._add_false("listed_false", false_Q[covered_Q], size_Q[covered_Q])
        self._add_ranks(members)
        self._add_scores(members, histograms)

    def _add_false(self, measure: str, false_Q: np.ndarray, size_Q: np.ndarray) -> None:
        self._ratios[measure].add(false_Q, size_Q)
        self._ratios[f"{measure}_queries"].add(false_Q > 0, np.ones_like(size_Q))

    def _add_ranks(self, members: Members) -> None:
        ranked = members.rank_N > 0
        counts = np.bincount(members.rank_N[ranked])
        longer = np.zeros(max(len(counts), len(self._rank_counts)), np.int64)
        longer[: len(self._rank_counts)] = self._rank_counts
        longer[: len(counts)] += counts
        self._rank_counts = longer
        size = len(members.query_Q)
        sum_Q = np.bincount(members.negative_row_N, members.rank_N * ranked, minlength=size)
        self._ratios["mean_rank"].add(sum_Q, members.count_Q(ranked))

    def _add_scores(self, members: Members, histograms: Mapping[str, Histograms]) -> None:
        margin_M, positive_M = margins(members)
        values = {
            "positive": members.positive_score_P[~np.isnan(members.positive_score_P)],
            "negative": members.negative_score_N[~np.isnan(members.negative_score_N)],
            "margin": margin_M,
            "loss": infonce(margin_M, positive_M, self._temperature),
        }
        self.unscored += len(members.negative_score_N) - len(values["negative"])
        for quantity, counted in values.items():
            histograms[quantity].add(self.method, counted)
            self._sums[quantity] += float(counted.sum())
            self._counts[quantity] += len(counted)

    def add_findings(
        self, sample: Sample, findings: Findings, answers: Mapping[int, tuple[str, ...]] | None
    ) -> None:
        """Count what the texts of the sampled queries say."""
        query_Q, keys = sample.queries(self.method), sample.negatives(self.method)
        row_N = np.searchsorted(query_Q, keys // self.num_docs)
        size_Q = np.bincount(row_N, minlength=len(query_Q))
        for measure in ("identical", "near_duplicate"):
            hits = np.bincount(row_N[findings.of(measure, keys)], minlength=len(query_Q))
            self._ratios[measure].add(hits, size_Q)
        if answers is not None:
            covered_Q = np.isin(query_Q, np.fromiter(answers, np.int64))
            hits = np.bincount(row_N[findings.of("answer_false", keys)], minlength=len(query_Q))
            self._add_false("answer_false", hits[covered_Q], size_Q[covered_Q])

    def rows(self, num_resamples: int, seed: int) -> list[dict[str, object]]:
        """Return rows of schema AUDIT."""
        rows = [self._row(name, float(count), count) for name, count in self._sizes.items()]
        for measure, ratio in self._ratios.items():
            estimate = ratio.estimate(num_resamples, seed)
            if estimate is not None:
                count = ratio.denominator if measure == "mean_rank" else ratio.numerator
                rows.append(self._row(measure, estimate.value, count, estimate.low, estimate.high))
        if self._rank_counts.sum():
            rows.append(self._row("median_rank", self._median_rank(), int(self._rank_counts.sum())))
        for quantity, count in self._counts.items():
            if count:
                rows.append(self._row(f"mean_{quantity}", self._sums[quantity] / count, count))
        return rows

    def _median_rank(self) -> float:
        total, reached = int(self._rank_counts.sum()), np.cumsum(self._rank_counts)
        middle = [np.searchsorted(reached, place, side="right") for place in ((total - 1) // 2, total // 2)]
        return float(np.mean(middle))

    def _row(
        self, measure: str, value: float, count: int, low: float | None = None, high: float | None = None
    ) -> dict[str, object]:
        row: dict[str, object] = {"method": self.method, "measure": measure, "value": value, "count": count}
        return row | {"ci_low": low, "ci_high": high}
