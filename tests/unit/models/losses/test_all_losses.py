"""What every loss owes: a right gradient, parts that add up, no say for rows of weight zero, float32 sums."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from models.losses import LOSSES
from tests.unit.models.losses.loss_batches import make_batch, rows_of

CASES = {
    "infonce": {"temperature": 0.1},
    "infonce partitions": {"temperature": 0.1, "partitions": ("q-d", "q-q", "d-d", "d-q"), "guide_margin": 0.1},
    "infonce own": {"temperature": 0.1, "in_batch_negatives": False, "false_negative_margin": 0.3},
    "clp": {"temperature": 0.1, "lam": 0.3},
    "soft_labels": {"temperature": 0.1, "teacher_temperature": 0.7},
    "margin_mse": {"teacher_scale": 0.5},
    "listwise_kl": {"student_temperature": 0.2, "teacher_temperature": 0.7},
    "bixse": {"temperature": 0.2, "sigmoid_targets": True},
    "spread_out": {},
    "matryoshka": {
        "loss": partial(LOSSES["clp"], temperature=0.1), "dimensions": (2, 4, 6), "weights": (1.0, 0.5, 2.0),
    },
}  # fmt: skip
DIFFERENTIABLE = {
    **CASES,
    # What stops the gradient would be seen by finite differences.
    "infonce partitions": {**CASES["infonce partitions"], "guide_margin": None},
}


def loss_of(case):
    return partial(LOSSES[case.split()[0]], **CASES[case])


def test_every_loss_of_a_recipe_is_here():
    assert {case.split()[0] for case in CASES} == set(LOSSES)


@pytest.mark.parametrize("case", DIFFERENTIABLE)
def test_gradient_is_right(case):
    batch = make_batch()
    # The queries are the gathered queries too: their gradient has two paths.
    tensors = [each.clone().requires_grad_() for each in (batch.q_BD, batch.doc_ND, batch.answer_QD)]
    function = partial(LOSSES[case.split()[0]], **DIFFERENTIABLE[case])

    def loss(q, d, a):
        return function(replace(batch, q_BD=q, q_MD=q, doc_ND=d, answer_QD=a))

    assert torch.autograd.gradcheck(loss, tensors)


@pytest.mark.parametrize("case", CASES)
def test_parts_add_up_to_the_whole(case):
    batch = make_batch()
    parts = [loss_of(case)(rows_of(batch, rows)) for rows in (slice(0, 2), slice(2, 4), slice(4, 5))]
    assert sum(parts).item() == pytest.approx(loss_of(case)(batch).item(), rel=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_rows_of_weight_zero_give_no_gradient(case):
    batch = make_batch()
    # Of rows that other rows look at the mask decides, which padding never passes.
    q_BD = batch.q_BD.clone().requires_grad_()
    loss_of(case)(replace(batch, q_BD=q_BD)).backward()
    assert q_BD.grad[3].abs().max() == 0
    assert q_BD.grad[0].abs().max() > 0


@pytest.mark.parametrize("case", CASES)
def test_half_precision_embeddings_are_summed_in_float32(case):
    batch = make_batch(torch.float32)
    low = {name: getattr(batch, name).bfloat16() for name in ("q_BD", "q_MD", "doc_ND", "answer_QD")}
    loss = loss_of(case)(replace(batch, **low))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(loss_of(case)(batch).item(), rel=0.2, abs=0.02)


@pytest.mark.parametrize("case", CASES)
def test_a_row_without_scores_answers_or_negatives_is_finite(case):
    batch = make_batch()
    q_BD = batch.q_BD.clone().requires_grad_()
    bare = replace(
        batch,
        q_BD=q_BD,
        teacher_BG=torch.full_like(batch.teacher_BG, float("nan")),
        answers_BGA=torch.full_like(batch.answers_BGA, -1),
        answer_QD=batch.answer_QD[:0],
        group_mask_BG=batch.group_mask_BG & torch.tensor([True, False, False]),
    )
    loss = loss_of(case)(bare)
    loss.backward()
    assert loss.isfinite() and q_BD.grad.isfinite().all()
