"""What every loss owes: a right gradient, parts that add up, no say for rows of weight zero, float32 sums."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from models.losses import LOSSES
from tests.unit.models.losses.loss_batches import make_batch, rows_of, with_repeats

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
    "listwise_softmax": {},
    "binary_cross_entropy": {"positive_weight": 3.0},
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


def embedded_again(batch):
    """Return the batch with a row of doc_ND of its own for every repeat, which no other row sees."""
    group_BG, mask_BN, doc_ND = batch.group_BG.clone(), batch.mask_BN, batch.doc_ND
    guide_NE = batch.guide.doc_NE
    for i, columns in enumerate(batch.group_BG.tolist()):
        for place, column in enumerate(columns):
            if batch.group_mask_BG[i, place] and column in columns[1:place]:
                group_BG[i, place] = len(doc_ND)
                doc_ND, guide_NE = (torch.cat([each, each[[column]]]) for each in (doc_ND, guide_NE))
                seen_B1 = torch.zeros(len(mask_BN), 1, dtype=torch.bool)
                seen_B1[i] = batch.mask_BN[i, column]
                mask_BN = torch.cat([mask_BN, seen_B1], 1)
    return replace(
        batch, group_BG=group_BG, mask_BN=mask_BN, doc_ND=doc_ND, log_counts_BN=None,
        guide=replace(batch.guide, doc_NE=guide_NE),
    )  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_repeated_negative_counts_as_if_it_were_embedded_again(case):
    batch = with_repeats(make_batch())
    assert (batch.log_counts_BN > 0.5).sum() > 4
    expected = loss_of(case)(embedded_again(batch))
    assert loss_of(case)(batch).item() == pytest.approx(expected.item(), rel=1e-9)


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
