"""When a loss is too bad to go on: against a loop, and once too often in a row."""

import math

import numpy as np
import pytest

from pipelines.train.board import BadLoss, Board, Evaluation, StepRecord
from pipelines.train.config import TrainConfig
from pipelines.train.divergence import WINDOW, bad_loss, comparable, exceeded_limit

QUERIES = np.array([4, 7])


def records(losses):
    return [StepRecord(step, loss, 1e-3, 1.0, 100) for step, loss in enumerate(losses)]


def first_bad(losses, **settings):
    config = TrainConfig(**settings)
    found = (bad_loss(records(losses[: n + 1]), QUERIES, config) for n in range(len(losses)))
    return next((each.record.step for each in found if each), None)


def naive(losses, ratio, steps):
    for n in range(2 * steps, len(losses) + 1):
        before = [losses[i] for i in range(n - steps) if i >= n - steps - WINDOW]
        if all(losses[i] > ratio * sum(before) / len(before) for i in range(n - steps, n)):
            return n - 1
    return None


def test_equals_a_loop_over_random_walks():
    generator = np.random.default_rng(0)
    ends = []
    for _ in range(40):
        losses = np.exp(np.cumsum(generator.normal(0, 0.2, 150))).tolist()
        ends.append(naive(losses, 1.5, 4))
        assert first_bad(losses, max_loss_ratio=1.5, max_loss_steps=4) == ends[-1]
    assert None in ends and len(set(ends)) > 5


def test_a_single_outlier_and_a_bad_start_are_let_be():
    assert first_bad([1.0] * 10 + [9.0] * 4 + [1.0] * 10, max_loss_ratio=3.0) is None
    assert first_bad([9.0] * 3 + [1.0] * 20, max_loss_ratio=3.0) is None
    assert first_bad([1.0] * 10 + [9.0] * 5, max_loss_ratio=3.0) == 14
    assert first_bad([1.0] * 10 + [9.0] * 5) is None
    assert exceeded_limit([1.0] * 5 + [9.0] * 5, 3.0, 5) == 3.0
    assert exceeded_limit([1.0] * 4 + [9.0] * 5, 3.0, 5) is None


@pytest.mark.parametrize(
    "bad", [StepRecord(0, math.nan, 1e-3, 1.0, 1), StepRecord(0, 1.0, 1e-3, math.inf, 1)]
)
def test_what_is_not_finite_is_bad_at_once(bad):
    assert bad_loss([bad], QUERIES, TrainConfig()) == BadLoss(bad, [4, 7])


def test_the_board_hands_out_every_step_once_and_keeps_the_first_failure():
    board, (first, second) = Board(), records([3.0, 2.0])
    assert not board.post(first, 0.5, None)
    board.stop()
    assert board.post(second, 0.25, None)
    readings = board.read()
    assert [reading.record for reading in readings] == [first, second] and not board.read()
    assert [reading.tokens_per_s for reading in readings] == pytest.approx([200.0, 0.8 * 200 + 0.2 * 400])
    assert [reading.peak_share for reading in readings] == [None, None]
    board.fail(ValueError("first"))
    board.post(second, 1.0, BadLoss(second, [1]))
    assert str(board.failure()) == "first"


def test_the_board_tells_the_share_of_peak_and_what_was_measured():
    board, (first, second) = Board(), records([3.0, 2.0])
    board.begin(peak_tokens_per_s=800.0)
    evaluation = Evaluation(0, "ndcg@10", 0.5)
    board.post(first, 0.5, None, [evaluation])
    board.post(second, 0.5, None)
    readings = board.read()
    assert [reading.peak_share for reading in readings] == pytest.approx([0.25, 0.25])
    assert [reading.evaluations for reading in readings] == [(evaluation,), ()]


@pytest.mark.parametrize(
    ("refresh", "step", "first"),
    [
        (0, 19, 0),
        (0, 20, 20),
        (0, 39, 20),
        (15, 14, 0),
        (15, 15, 15),
        (15, 29, 20),
        (15, 30, 30),
        (15, 39, 30),
    ],
)
def test_a_loss_is_compared_within_its_stage_and_mining(refresh, step, first):
    stages = np.repeat([0, 1], 20)
    kept = comparable(records([1.0] * (step + 1)), stages, refresh)
    assert [record.step for record in kept] == list(range(first, step + 1))


def test_a_stage_of_higher_losses_is_no_divergence():
    config = TrainConfig(max_loss_ratio=3, max_loss_steps=4)
    losses, stages = [0.1] * 60 + [0.5] * 60, np.repeat([0, 1], 60)
    history = records(losses)
    apart = [bad_loss(comparable(history[: n + 1], stages, 0), QUERIES, config) for n in range(len(losses))]
    together = [bad_loss(history[: n + 1], QUERIES, config) for n in range(len(losses))]
    assert not any(apart) and any(together)
