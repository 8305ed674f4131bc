"""LoRA beside frozen weights, merged and alone; weights chosen by name."""

import pytest
import torch
from transformers import BertConfig, BertModel

from models.adapters import Lora, add_lora, match_names, merge_lora, save_adapter, train_only
from models.errors import ModelError

LORA = Lora(rank=4, alpha=8.0, dropout=0.0, targets=("query", "layer.1.output.dense"))
TARGETED = {
    "encoder.layer.0.attention.self.query.weight",
    "encoder.layer.1.attention.self.query.weight",
    "encoder.layer.1.output.dense.weight",
}


def make_backbone():
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=32, initializer_range=0.3,
    )  # fmt: skip
    return BertModel(config).eval()


def embed(backbone):
    return backbone(input_ids=torch.arange(1, 21).reshape(2, 10)).last_hidden_state


def moved(backbone):
    """Return the backbone after its adapters have taken a large step."""
    generator = torch.Generator().manual_seed(1)
    for parameter in backbone.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return backbone


def test_computes_what_it_did_at_the_start_and_trains_the_adapters_alone():
    backbone, expected = make_backbone(), embed(make_backbone())
    add_lora(backbone, LORA, seed=0)
    assert torch.equal(embed(backbone), expected)
    trained = {name for name, p in backbone.named_parameters() if p.requires_grad}
    assert len(trained) == 2 * len(TARGETED) and all(".lora_" in name for name in trained)
    embed(backbone).square().sum().backward()
    reached = {name for name, p in backbone.named_parameters() if p.grad is not None}
    assert reached == trained


def test_merged_weights_compute_what_the_adapted_model_does():
    backbone = make_backbone()
    before = {name: p.clone() for name, p in backbone.state_dict().items()}
    add_lora(backbone, LORA, seed=0)
    expected = embed(moved(backbone))
    merged = merge_lora(dict(backbone.named_parameters()), LORA)
    assert merged.keys() == dict(make_backbone().named_parameters()).keys()
    assert {name for name, weight in merged.items() if not torch.equal(weight, before[name])} == TARGETED
    plain = make_backbone()
    plain.load_state_dict(merged)
    torch.testing.assert_close(embed(plain), expected)


def test_an_adapter_on_its_own_is_loaded_by_peft(tmp_path):
    from peft import PeftModel

    backbone = make_backbone()
    add_lora(backbone, LORA, seed=0)
    expected = embed(moved(backbone))
    weights = {f"backbone.{name}": p.detach() for name, p in backbone.named_parameters()}
    save_adapter(weights, LORA, tmp_path / "adapter", base="org/model")
    loaded = PeftModel.from_pretrained(make_backbone(), str(tmp_path / "adapter")).eval()
    torch.testing.assert_close(embed(loaded), expected)


def test_the_seed_alone_decides_how_adapters_start_and_the_global_generator_stays():
    state = torch.get_rng_state()
    first, second, other = make_backbone(), make_backbone(), make_backbone()
    torch.set_rng_state(state)
    for backbone, seed in ((first, 5), (second, 5), (other, 6)):
        add_lora(backbone, LORA, seed)
    assert torch.equal(torch.get_rng_state(), state)
    starts = [dict(b.named_parameters()) for b in (first, second, other)]
    name = "encoder.layer.0.attention.self.query.lora_A.default.weight"
    assert torch.equal(starts[0][name], starts[1][name]) and not torch.equal(starts[0][name], starts[2][name])


def test_a_star_is_every_linear_layer_but_the_pooler():
    backbone = make_backbone()
    add_lora(backbone, Lora(2, 2.0, 0.0, ("*",)), seed=0)
    adapted = {name.split(".lora_")[0] for name, _ in backbone.named_parameters() if ".lora_" in name}
    assert len(adapted) == 12 and not any("pooler" in name for name in adapted)


def test_targets_that_match_nothing_are_refused_with_the_names_that_exist():
    with pytest.raises(ModelError, match=r"q_proj") as caught:
        add_lora(make_backbone(), Lora(4, 8.0, 0.0, ("query", "q_proj")), seed=0)
    assert "encoder.layer.*.attention.self.query" in str(caught.value)
    assert str(caught.value).count("self.query") == 1


def test_train_only_freezes_all_others():
    backbone = make_backbone()
    backbone.pooler.requires_grad_(False)
    train_only(backbone, ["intermediate.dense.*", "encoder.layer.1.*"])
    for name, parameter in backbone.named_parameters():
        expected = "intermediate.dense" in name or name.startswith("encoder.layer.1.")
        assert parameter.requires_grad is expected, name
    with pytest.raises(ModelError, match=r"only_train"):
        train_only(make_backbone(), ["intermediate.dens"])
    with pytest.raises(ModelError, match=r"matches no weight"):
        frozen = make_backbone()
        frozen.pooler.requires_grad_(False)
        train_only(frozen, ["pooler.*"])


def test_patterns_match_in_full_or_from_a_dot_on():
    names = ["a.query", "a.myquery", "b.query", "b.key.query.c"]
    assert match_names(["query"], names, "", "") == ["a.query", "b.query"]
    assert match_names(["b.*", "a.query"], names, "", "") == ["a.query", "b.query", "b.key.query.c"]
