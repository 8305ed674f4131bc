"""Percentile bootstrap over queries and seeds: how far a mean, or a difference of means, could be chance.

Efron, "Bootstrap methods: another look at the jackknife", 1979; for retrieval, Sakai, "Evaluating evaluation
metrics based on the bootstrap", SIGIR 2006.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

# Resampled indices held at once: 64 MiB.
_CHUNK_INDICES = 8_388_608


class Interval(NamedTuple):
    """An estimate and the interval around it."""

    mean: float
    low: float
    high: float


def mean_interval(
    values: NDArray[np.float64], num_resamples: int = 2000, confidence: float = 0.95, seed: int = 0
) -> Interval:
    """Return the mean of one metric over queries, or over seeds and queries, with its bootstrap interval.

    Seeds and queries are crossed: every resample draws both, with replacement (Owen, "The pigeonhole bootstrap", 2007).
    Few seeds tell little of seeds: with S of them their share of the variance comes out (S - 1) / S of what it is.

    Args:
        values: float64 [Q], one value a query, Q >= 1; or [S, Q], a row a seed, S >= 1.
        num_resamples: Resamples of the queries (and of the seeds), with replacement.
        confidence: Share of the resampled means inside the interval.
        seed: Seed of the resampling.
    """
    by_seed = np.atleast_2d(values)
    num_seeds, num_queries = by_seed.shape
    assert by_seed.ndim == 2 and by_seed.size, "the bootstrap needs at least one query"
    assert np.isfinite(values).all(), "a value is not finite"
    generator = np.random.default_rng(seed)
    chunk = max(1, _CHUNK_INDICES // num_queries)
    means = np.empty(num_resamples)
    for start in range(0, num_resamples, chunk):
        size = min(chunk, num_resamples - start)
        drawn = generator.integers(0, num_queries, size=(size, num_queries))
        if num_seeds == 1:
            means[start : start + size] = by_seed[0][drawn].mean(axis=1)
            continue
        times = generator.multinomial(num_seeds, [1 / num_seeds] * num_seeds, size=size)
        means[start : start + size] = np.take_along_axis(times @ by_seed / num_seeds, drawn, axis=1).mean(
            axis=1
        )
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(float(values.mean()), float(low), float(high))


def paired_difference(
    values: NDArray[np.float64],
    baseline: NDArray[np.float64],
    num_resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Return the mean of ``values - baseline`` with its paired bootstrap interval.

    Both systems answer the same resampled queries, so how hard a query is cancels out.

    Args:
        values: float64 [Q], one value a query; or [S, Q], a row a seed.
        baseline: float64 [Q], the same queries in the same order; or [S, Q], the same seeds besides.
        num_resamples: Resamples of the queries, with replacement.
        confidence: Share of the resampled differences inside the interval.
        seed: Seed of the resampling.
    """
    same = values.shape[-1:] == baseline.shape[-1:] and baseline.shape in (values.shape, values.shape[-1:])
    assert same, f"{values.shape} and {baseline.shape} are not the same queries"
    return mean_interval(values - baseline, num_resamples, confidence, seed)
