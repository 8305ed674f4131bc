"""Weights of the chosen experts, and what of them reaches the router."""

import math

import pytest
import torch

from models.moe.router import ROUTERS, Router

LOGITS_ME = [[2.0, 0.0, -1.0], [0.5, 0.25, 3.0]]


def probabilities(row):
    total = sum(math.exp(x) for x in row)
    return [math.exp(x) / total for x in row]


@pytest.mark.parametrize("chosen", [[[0], [2]], [[0, 1], [2, 0]]])
def test_weights_are_those_of_the_formulas(chosen):
    logits_ME, chosen_MK = torch.tensor(LOGITS_ME), torch.tensor(chosen)
    for row, experts in enumerate(chosen):
        p = probabilities(LOGITS_ME[row])
        expected = {
            "identity": [1 / len(experts)] * len(experts),
            "switch": [p[e] for e in experts],
            "clp": [p[e] / sum(p[i] for i in experts) for e in experts],
        }
        for name, weights in ROUTERS.items():
            assert weights(logits_ME, chosen_MK)[row].tolist() == pytest.approx(expected[name], abs=1e-6), (
                name
            )


def test_gradient_of_one_expert_a_token():
    chosen_MK, make_M = torch.tensor([[0], [2]]), torch.tensor([0.7, -1.3])
    for name, weights in ROUTERS.items():
        logits_ME = torch.tensor(LOGITS_ME, requires_grad=True)
        (weights(logits_ME, chosen_MK)[:, 0] * make_M).sum().backward()
        for row, expert in enumerate(chosen_MK[:, 0].tolist()):
            p = probabilities(LOGITS_ME[row])
            # d log p_e / d logit_j = [e = j] - p_j
            of_log = [float(j == expert) - p[j] for j in range(3)]
            scale = {"identity": 1.0, "switch": p[expert], "clp": 0.0}[name]
            expected = [float(make_M[row]) * scale * g for g in of_log]
            assert logits_ME.grad[row].tolist() == pytest.approx(expected, abs=1e-6), name
        if name == "clp":
            assert logits_ME.grad.abs().max() == 0.0


def test_an_improbable_expert_is_no_division_by_zero():
    logits_ME = torch.tensor([[0.0, -300.0]], requires_grad=True)
    weights_MK = ROUTERS["identity"](logits_ME, torch.tensor([[0, 1]]))
    assert weights_MK.tolist() == [[0.5, 0.5]]
    weights_MK.sum().backward()
    assert logits_ME.grad.isfinite().all()


def test_logits_are_float32_under_autocast_and_in_bfloat16():
    x_MH = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    router = Router(3, torch.zeros(5, 8))
    router.weight.data.normal_(generator=torch.Generator().manual_seed(1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits_ME = router(x_MH)
    assert logits_ME.dtype == torch.float32
    torch.testing.assert_close(logits_ME, x_MH @ router.weight.T)
    assert router.bfloat16()(x_MH.bfloat16()).dtype == torch.float32
