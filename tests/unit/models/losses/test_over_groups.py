"""Losses on the labels of a group: against loops, and against InfoNCE without other rows."""

import math

import pytest

from models.losses import LOSSES
from tests.unit.models.losses.loss_batches import dot, group_of, make_batch, mean_of, with_repeats


def scores_of(batch, row):
    return [dot(batch.q_BD[row], batch.doc_ND[column]) for column, _ in group_of(batch, row)]


@pytest.mark.parametrize("made", [make_batch, lambda: with_repeats(make_batch())])
def test_listwise_softmax_equals_a_loop(made):
    batch = made()

    def loss_of_row(row):
        scores = scores_of(batch, row)
        return math.log(sum(map(math.exp, scores))) - scores[0]

    assert LOSSES["listwise_softmax"](batch).item() == pytest.approx(mean_of(batch, loss_of_row), rel=1e-12)


def test_listwise_softmax_is_infonce_within_the_group():
    batch = make_batch()
    # No document of a group is masked.
    batch.mask_BN[:] = True
    expected = LOSSES["infonce"](batch, temperature=1.0, in_batch_negatives=False)
    assert LOSSES["listwise_softmax"](batch).item() == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize("weight", [1.0, 4.0])
def test_binary_cross_entropy_equals_a_loop(weight):
    batch = with_repeats(make_batch())

    def loss_of_row(row):
        first, *others = (1 / (1 + math.exp(-score)) for score in scores_of(batch, row))
        terms = [-weight * math.log(first), *(-math.log(1 - p) for p in others)]
        return sum(terms) / len(terms)

    found = LOSSES["binary_cross_entropy"](batch, positive_weight=weight).item()
    assert found == pytest.approx(mean_of(batch, loss_of_row), rel=1e-12)
