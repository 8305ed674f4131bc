"""InfoNCE against a naive loop over every option, and its invariances."""

import math
from dataclasses import replace

import pytest
import torch

from models.errors import ModelError
from models.losses.batch import LossBatch
from models.losses.infonce import infonce
from tests.unit.models.losses.loss_batches import dot, group_of, make_batch, mean_of, with_repeats

ALL = ("q-d", "q-q", "d-d", "d-q")


def naive(
    batch, temperature, margin=None, guide_margin=None, hardness=0.0, partitions=("q-d",), in_batch=True
):
    guide = batch.guide

    def loss_of_row(i):
        own = int(batch.positive_B[i])
        positive = dot(batch.q_BD[i], batch.doc_ND[own])
        group = [column for column, _ in group_of(batch, i)]
        documents = [j for j in range(len(batch.doc_ND)) if j != own and batch.mask_BN[i, j]]
        documents = [j for j in documents for _ in range(max(group.count(j), 1 if in_batch else 0))]
        others = [j for j in range(len(batch.q_BD)) if batch.other_BM[i, j]]
        sides = {
            "q-d": (batch.q_BD[i], guide.q_BE[i], batch.doc_ND, guide.doc_NE, documents),
            "q-q": (batch.q_BD[i], guide.q_BE[i], batch.q_BD, guide.q_ME, others),
            "d-d": (batch.doc_ND[own], guide.doc_NE[own], batch.doc_ND, guide.doc_NE, documents),
            "d-q": (batch.doc_ND[own], guide.doc_NE[own], batch.q_BD, guide.q_ME, others),
        }
        denominator = math.exp(positive / temperature)
        for partition in partitions:
            left, guide_left, right, guide_right, columns = sides[partition]
            for j in columns:
                score = dot(left, right[j])
                if margin is not None and score > positive + margin:
                    continue
                limit = dot(guide.q_BE[i], guide.doc_NE[own]) - (guide_margin or 0.0)
                if guide_margin is not None and dot(guide_left, guide_right[j]) > limit:
                    continue
                denominator += math.exp(score / temperature + hardness * score)
        return -math.log(math.exp(positive / temperature) / denominator)

    return mean_of(batch, loss_of_row)


@pytest.mark.parametrize("margin", [None, 0.0, 0.1])
@pytest.mark.parametrize("temperature", [0.05, 1.0])
def test_equals_a_naive_loop(temperature, margin):
    batch = make_batch()
    loss = infonce(batch, temperature=temperature, false_negative_margin=margin)
    assert loss.item() == pytest.approx(naive(batch, temperature, margin), rel=1e-9)


@pytest.mark.parametrize("partitions", [("q-q",), ("d-d",), ("q-d", "d-q"), ALL])
@pytest.mark.parametrize("guide_margin", [None, 0.0, 0.2])
@pytest.mark.parametrize("hardness", [0.0, 5.0])
def test_every_partition_equals_a_naive_loop(partitions, guide_margin, hardness):
    batch = make_batch()
    options = {"guide_margin": guide_margin, "hardness": hardness, "partitions": partitions}
    loss = infonce(batch, temperature=0.2, false_negative_margin=0.3, **options)
    assert loss.item() == pytest.approx(naive(batch, 0.2, 0.3, **options), rel=1e-9)


def test_without_in_batch_negatives_a_row_has_its_own_group_alone():
    batch = make_batch()
    batch = replace(batch, mask_BN=torch.ones_like(batch.mask_BN))
    loss = infonce(batch, temperature=0.2, in_batch_negatives=False)
    assert loss.item() == pytest.approx(naive(batch, 0.2, in_batch=False), rel=1e-9)
    assert naive(batch, 0.2) > loss.item()


@pytest.mark.parametrize(
    ("partitions", "in_batch"), [(("q-d",), True), (("q-d",), False), (("d-d", "d-q"), True), (ALL, True)]
)
def test_a_repeated_negative_counts_as_often_as_it_stands_in_the_group(partitions, in_batch):
    batch = with_repeats(replace(make_batch(), mask_BN=torch.ones(5, 9, dtype=torch.bool)))
    options = {"hardness": 2.0, "partitions": partitions}
    loss = infonce(batch, temperature=0.2, in_batch_negatives=in_batch, **options)
    assert loss.item() == pytest.approx(naive(batch, 0.2, in_batch=in_batch, **options), rel=1e-9)
    once = infonce(
        replace(batch, log_counts_BN=None), temperature=0.2, in_batch_negatives=in_batch, **options
    )
    assert loss.item() > once.item() + 1e-3


def test_the_weight_of_a_hard_negative_has_no_gradient_of_its_own():
    batch = make_batch()

    def gradient(hardness):
        q_BD = batch.q_BD.clone().requires_grad_()
        # One negative each, so that the softmax can be made equal by hand.
        infonce(replace(batch, q_BD=q_BD), temperature=0.5, hardness=hardness).backward()
        return q_BD.grad

    q_BD = batch.q_BD.clone().requires_grad_()
    scores_BN = q_BD @ batch.doc_ND.T
    own = torch.nn.functional.one_hot(batch.positive_B, len(batch.doc_ND)).bool()
    logits_BN = scores_BN / 0.5 + torch.where(own, 0.0, 3.0 * scores_BN.detach())
    logits_BN = logits_BN.masked_fill(~(batch.mask_BN | own), -math.inf)
    batch.mean(torch.nn.functional.cross_entropy(logits_BN, batch.positive_B, reduction="none")).backward()
    torch.testing.assert_close(gradient(3.0), q_BD.grad)
    assert not torch.allclose(gradient(3.0), gradient(0.0))


def test_does_not_depend_on_the_order_of_rows_or_documents():
    batch = make_batch()
    rows, columns = torch.tensor([3, 1, 4, 0, 2]), torch.tensor([8, 2, 5, 0, 7, 1, 3, 6, 4])
    permuted = LossBatch(
        batch.q_BD[rows], batch.doc_ND[columns], torch.argsort(columns)[batch.positive_B[rows]],
        batch.mask_BN[rows][:, columns], batch.weights_B[rows], batch.normalizer,
    )  # fmt: skip
    plain = infonce(batch, temperature=0.05)
    assert infonce(permuted, temperature=0.05).item() == pytest.approx(plain.item(), rel=1e-12)


def test_the_margin_is_strict_and_a_masked_positive_still_counts():
    q_BD = torch.tensor([[1.0, 0.0]])
    doc_ND = torch.tensor([[0.5, 0.0], [0.75, 0.0], [0.8125, 0.0]])
    nothing = LossBatch(
        q_BD, doc_ND, torch.tensor([0]), torch.zeros(1, 3, dtype=torch.bool), torch.ones(1), 1.0
    )
    assert infonce(nothing, temperature=1.0).item() == 0.0
    every = replace(nothing, mask_BN=torch.ones(1, 3, dtype=torch.bool))
    kept = infonce(every, temperature=1.0, false_negative_margin=0.25)
    assert kept.item() == pytest.approx(math.log(1 + math.exp(0.25)))


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_refuses_a_temperature_that_is_not_above_zero(temperature):
    with pytest.raises(ModelError, match="temperature"):
        infonce(make_batch(), temperature=temperature)
