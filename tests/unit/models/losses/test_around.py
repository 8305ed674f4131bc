"""Terms that go with other losses: matryoshka around them, spread-out beside them."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from models.losses.infonce import infonce
from models.losses.matryoshka import matryoshka
from models.losses.spread_out import spread_out
from tests.unit.models.losses.loss_batches import dot, make_batch, mean_of


def cut(emb, dimension):
    return torch.stack([row[:dimension] / row[:dimension].square().sum().sqrt() for row in emb])


@pytest.mark.parametrize("weights", [None, (1.0, 0.5, 0.25)])
def test_matryoshka_adds_up_the_loss_of_every_prefix(weights):
    batch = make_batch()
    plain = partial(infonce, temperature=0.1, partitions=("q-d", "q-q", "d-q"))
    expected = 0.0
    for dimension, weight in zip((2, 4, 6), weights or (1.0, 1.0, 1.0), strict=True):
        q_BD = cut(batch.q_BD, dimension)
        expected += weight * plain(replace(batch, q_BD=q_BD, q_MD=q_BD, doc_ND=cut(batch.doc_ND, dimension)))
    loss = matryoshka(batch, loss=plain, dimensions=(2, 4, 6), weights=weights)
    assert loss.item() == pytest.approx(float(expected), rel=1e-12)


def test_matryoshka_of_all_dimensions_is_the_loss_itself():
    batch = make_batch()
    plain = partial(infonce, temperature=0.1)
    assert matryoshka(batch, loss=plain, dimensions=(6,)).item() == pytest.approx(
        plain(batch).item(), rel=1e-12
    )


def test_spread_out_equals_a_naive_loop():
    batch = make_batch()
    positives_BD = batch.doc_ND[batch.positive_B]

    def loss_of_row(i):
        return sum(
            dot(side[i], side[j]) ** 2
            for side in (batch.q_BD, positives_BD)
            for j in range(5)
            if batch.other_BM[i, j]
        )

    assert spread_out(batch).item() == pytest.approx(mean_of(batch, loss_of_row) / 3, rel=1e-9)


def test_spread_out_is_least_where_texts_are_orthogonal():
    batch = make_batch()
    eye = torch.eye(9, dtype=torch.float64)
    apart = replace(batch, q_BD=eye[:5], q_MD=eye[:5], doc_ND=eye)
    same = replace(apart, q_BD=eye[:1].expand(5, -1), q_MD=eye[:1].expand(5, -1))
    assert spread_out(apart).item() == 0.0 and spread_out(same).item() > 0.5
