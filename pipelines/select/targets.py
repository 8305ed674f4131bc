"""What a group is made for: a query with all its positives, or one labelled pair.

Shapes: Q queries, P labelled pairs, E examples (the groups to be), T teachers.
"""

from dataclasses import dataclass

import numpy as np

from pipelines.select.candidates import Candidates, Pairs
from pipelines.select.config import SelectConfig
from pipelines.select.draws import streams

NO_RANK = np.iinfo(np.int32).max


@dataclass(frozen=True)
class Targets:
    """The examples that ask for negatives, in ascending order of query.

    Args:
        row_E: Row of the query.
        pair_E: Its labelled pair; of a query with all its positives, the first of them.
        positive_ET: Score of the positive by each teacher, NaN where the teacher has none.
        best_rank_ET: Best rank of a positive by each teacher, NO_RANK where it retrieved none.
        stream_E: Where the example's random numbers begin, uint64.
    """

    row_E: np.ndarray
    pair_E: np.ndarray
    positive_ET: np.ndarray
    best_rank_ET: np.ndarray
    stream_E: np.ndarray

    @classmethod
    def of(cls, found: Candidates, config: SelectConfig) -> "Targets":
        """Return the examples of all queries that have a labelled pair."""
        pairs = found.pairs
        ranks_PT = np.where(pairs.ranks_PT > 0, pairs.ranks_PT, NO_RANK)
        if config.positives == "per_example":
            query_P = found.query_Q[pairs.row_P]
            stream_P = streams(config.seed, query_P, pairs.doc_P)
            return cls(pairs.row_P, np.arange(len(query_P)), pairs.scores_PT, ranks_PT, stream_P)
        row_E, first_E = np.unique(pairs.row_P, return_index=True)
        best_ET = np.minimum.reduceat(ranks_PT, first_E, axis=0) if len(first_E) else ranks_PT
        positive_ET = POSITIVE_SCORES[config.positive_score](pairs, first_E)
        return cls(row_E, first_E, positive_ET, best_ET, streams(config.seed, found.query_Q[row_E]))

    def take(self, kept_E: np.ndarray) -> "Targets":
        """Return some of the examples."""
        return Targets(
            self.row_E[kept_E],
            self.pair_E[kept_E],
            self.positive_ET[kept_E],
            self.best_rank_ET[kept_E],
            self.stream_E[kept_E],
        )


def smallest(pairs: Pairs, first_E: np.ndarray) -> np.ndarray:
    """Return the smallest known score of each query's positives, float32 [E, T]."""
    return np.fmin.reduceat(pairs.scores_PT, first_E, axis=0) if len(first_E) else pairs.scores_PT


def greatest(pairs: Pairs, first_E: np.ndarray) -> np.ndarray:
    """Return the greatest known score of each query's positives, float32 [E, T]."""
    return np.fmax.reduceat(pairs.scores_PT, first_E, axis=0) if len(first_E) else pairs.scores_PT


def average(pairs: Pairs, first_E: np.ndarray) -> np.ndarray:
    """Return the mean known score of each query's positives, float64 [E, T]."""
    if not len(first_E):
        return pairs.scores_PT
    known_PT = ~np.isnan(pairs.scores_PT)
    sums_ET = np.add.reduceat(np.where(known_PT, pairs.scores_PT, 0.0).astype(np.float64), first_E, axis=0)
    counts_ET = np.add.reduceat(known_PT.astype(np.int64), first_E, axis=0)
    return np.where(counts_ET > 0, sums_ET / np.maximum(counts_ET, 1), np.nan)


POSITIVE_SCORES = {"min": smallest, "max": greatest, "mean": average}


def pair_starts(pairs: Pairs, num_queries: int) -> np.ndarray:
    """Return int64 [Q + 1]: the first pair of each row, and the number of pairs."""
    return np.searchsorted(pairs.row_P, np.arange(num_queries + 1))
