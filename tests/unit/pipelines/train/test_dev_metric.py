"""What the course of the dev metric says: the best weights, and when there is nothing more to gain."""

import math

import numpy as np
import pytest

from pipelines.train.board import Evaluation
from pipelines.train.dev_metric import best, is_due, is_exhausted


def course(values, every=5):
    return [Evaluation(every * place, "ndcg@10", value) for place, value in enumerate(values)]


def test_the_best_is_the_first_of_the_highest_after_a_step():
    assert best(course([0.9, 0.3, 0.5, 0.5, 0.4])).steps == 10
    assert best(course([0.9])) is None and best([]) is None
    assert best(course([0.1, math.nan, 0.2, math.nan])).steps == 10
    assert best(course([0.1, math.nan])) is None


def stops_at(values, patience):
    """Return the evaluation after which a training ends: counted one by one."""
    highest, waited = -math.inf, 0
    for place, value in enumerate(values):
        if value > highest:
            highest, waited = value, 0
        elif place:
            waited += 1
        if waited == patience:
            return place
    return None


@pytest.mark.parametrize("patience", [1, 2, 3])
def test_patience_equals_a_count(patience):
    generator = np.random.default_rng(patience)
    ends = []
    for _ in range(60):
        values = np.round(generator.random(12), 1).tolist()
        found = (n for n in range(12) if is_exhausted(course(values[: n + 1]), patience))
        ends.append(stops_at(values, patience))
        assert next(found, None) == ends[-1]
    assert len(set(ends)) > 3


def test_without_patience_it_never_ends_and_nan_is_no_gain():
    assert not is_exhausted(course([0.5] * 50), None)
    assert is_exhausted(course([0.5, math.nan, math.nan]), 2)
    assert not is_exhausted(course([math.nan, 0.1]), 1)


def test_it_is_due_at_the_beginning_at_the_end_and_between():
    assert [steps for steps in range(12) if is_due(steps, 11, 4)] == [0, 4, 8, 11]
