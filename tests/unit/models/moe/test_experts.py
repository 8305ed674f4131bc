"""Slots and grouped products against loops over tokens."""

import pytest
import torch
from torch import nn

from models.moe.experts import ExpertLinear, Slots, grouped_linear, has_kernel


def make_slots(num_experts=4, per_token=1, num_tokens=21, seed=0):
    generator = torch.Generator().manual_seed(seed)
    chosen_MK = torch.rand(num_tokens, num_experts - 1, generator=generator).argsort(1)[:, :per_token]
    # The second expert has no token.
    return Slots(chosen_MK + (chosen_MK >= 1), num_experts), chosen_MK + (chosen_MK >= 1)


@pytest.mark.parametrize("per_token", [1, 2])
def test_slots_hold_each_token_once_for_each_of_its_experts(per_token):
    slots, chosen_MK = make_slots(per_token=per_token)
    expected = sorted(
        (expert, token, place)
        for token, row in enumerate(chosen_MK.tolist())
        for place, expert in enumerate(row)
    )
    assert slots.experts_S.tolist() == [expert for expert, _, _ in expected]
    assert slots.ends_E.tolist() == [sum(e <= last for e, _, _ in expected) for last in range(4)]
    x_MI = torch.randn(21, 3, generator=torch.Generator().manual_seed(1), requires_grad=True)
    sorted_SI = slots.sort(x_MI)
    assert torch.equal(sorted_SI, x_MI[[token for _, token, _ in expected]])
    torch.testing.assert_close(slots.unsort(sorted_SI), per_token * x_MI)
    assert torch.equal(slots.as_sorted(slots.by_token(sorted_SI)), sorted_SI)
    weights_SI = torch.randn(sorted_SI.shape, generator=torch.Generator().manual_seed(2))
    (sorted_SI * weights_SI).sum().backward()
    expected_grad = torch.zeros(21, 3).index_add(0, torch.tensor([t for _, t, _ in expected]), weights_SI)
    torch.testing.assert_close(x_MI.grad, expected_grad)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("kernel", [True, False])
def test_the_kernel_and_the_loop_compute_what_a_loop_over_rows_does(dtype, biased, kernel):
    slots, _ = make_slots()
    generator = torch.Generator().manual_seed(3)
    # Rows of 16 bytes, which the kernel asks for on some devices.
    shapes = {"x": (21, 8), "weight": (4, 16, 8), "bias": (4, 16), "out": (21, 16)}
    values = {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in shapes.items()}
    leaves = [values[name].clone().requires_grad_() for name in ("x", "weight", "bias")]
    exact = [values[name].double().requires_grad_() for name in ("x", "weight", "bias")]
    out_SO = grouped_linear(leaves[0], leaves[1], leaves[2] if biased else None, slots, kernel)
    assert out_SO.dtype == dtype
    rows = zip(exact[0], slots.experts_S.tolist(), strict=True)
    expected_SO = torch.stack([exact[1][e] @ row + (exact[2][e] if biased else 0.0) for row, e in rows])
    out_SO.backward(values["out"])
    expected_SO.backward(values["out"].double())
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 2e-2, "atol": 6e-2}
    torch.testing.assert_close(out_SO.double(), expected_SO, **tolerance)
    for leaf, reference in zip(leaves[: 2 + biased], exact, strict=False):
        torch.testing.assert_close(leaf.grad.double(), reference.grad, **tolerance)
    assert leaves[1].grad[1].abs().max() == 0.0


def test_experts_begin_as_copies_and_heed_autocast():
    dense = nn.Linear(8, 16)
    experts, (slots, _) = ExpertLinear(dense, 4), make_slots()
    x_SI = torch.randn(21, 8)
    torch.testing.assert_close(experts(x_SI, slots), dense(x_SI))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low, reference = experts(x_SI, slots), dense(x_SI)
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low, reference)
    experts.weight.data[0] += 1.0
    assert not torch.equal(experts.weight[0], experts.weight[1])
    assert ExpertLinear(nn.Linear(8, 16, bias=False), 2).bias is None


def test_a_processor_takes_the_loop():
    assert not has_kernel(torch.zeros(2, 16, 16))
