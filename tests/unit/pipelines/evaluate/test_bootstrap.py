import numpy as np
import pytest

from pipelines.evaluate.bootstrap import mean_interval, paired_difference


def test_interval_of_a_mean_is_near_the_normal_one():
    values = np.random.default_rng(1).normal(0.5, 0.2, size=400)
    found = mean_interval(values)
    half = 1.96 * values.std() / np.sqrt(400)
    assert found.mean == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_seed_decides_the_resamples():
    values = np.random.default_rng(2).random(50)
    assert mean_interval(values, seed=3) == mean_interval(values, seed=3)
    assert mean_interval(values, seed=3) != mean_interval(values, seed=4)


def test_constant_values_have_an_interval_of_no_width():
    assert mean_interval(np.full(10, 0.25)) == pytest.approx((0.25, 0.25, 0.25))
    assert mean_interval(np.array([1.0])) == (1.0, 1.0, 1.0)


def test_pairing_cancels_what_both_systems_share():
    generator = np.random.default_rng(5)
    difficulty = generator.random(300)
    baseline = difficulty * 0.9
    better = baseline + 0.02 + generator.normal(0, 0.01, 300)
    found = paired_difference(better, baseline)
    assert 0.015 < found.low < found.mean < found.high < 0.025
    # Unpaired, the two intervals overlap.
    assert mean_interval(better).low < mean_interval(baseline).high
    assert paired_difference(baseline, baseline) == (0, 0, 0)


def test_seeds_and_queries_are_drawn_both():
    generator = np.random.default_rng(7)
    seeds, queries = generator.normal(0, 0.05, (8, 1)), generator.normal(0.5, 0.2, (1, 300))
    values = seeds + queries
    found = mean_interval(values, num_resamples=4000)
    half = 1.96 * np.sqrt(seeds.var() / 8 + queries.var() / 300)
    assert found.mean == pytest.approx(values.mean())
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.1)
    # Without the spread of the seeds it were half as wide.
    assert 1.96 * np.sqrt(queries.var() / 300) < 0.75 * half
    # One seed is a list of queries.
    assert mean_interval(values[:1]) == mean_interval(values[0])
    # Queries cancel out, seeds do not.
    gained = paired_difference(values, queries[0])
    assert gained.high - gained.low == pytest.approx(2 * 1.96 * np.sqrt(seeds.var() / 8), rel=0.15)
    assert paired_difference(values, values) == (0, 0, 0)


def test_resamples_in_chunks_cover_all(monkeypatch):
    monkeypatch.setattr("pipelines.evaluate.bootstrap._CHUNK_INDICES", 1000)
    values = np.random.default_rng(6).random(90)
    found = mean_interval(values, num_resamples=500)
    assert found.low < values.mean() < found.high
    by_seed = mean_interval(np.stack([values, values + 0.1]), num_resamples=500)
    assert by_seed.low < values.mean() + 0.05 < by_seed.high


def test_wrong_input_is_our_own_bug():
    with pytest.raises(AssertionError, match="at least one query"):
        mean_interval(np.empty(0))
    with pytest.raises(AssertionError, match="not the same queries"):
        paired_difference(np.zeros(3), np.zeros(4))
    with pytest.raises(AssertionError, match="not the same queries"):
        paired_difference(np.zeros((2, 3)), np.zeros((3, 3)))
