"""Decoders packed for inference on a processor: equal to the module tree; what is something else is declined."""

import pytest
import torch

from models.adapters import Lora, add_lora
from models.bidirectional import set_attention
from models.fused_decoder import FusedDecoder, is_fusible_decoder
from models.states import fast_states
from tests.tiny_decoders import make_backbone, make_config

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")


def batch():
    generator = torch.Generator().manual_seed(3)
    mask_BT = (torch.arange(14) < torch.tensor([[14], [9], [1]])).long()
    return torch.randint(3, 500, (3, 14), generator=generator) * mask_BT, mask_BT


def states(run, *inputs):
    with torch.inference_mode():
        return run(*inputs)[inputs[1].bool()]


def tree(backbone):
    return lambda ids, mask: backbone(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state


def moved(backbone):
    """Give norms and biases, which begin at one and zero, values of their own."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in backbone.parameters():
            if weight.ndim == 1:
                weight += 0.2 * torch.randn(weight.shape, generator=generator)
    return backbone


@pytest.mark.parametrize("attention", ["causal", "bidirectional"])
@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_equal_to_the_module_tree(family, window, attention):
    backbone = moved(make_backbone(family, None if family == "llama" else window))
    set_attention(backbone.config, attention, family)
    assert is_fusible_decoder(backbone)
    fused = FusedDecoder(backbone)
    ids_BT, mask_BT = batch()
    for inputs in ((ids_BT, mask_BT), (ids_BT[:1], mask_BT[:1]), (ids_BT[:, :1], mask_BT[:, :1])):
        torch.testing.assert_close(
            states(fused, *inputs), states(tree(backbone), *inputs), atol=2e-5, rtol=2e-5
        )


@pytest.mark.parametrize(
    "settings",
    [
        {"attention_bias": True, "mlp_bias": True},
        {"num_key_value_heads": 4},
        {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10_000.0}},
        {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 10_000.0}},
    ],
    ids=["biases", "as many keys as queries", "linear positions", "yarn"],
)
def test_settings_of_llama(settings):
    from transformers import LlamaConfig, LlamaModel

    config = LlamaConfig(**(make_config("llama").to_dict() | settings))
    torch.manual_seed(0)
    backbone = moved(LlamaModel._from_config(config, attn_implementation="sdpa").eval())
    assert is_fusible_decoder(backbone)
    torch.testing.assert_close(
        states(FusedDecoder(backbone), *batch()), states(tree(backbone), *batch()), atol=2e-5, rtol=2e-5
    )


def test_in_bfloat16_as_near_to_float32_as_the_module_tree_is():
    whole = moved(make_backbone("qwen3"))
    expected = states(tree(whole), *batch())
    backbone = whole.to(torch.bfloat16)
    theirs, ours = (
        torch.nn.functional.cosine_similarity(states(run, *batch()).float(), expected, dim=-1).min()
        for run in (tree(backbone), FusedDecoder(backbone))
    )
    assert theirs > 0.999 and ours > theirs - 5e-4


def test_weights_that_have_changed_are_packed_anew():
    backbone = make_backbone("llama")
    before = states(lambda *inputs: fast_states(backbone)(*inputs, None), *batch())
    with torch.no_grad():
        backbone.layers[0].mlp.gate_proj.weight.mul_(-1)
    after = states(lambda *inputs: fast_states(backbone)(*inputs, None), *batch())
    torch.testing.assert_close(after, states(tree(backbone), *batch()), atol=2e-5, rtol=2e-5)
    assert (after - before).abs().max() > 1e-3


def test_what_is_something_else_is_declined(monkeypatch):
    assert not is_fusible_decoder(make_backbone("gemma2"))
    assert not is_fusible_decoder(make_backbone("llama", implementation="eager"))
    adapted = make_backbone("llama")
    add_lora(adapted, Lora(rank=2, alpha=4, dropout=0.0, targets=("q_proj",)), seed=0)
    assert not is_fusible_decoder(adapted)
    hooked = make_backbone("llama")
    hooked.layers[0].mlp.register_forward_hook(lambda *_: None)
    assert not is_fusible_decoder(hooked)
    monkeypatch.setattr("models.fused_decoder.MAX_PACKED_BYTES", 1000)
    assert not is_fusible_decoder(make_backbone("llama"))
