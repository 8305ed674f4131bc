"""Adapters of stacked experts and routers: equal at the start, merged, and on their own through peft."""

import pytest
import torch

from models.adapters import Lora, add_lora, merge_lora, save_adapter
from models.errors import ModelError
from models.moe.upcycle import Upcycling, upcycle
from tests.unit.models.moe.tiny_backbones import make_encoder, make_texts

LORA = Lora(rank=2, alpha=6.0, dropout=0.0, targets=("*",))


def make_moe(family, where="ffn"):
    encoder = make_encoder(family)
    upcycle(encoder, Upcycling(layers=(1, 3), where=where, num_experts=3), seed=0)
    return encoder


def stir(encoder):
    generator = torch.Generator().manual_seed(1)
    for parameter in encoder.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)


@pytest.mark.parametrize("where", ["up", "down", "ffn"])
@pytest.mark.parametrize("family", ["bert", "modernbert", "llama"])
def test_merged_weights_compute_what_the_adapted_model_does(family, where):
    encoder, texts = make_moe(family, where), make_texts()
    expected_BD = encoder(*texts)
    add_lora(encoder.backbone, LORA, seed=0)
    torch.testing.assert_close(encoder(*texts), expected_BD)
    stir(encoder)
    adapted_BD = encoder(*texts)
    assert (adapted_BD - expected_BD).abs().max() > 1e-2
    adapted_BD[:, 0].sum().backward()
    trained = [name for name, p in encoder.named_parameters() if p.requires_grad]
    assert all(".lora_" in name for name in trained)
    assert all(p.grad is not None for p in encoder.parameters() if p.requires_grad)
    assert sum(".router.lora_" in name for name in trained) == 4
    plain = make_moe(family, where)
    merged = merge_lora(dict(encoder.named_parameters()), LORA)
    assert merged.keys() == dict(plain.named_parameters()).keys()
    plain.load_state_dict(merged, strict=False)
    torch.testing.assert_close(plain(*texts), adapted_BD, rtol=1e-4, atol=1e-5)


def test_every_expert_has_an_update_of_its_own():
    encoder = make_moe("bert")
    add_lora(encoder.backbone, LORA, seed=0)
    stir(encoder)
    weights = dict(encoder.named_parameters())
    name = "backbone.encoder.layer.1.intermediate.up"
    a_sI, b_Os = (weights[f"{name}.lora_{side}.default.weight"] for side in "AB")
    merged_EOI = merge_lora(weights, LORA)[f"{name}.weight"]
    for expert in range(3):
        a_rI, b_Or = a_sI[2 * expert : 2 * expert + 2], b_Os[:, expert::3]
        expected_OI = weights[f"{name}.base_layer.weight"][expert] + 3.0 * b_Or @ a_rI
        torch.testing.assert_close(merged_EOI[expert], expected_OI)


def test_an_adapter_on_its_own_is_loaded_by_peft(tmp_path):
    from peft import PeftModel

    encoder, texts = make_moe("bert"), make_texts()
    add_lora(encoder.backbone, LORA, seed=0)
    stir(encoder)
    expected_BD = encoder(*texts)
    weights = {name: p.detach() for name, p in encoder.named_parameters()}
    save_adapter(weights, LORA, tmp_path, base="org/model")
    loaded = make_moe("bert")
    loaded.backbone = PeftModel.from_pretrained(loaded.backbone, str(tmp_path)).eval()
    torch.testing.assert_close(loaded(*texts), expected_BD)


def test_checkpointing_and_adapters_go_together():
    texts, found = make_texts(), []
    for checkpointed in (False, True):
        encoder = make_moe("bert").train()
        add_lora(encoder.backbone, LORA, seed=0)
        stir(encoder)
        if checkpointed:
            encoder.backbone.gradient_checkpointing_enable({"use_reentrant": False})
        encoder(*texts)[:, 0].sum().backward()
        found.append({name: p.grad for name, p in encoder.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        torch.testing.assert_close(gradient, found[1][name], msg=name)


def test_dropout_beside_experts_is_refused():
    with pytest.raises(
        ModelError, match=r"no dropout(.|\n)*got: 0.1, with encoder.layer.1.intermediate.router"
    ):
        add_lora(make_moe("bert").backbone, Lora(2, 2.0, 0.1, ("*",)), seed=0)
    add_lora(make_moe("bert").backbone, Lora(2, 2.0, 0.1, ("query",)), seed=0)
