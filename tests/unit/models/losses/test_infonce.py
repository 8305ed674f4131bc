"""InfoNCE against a naive loop, its numerical gradient and its invariances."""

import math

import pytest
import torch

from models.errors import ModelError
from models.losses import LOSSES
from models.losses.infonce import infonce


def make_batch(num_queries=5, num_documents=9, dimension=6, dtype=torch.float64):
    generator = torch.Generator().manual_seed(7)
    q_BD, doc_ND = (
        torch.nn.functional.normalize(torch.randn(n, dimension, generator=generator, dtype=dtype), dim=-1)
        for n in (num_queries, num_documents)
    )
    positive_B = torch.randperm(num_documents, generator=generator)[:num_queries]
    mask_BN = torch.rand(num_queries, num_documents, generator=generator) > 0.3
    weights_B = torch.tensor([1.0, 1.0, 0.5, 0.0, 1.0], dtype=dtype)[:num_queries]
    return q_BD, doc_ND, positive_B, mask_BN, weights_B


def naive(q_BD, doc_ND, positive_B, mask_BN, weights_B, temperature, normalizer, margin=None):
    total = 0.0
    for i in range(len(q_BD)):
        scores = [sum(a * b for a, b in zip(q_BD[i].tolist(), d.tolist(), strict=True)) for d in doc_ND]
        own = scores[int(positive_B[i])]
        denominator = 0.0
        for j, score in enumerate(scores):
            dropped = not mask_BN[i, j] or (margin is not None and score > own + margin)
            if j == positive_B[i] or not dropped:
                denominator += math.exp(score / temperature)
        total += float(weights_B[i]) * -math.log(math.exp(own / temperature) / denominator)
    return total / normalizer


@pytest.mark.parametrize("margin", [None, 0.0, 0.1])
@pytest.mark.parametrize("temperature", [0.05, 1.0])
def test_equals_a_naive_loop(temperature, margin):
    batch = make_batch()
    loss = infonce(*batch, temperature=temperature, normalizer=4.0, false_negative_margin=margin)
    assert loss.item() == pytest.approx(naive(*batch, temperature, 4.0, margin), rel=1e-9)


def test_gradient_is_right():
    q_BD, doc_ND, positive_B, mask_BN, weights_B = make_batch()
    q_BD.requires_grad_()
    doc_ND.requires_grad_()

    def loss(q, d):
        return infonce(q, d, positive_B, mask_BN, weights_B, temperature=0.1, normalizer=3.5)

    assert torch.autograd.gradcheck(loss, (q_BD, doc_ND))


def test_does_not_depend_on_the_order_of_rows_or_documents():
    q_BD, doc_ND, positive_B, mask_BN, weights_B = make_batch()
    rows = torch.tensor([3, 1, 4, 0, 2])
    columns = torch.tensor([8, 2, 5, 0, 7, 1, 3, 6, 4])
    place = torch.argsort(columns)
    permuted = infonce(
        q_BD[rows], doc_ND[columns], place[positive_B[rows]], mask_BN[rows][:, columns], weights_B[rows],
        temperature=0.05, normalizer=5.0,
    )  # fmt: skip
    plain = infonce(q_BD, doc_ND, positive_B, mask_BN, weights_B, temperature=0.05, normalizer=5.0)
    assert permuted.item() == pytest.approx(plain.item(), rel=1e-12)


def test_the_margin_is_strict_and_a_masked_positive_still_counts():
    q_BD = torch.tensor([[1.0, 0.0]])
    doc_ND = torch.tensor([[0.5, 0.0], [0.75, 0.0], [0.8125, 0.0]])
    nothing = torch.zeros(1, 3, dtype=torch.bool)
    every = torch.ones(1, 3, dtype=torch.bool)
    arguments = {"temperature": 1.0, "normalizer": 1.0}
    own, ones = torch.tensor([0]), torch.ones(1)
    assert infonce(q_BD, doc_ND, own, nothing, ones, **arguments).item() == 0.0
    kept = infonce(q_BD, doc_ND, own, every, ones, **arguments, false_negative_margin=0.25)
    assert kept.item() == pytest.approx(math.log(1 + math.exp(0.25)))


def test_rows_of_weight_zero_give_no_gradient():
    q_BD, doc_ND, positive_B, mask_BN, weights_B = make_batch()
    q_BD.requires_grad_()
    infonce(q_BD, doc_ND, positive_B, mask_BN, weights_B, temperature=0.05, normalizer=4.0).backward()
    assert q_BD.grad[3].abs().max() == 0 and q_BD.grad[0].abs().max() > 0


def test_losses_of_parts_add_up_to_the_loss_of_the_whole():
    q_BD, doc_ND, positive_B, mask_BN, weights_B = make_batch()
    whole = infonce(q_BD, doc_ND, positive_B, mask_BN, weights_B, temperature=0.05, normalizer=5.0)
    parts = [
        infonce(q_BD[p], doc_ND, positive_B[p], mask_BN[p], weights_B[p], temperature=0.05, normalizer=5.0)
        for p in (slice(0, 2), slice(2, 5))
    ]
    assert sum(parts).item() == pytest.approx(whole.item(), rel=1e-12)


def test_half_precision_embeddings_are_summed_in_float32():
    batch = make_batch(dtype=torch.float32)
    loss = infonce(batch[0].bfloat16(), batch[1].bfloat16(), *batch[2:], temperature=0.05, normalizer=5.0)
    assert loss.dtype == torch.float32


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_refuses_a_temperature_that_is_not_above_zero(temperature):
    with pytest.raises(ModelError, match="temperature"):
        infonce(*make_batch(), temperature=temperature, normalizer=1.0)


def test_the_recipe_finds_it_by_name():
    assert LOSSES["infonce"] is infonce
