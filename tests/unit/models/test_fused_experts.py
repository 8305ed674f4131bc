"""Experts packed for inference: the same as the module tree; what weighs otherwise is declined."""

import pytest
import torch

from models.checkpoint import load_encoder
from models.fused import FusedBackbone, FusedExperts, is_fusible
from models.moe.choice import Choice
from models.moe.upcycle import Upcycling, moe_blocks, upcycle


def with_experts(directory, dtype="float32", **asked):
    """An encoder whose experts differ and are both used."""
    encoder = load_encoder(directory, dtype)
    upcycle(encoder, Upcycling(layers="all", **asked), seed=3)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for block in moe_blocks(encoder):
            block.router.weight.copy_(torch.randn(block.router.weight.shape, generator=generator))
            for parameter in (*block.up.parameters(), *block.down.parameters()):
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator).to(parameter.dtype))
    return encoder.eval()


def texts(width=21, num_texts=40):
    generator = torch.Generator().manual_seed(5)
    lengths = torch.linspace(width, 3, num_texts).long()
    mask = (torch.arange(width) < lengths[:, None]).long()
    return torch.randint(5, 60, (num_texts, width), generator=generator) * mask, mask


@pytest.mark.parametrize("router", ["identity", "clp"])
@pytest.mark.parametrize("num_experts", [2, 3])
@pytest.mark.parametrize("where", ["up", "down", "ffn"])
def test_equal_to_the_module_tree(tiny_model, where, num_experts, router):
    encoder = with_experts(tiny_model, where=where, num_experts=num_experts, router=router)
    assert is_fusible(encoder.backbone)
    ids, mask = texts()
    with torch.inference_mode():
        expected = encoder.backbone(input_ids=ids, attention_mask=mask).last_hidden_state
        found = FusedBackbone(encoder.backbone)(ids, mask)
    torch.testing.assert_close(found[mask.bool()], expected[mask.bool()], atol=2e-5, rtol=2e-5)


def test_an_expert_without_tokens_and_one_with_all(tiny_model):
    encoder = with_experts(tiny_model, where="ffn", num_experts=3)
    block = moe_blocks(encoder)[0]
    with torch.no_grad():
        block.router.weight[1:] = 0
        block.router.weight[0] = 0
    x_MH = torch.randn(70, 32)
    with torch.inference_mode():
        torch.testing.assert_close(FusedExperts(block).plus(x_MH), block(x_MH[None])[0] + x_MH)
        assert FusedExperts(block).plus(x_MH[:0]).shape == (0, 32)


def test_in_bfloat16_a_token_has_the_expert_that_the_exact_logits_choose():
    torch.manual_seed(0)
    weight_EH = torch.randn(2, 384)
    weight_EH[1] = weight_EH[0] + 0.01 * torch.randn(384)
    x_MH = (2 * torch.randn(20_000, 384) + 3 * torch.randn(384)).bfloat16()
    exact = (x_MH.double() @ weight_EH.double().T).argmax(-1)
    wrong = int((Choice(weight_EH, torch.bfloat16).of(x_MH) != exact).sum())
    rounded = int(((x_MH @ weight_EH.bfloat16().T).argmax(-1) != exact).sum())
    assert wrong <= 1
    assert rounded > 100, "logits rounded to bfloat16 choose others: the test can fail"


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ({"router": "switch"}, "weighed by its probability"),
        ({"num_experts": 3, "experts_per_token": 2}, "two are added up"),
    ],
)
def test_what_is_weighed_otherwise_is_left_to_the_module_tree(tiny_model, asked, named):
    assert not is_fusible(with_experts(tiny_model, where="up", **asked).backbone), named
