"""A ratio over queries with its bootstrap interval, kept in memory that does not grow with the queries."""

from collections import Counter
from typing import NamedTuple

import numpy as np

# Multinomial counts held at once: 64 MiB.
_CHUNK_COUNTS = 8_388_608
_CONFIDENCE = 0.95


class Estimate(NamedTuple):
    """A ratio and the percentile interval around it."""

    value: float
    low: float
    high: float


class Ratio:
    """Sum of numerators over sum of denominators, one whole number of each a query.

    To draw n queries with replacement is to draw from a multinomial how often each distinct (numerator,
    denominator) occurs; so distinct pairs with their counts are all that the bootstrap needs.
    """

    def __init__(self) -> None:
        self._queries: Counter[tuple[int, int]] = Counter()

    def add(self, numerator_Q: np.ndarray, denominator_Q: np.ndarray) -> None:
        """Add queries.

        Args:
            numerator_Q: Whole numbers, at least 0.
            denominator_Q: Whole numbers, at least 0.
        """
        numerator_Q, denominator_Q = np.asarray(numerator_Q, np.int64), np.asarray(denominator_Q, np.int64)
        width = int(denominator_Q.max(initial=0)) + 1
        distinct, counts = np.unique(numerator_Q * width + denominator_Q, return_counts=True)
        for code, count in zip(distinct.tolist(), counts.tolist(), strict=True):
            self._queries[divmod(code, width)] += count

    @property
    def num_queries(self) -> int:
        """Queries added."""
        return self._queries.total()

    @property
    def numerator(self) -> int:
        """Sum of the numerators."""
        return sum(pair[0] * count for pair, count in self._queries.items())

    @property
    def denominator(self) -> int:
        """Sum of the denominators."""
        return sum(pair[1] * count for pair, count in self._queries.items())

    def estimate(self, num_resamples: int, seed: int) -> Estimate | None:
        """Return the ratio with its 95% interval; None where there is nothing to divide by.

        Args:
            num_resamples: Resamples of the queries, with replacement.
            seed: Of the resampling.
        """
        if not self.denominator:
            return None
        ordered = sorted(self._queries.items())
        pairs_V2 = np.array([pair for pair, _ in ordered], np.float64)
        counts_V = np.array([count for _, count in ordered], np.int64)
        generator = np.random.default_rng(seed)
        share_V = counts_V / counts_V.sum()
        chunk = max(1, _CHUNK_COUNTS // len(ordered))
        drawn = []
        for start in range(0, num_resamples, chunk):
            size = min(chunk, num_resamples - start)
            drawn.append(generator.multinomial(int(counts_V.sum()), share_V, size=size) @ pairs_V2)
        sums_R2 = np.concatenate(drawn)
        # A resample may hold no query with a denominator: it says nothing of the ratio.
        useful_R2 = sums_R2[sums_R2[:, 1] > 0]
        tail = (1 - _CONFIDENCE) / 2
        low, high = np.quantile(useful_R2[:, 0] / useful_R2[:, 1], [tail, 1 - tail])
        return Estimate(self.numerator / self.denominator, float(low), float(high))
