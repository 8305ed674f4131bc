"""Losses that follow a teacher, each against a naive loop; what the teacher did not score is left out."""

import math
from dataclasses import replace

import pytest
import torch

from models.losses.bixse import bixse
from models.losses.listwise_kl import listwise_kl
from models.losses.margin_mse import margin_mse
from models.losses.soft_labels import soft_labels
from tests.unit.models.losses.loss_batches import dot, group_of, make_batch, mean_of


def softmax(values):
    total = sum(math.exp(v) for v in values)
    return [math.exp(v) / total for v in values]


def scored_of(batch, row):
    """Return [(cosine, teacher score)] of the documents that the teacher scored, and whether the positive is one."""
    group = group_of(batch, row)
    pairs = [(dot(batch.q_BD[row], batch.doc_ND[c]), t) for c, t in group if t is not None]
    return pairs, group[0][1] is not None


@pytest.mark.parametrize("temperature", [0.05, 1.0])
@pytest.mark.parametrize("teacher_temperature", [0.1, 1.0])
def test_soft_labels_and_listwise_kl_equal_a_naive_loop(temperature, teacher_temperature):
    batch = make_batch()
    entropies = []

    def cross_entropy(i):
        pairs, _ = scored_of(batch, i)
        own = softmax([s / temperature for s, _ in pairs])
        wanted = softmax([t / teacher_temperature for _, t in pairs])
        entropies.append(-sum(p * math.log(p) for p in wanted if p))
        return -sum(p * math.log(q) for p, q in zip(wanted, own, strict=True))

    expected = mean_of(batch, cross_entropy)
    loss = soft_labels(batch, temperature=temperature, teacher_temperature=teacher_temperature)
    assert loss.item() == pytest.approx(expected, rel=1e-9)
    divergence = listwise_kl(batch, student_temperature=temperature, teacher_temperature=teacher_temperature)
    assert divergence.item() == pytest.approx(expected - mean_of(batch, entropies.__getitem__), rel=1e-9)


def test_listwise_kl_is_zero_where_both_agree():
    batch = make_batch()
    cosines_BG = torch.einsum("bd,bgd->bg", batch.q_BD, batch.doc_ND[batch.group_BG])
    agreeing = replace(batch, teacher_BG=3 * cosines_BG + 1)
    loss = listwise_kl(agreeing, student_temperature=0.1, teacher_temperature=0.3)
    assert loss.item() == pytest.approx(0.0, abs=1e-12)


def test_margin_mse_equals_a_naive_loop():
    batch = make_batch()

    def loss_of_row(i):
        pairs, has_positive = scored_of(batch, i)
        if not has_positive or len(pairs) < 2:
            return 0.0
        (s, t), *negatives = pairs
        return sum(((s - sn) - 0.5 * (t - tn)) ** 2 for sn, tn in negatives) / len(negatives)

    loss = margin_mse(batch, teacher_scale=0.5)
    assert loss.item() == pytest.approx(mean_of(batch, loss_of_row), rel=1e-9)


@pytest.mark.parametrize("in_batch_negatives", [True, False])
@pytest.mark.parametrize("sigmoid_targets", [True, False])
def test_bixse_equals_a_naive_loop(in_batch_negatives, sigmoid_targets):
    batch = make_batch()
    batch = replace(batch, teacher_BG=batch.teacher_BG if sigmoid_targets else batch.teacher_BG.sigmoid())

    def sigmoid(x):
        return 1 / (1 + math.exp(-x))

    def loss_of_row(i):
        group = dict(group_of(batch, i))
        pairs = [(c, sigmoid(t) if sigmoid_targets else t) for c, t in group.items() if t is not None]
        if in_batch_negatives:
            pairs += [(j, 0.0) for j in range(9) if batch.mask_BN[i, j] and j not in group]
        terms = []
        for column, target in pairs:
            p = sigmoid((dot(batch.q_BD[i], batch.doc_ND[column]) - 0.4) / 0.2)
            terms.append(-target * math.log(p) - (1 - target) * math.log(1 - p))
        return sum(terms) / max(len(terms), 1)

    options = {"sigmoid_targets": sigmoid_targets, "in_batch_negatives": in_batch_negatives}
    loss = bixse(batch, temperature=0.2, midpoint=0.4, **options)
    assert loss.item() == pytest.approx(mean_of(batch, loss_of_row), rel=1e-9)


@pytest.mark.parametrize("loss", [soft_labels, bixse, margin_mse, listwise_kl])
def test_the_teacher_gets_no_gradient(loss):
    batch = make_batch()
    teacher_BG = batch.teacher_BG.clone().requires_grad_()
    tempered = {"temperature": 0.1} if loss in (soft_labels, bixse) else {}
    q_BD = batch.q_BD.clone().requires_grad_()
    loss(replace(batch, q_BD=q_BD, teacher_BG=teacher_BG), **tempered).backward()
    assert teacher_BG.grad is None and q_BD.grad.abs().max() > 0
