"""Ratios, histograms, losses and overlaps against the plain way of computing them."""

import math

import numpy as np
import pytest

from pipelines.report.agreement import Agreement
from pipelines.report.contrast import infonce
from pipelines.report.histograms import MAX_BINS, Histograms
from pipelines.report.overlap import jaccard, shingle_matrix
from pipelines.report.plots import nice_ticks
from pipelines.report.ratios import Ratio


def test_a_ratio_equals_a_bootstrap_that_draws_queries():
    rng = np.random.default_rng(0)
    size = rng.integers(0, 5, 600)
    hits = rng.binomial(size, 0.2)
    ratio = Ratio()
    for start in range(0, 600, 200):
        ratio.add(hits[start : start + 200], size[start : start + 200])
    found = ratio.estimate(4000, seed=1)
    drawn = rng.integers(0, 600, (4000, 600))
    naive = hits[drawn].sum(axis=1) / size[drawn].sum(axis=1)
    low, high = np.quantile(naive, [0.025, 0.975])
    assert found.value == hits.sum() / size.sum()
    assert found.low == pytest.approx(low, abs=0.003) and found.high == pytest.approx(high, abs=0.003)
    assert (ratio.numerator, ratio.denominator, ratio.num_queries) == (hits.sum(), size.sum(), 600)


def test_a_ratio_of_nothing_has_no_estimate():
    ratio = Ratio()
    assert ratio.estimate(100, 0) is None
    ratio.add(np.zeros(3), np.zeros(3))
    assert ratio.estimate(100, 0) is None


def test_an_interval_does_not_depend_on_the_order_of_shards():
    rng = np.random.default_rng(3)
    parts = [(rng.integers(0, 3, 50), rng.integers(3, 6, 50)) for _ in range(4)]
    one, other = Ratio(), Ratio()
    for part in parts:
        one.add(*part)
    for part in reversed(parts):
        other.add(*part)
    assert one.estimate(200, 5) == other.estimate(200, 5)


def test_histograms_are_the_same_in_any_order_and_fit_their_bins():
    rng = np.random.default_rng(1)
    parts = [rng.normal(scale, scale, 300) for scale in (0.001, 0.1, 40.0)]
    one, other = Histograms(["a", "b"]), Histograms(["a", "b"])
    for part in parts:
        one.add("a", part)
        one.add("b", part[:10])
    for part in reversed(parts):
        other.add("b", part[:10])
        other.add("a", part)
    rows = one.rows("loss")
    assert rows == other.rows("loss")
    mine = [row for row in rows if row["method"] == "a"]
    values = np.concatenate(parts)
    assert len(mine) <= MAX_BINS and sum(row["count"] for row in mine) == 900
    for row in mine:
        assert row["count"] == ((values >= row["bin_low"]) & (values < row["bin_high"])).sum()
    widths = {row["bin_high"] - row["bin_low"] for row in rows}
    assert len(widths) == 1 and len(mine) > MAX_BINS // 2 - 2


def test_one_value_far_from_zero_has_a_bin():
    histograms = Histograms(["a"])
    histograms.add("a", np.array([3.0e38]))
    (row,) = histograms.rows("score")
    assert row["count"] == 1 and row["bin_low"] <= 3.0e38 < row["bin_high"]
    assert Histograms(["a"]).rows("score") == []


def test_the_loss_does_not_overflow_at_small_temperatures():
    margin = np.array([-0.9, 0.5, 0.9, -0.2])
    positive = np.array([0, 0, 4, 9])
    found = infonce(margin, positive, 0.001)
    assert np.allclose(found, [900.0, 0.0, 200.0])
    naive = [math.log(1 + sum(math.exp(-m / 0.5) for m in group)) for group in ([-0.9, 0.5], [0.9], [-0.2])]
    assert np.allclose(infonce(margin, positive, 0.5), naive)


def test_jaccard_equals_sets_of_words():
    rng = np.random.default_rng(2)
    texts = [" ".join(rng.choice(["a", "b", "c"], rng.integers(0, 14))) for _ in range(40)]
    texts += ["A  B, c a-b", "a b c a b", "...", ""]
    sets = []
    for text in texts:
        words = "".join(letter if letter.isalnum() else " " for letter in text.lower()).split()
        runs = {tuple(words[i : i + 5]) for i in range(max(1, len(words) - 4))} if words else set()
        sets.append(runs)
    first, second = (each.ravel() for each in np.indices((len(texts), len(texts))))
    found = jaccard(shingle_matrix(texts), first, second)
    for a, b, share in zip(first.tolist(), second.tolist(), found.tolist(), strict=True):
        union = sets[a] | sets[b]
        assert share == pytest.approx(len(sets[a] & sets[b]) / len(union) if union else 0.0)


def test_scripts_without_spaces_have_a_word_a_character():
    held = shingle_matrix(["\u4e00\u4e8c\u4e09\u56db\u4e94\u516d", "\u4e00\u4e8c\u4e09\u56db\u4e94\u4e03"])
    assert jaccard(held, np.array([0]), np.array([1]))[0] == pytest.approx(1 / 3)


def test_teachers_without_candidates_for_a_query_do_not_agree_on_it():
    import pyarrow as pa

    def table(rows):
        query, doc, rank, positive = zip(*rows, strict=True)
        return pa.table({"query": query, "doc": doc, "rank": rank, "is_positive": positive})

    agreement = Agreement(["a", "b"], 2)
    # Query 3 is answered by `a` alone; query 5 has a labelled positive and nothing else.
    a = table([(1, 10, 1, False), (1, 11, 2, False), (3, 9, 1, False), (5, 8, 1, True)])
    b = table([(1, 11, 1, False), (1, 12, 2, False), (5, 8, 1, True)])
    agreement.add({"a": a, "b": b})
    found = {(row["teacher_a"], row["teacher_b"]): row["jaccard"] for row in agreement.rows()}
    assert found["a", "b"] == found["b", "a"] == pytest.approx((1 / 3 + 0) / 2)


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-0.13, 0.87), (0, 15.2), (3e-5, 4e-5), (-900, 20)])
def test_ticks_are_round_and_inside(low, high):
    ticks = nice_ticks(low, high)
    steps = np.diff(ticks)
    assert 3 <= len(ticks) <= 8 and low - 1e-9 <= ticks[0] and ticks[-1] <= high + 1e-9
    assert np.allclose(steps, steps[0])
    digits = steps[0] / 10 ** math.floor(math.log10(steps[0]) + 1e-9)
    assert min(abs(digits - round_) for round_ in (1, 2, 5, 10)) < 1e-6
