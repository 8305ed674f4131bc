"""The learning rate rises, falls as its schedule says, and is never 0."""

import math

import pytest

from pipelines.train.schedule import SCHEDULES, learning_rate, learning_rates, num_warmup_steps


def rates(schedule, num_steps=10, warmup=2, peak=1.0):
    return [learning_rate(step, num_steps, peak, warmup, schedule) for step in range(num_steps)]


def test_rises_to_the_peak_and_falls_in_a_line():
    expected = [0.5, 1.0, 1.0, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8]
    assert rates("linear") == pytest.approx(expected)


def test_falls_along_half_a_cosine():
    expected = [0.5, 1.0] + [0.5 + 0.5 * math.cos(math.pi * k / 8) for k in range(8)]
    assert rates("cosine") == pytest.approx(expected)
    assert rates("cosine")[6] == pytest.approx(0.5)


def test_stays_at_the_peak():
    assert rates("constant") == [0.5] + [1.0] * 9


def test_the_warm_up_is_a_share_of_the_steps_or_a_number():
    assert num_warmup_steps(200, 0.1, None) == 20
    assert num_warmup_steps(200, 0.1, 7) == 7
    assert num_warmup_steps(200, 0.1, 0) == 0


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("num_steps", [1, 2, 3])
@pytest.mark.parametrize("warmup_ratio", [0.0, 0.1, 0.99])
def test_stays_above_zero_however_short_the_training(num_steps, warmup_ratio, schedule):
    warmup = num_warmup_steps(num_steps, warmup_ratio, None)
    found = rates(schedule, num_steps, warmup, 2.0)
    assert 0 < min(found) <= max(found) <= 2.0


def test_each_stage_warms_up_and_falls_on_its_own():
    stages = [0] * 10 + [1] * 4 + [2]
    found = learning_rates(stages, (1.0, 0.5, 2.0), 0.2, None, "linear")
    assert found == pytest.approx(rates("linear") + rates("linear", 4, 1, 0.5) + [2.0])
    assert learning_rates(stages[:14], (1.0, 1.0), 0.2, 3, "cosine") == pytest.approx(
        rates("cosine", 10, 3) + rates("cosine", 4, 3)
    )
    assert learning_rates([0] * 10, (1.0,), 0.2, None, "linear") == rates("linear")
