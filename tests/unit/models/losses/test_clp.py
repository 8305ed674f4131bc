"""The contrastive learning penalty against the numbers of its paper's code, and a naive loop."""

from dataclasses import replace

import pytest
import torch

from models.losses.batch import LossBatch
from models.losses.clp import clp
from models.losses.infonce import infonce
from tests.unit.models.losses.loss_batches import dot, group_of, make_batch, mean_of


def paper_batch():
    return LossBatch(
        q_BD=torch.tensor([[1.0, 0.0]]), doc_ND=torch.tensor([[0.6, 0.8], [0.8, 0.6], [0.0, 1.0]]),
        positive_B=torch.tensor([0]), mask_BN=torch.ones(1, 3, dtype=torch.bool), weights_B=torch.ones(1),
        normalizer=1.0, group_BG=torch.tensor([[0, 1, 2]]), group_mask_BG=torch.ones(1, 3, dtype=torch.bool),
        answer_QD=torch.tensor([[0.6, 0.8], [1.0, 0.0]]), answers_BGA=torch.tensor([[[-1], [0], [1]]]),
    )  # fmt: skip


@pytest.mark.parametrize(("temperature", "expected"), [(0.5, 0.976411), (0.02, 9.052039)])
@pytest.mark.parametrize("in_batch_negatives", [True, False])
def test_the_numbers_of_the_official_code(temperature, expected, in_batch_negatives):
    loss = clp(paper_batch(), temperature=temperature, lam=0.1, in_batch_negatives=in_batch_negatives)
    assert loss.item() == pytest.approx(expected, abs=2e-6)
    assert clp(paper_batch(), temperature=0.02, lam=1.0).item() == pytest.approx(0.52)


@pytest.mark.parametrize("lam", [0.0, 0.1, 1.0])
def test_equals_a_naive_loop_at_any_batch_size(lam):
    batch = make_batch()

    def penalty(i):
        of_negatives = []
        for place, (column, _) in enumerate(group_of(batch, i)):
            answers = [int(a) for a in batch.answers_BGA[i, place] if a >= 0]
            if answers:
                far = [1 - dot(batch.answer_QD[a], batch.doc_ND[column]) for a in answers]
                of_negatives.append(sum(far) / len(far))
        return sum(of_negatives) / max(len(of_negatives), 1)

    contrast = infonce(batch, temperature=0.1, false_negative_margin=0.2).item()
    loss = clp(batch, temperature=0.1, lam=lam, false_negative_margin=0.2)
    assert loss.item() == pytest.approx((1 - lam) * contrast + lam * mean_of(batch, penalty), rel=1e-9)


def test_gradients_flow_to_the_negative_and_to_the_query_it_answers():
    batch = paper_batch()
    doc_ND, answer_QD = batch.doc_ND.requires_grad_(), batch.answer_QD.requires_grad_()
    clp(replace(batch, doc_ND=doc_ND, answer_QD=answer_QD), temperature=0.5, lam=1.0).backward()
    assert torch.equal(doc_ND.grad, torch.tensor([[0.0, 0.0], [-0.3, -0.4], [-0.5, 0.0]]))
    assert torch.equal(answer_QD.grad, torch.tensor([[-0.4, -0.3], [0.0, -0.5]]))
