"""The learning rate rises, falls, and is never 0."""

import pytest

from pipelines.train.schedule import learning_rate


def test_rises_to_the_peak_and_falls_to_the_last_step():
    rates = [learning_rate(step, 10, 1.0, 0.2) for step in range(10)]
    assert rates == pytest.approx([0.5, 1.0, 1.0, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8])


@pytest.mark.parametrize("num_steps", [1, 2, 3])
@pytest.mark.parametrize("warmup_ratio", [0.0, 0.1, 0.99])
def test_stays_above_zero_however_short_the_training(num_steps, warmup_ratio):
    rates = [learning_rate(step, num_steps, 2.0, warmup_ratio) for step in range(num_steps)]
    assert 0 < min(rates) <= max(rates) <= 2.0
