"""FLOPs and parameters against what torch counts on real models."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from models.adapters import Lora, add_lora
from pipelines.cost.flops import FORWARD_PASSES, KMEANS_ITERATIONS, exact_flops, forward_flops, ivf_flops
from pipelines.cost.shape import shape_of
from pipelines.cost.texts import Texts
from tests.unit.models.moe.tiny_backbones import make_backbone

NUM_TEXTS, NUM_TOKENS = 6, 48
TEXTS = Texts(NUM_TEXTS, NUM_TOKENS, NUM_TOKENS**2, 0)


def bert():
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=100,
        hidden_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=160,
        max_position_embeddings=64,
        attn_implementation="eager",
    )
    return BertModel(config, add_pooling_layer=False)


def llama():
    from transformers import LlamaConfig, LlamaModel

    config = LlamaConfig(
        vocab_size=100,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=24,
        intermediate_size=96,
        attn_implementation="eager",
    )
    return LlamaModel(config)


@pytest.mark.parametrize("make", [bert, llama])
def test_forward_and_backward_match_what_torch_counts(make):
    model = make()
    shape = shape_of(model.config.to_dict())
    inputs = torch.ones(NUM_TEXTS, NUM_TOKENS, dtype=torch.int64)
    with FlopCounterMode(display=False) as forward:
        states = model(input_ids=inputs).last_hidden_state
    with FlopCounterMode(display=False) as backward:
        states.sum().backward()
    predicted = forward_flops(shape, TEXTS)
    assert predicted == pytest.approx(forward.get_total_flops(), rel=0.05)
    counted = forward.get_total_flops() + backward.get_total_flops()
    assert FORWARD_PASSES * predicted == pytest.approx(counted, rel=0.05)


@pytest.mark.parametrize("make", [bert, llama])
def test_parameters_match_the_model(make):
    model = make()
    counted = sum(parameter.numel() for parameter in model.parameters())
    # Biases and norms, left out, weigh more in a model so small.
    assert shape_of(model.config.to_dict()).num_parameters == pytest.approx(counted, rel=0.03)


def test_a_token_pays_for_its_experts_alone():
    dense = {
        "hidden_size": 64,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "intermediate_size": 96,
        "vocab_size": 100,
        "rms_norm_eps": 1e-6,
    }
    one, eight = shape_of(dense), shape_of(dense | {"num_local_experts": 8, "num_experts_per_tok": 2})
    expert, router = 3 * 64 * 96, 64 * 8
    assert eight.layer_parameters - one.layer_parameters == 7 * expert + router
    assert eight.active_parameters - one.active_parameters == expert + router


def test_exact_search_multiplies_every_pair():
    total = 0
    for _ in range(3):
        for _ in range(5):
            total += 2 * 7
    assert exact_flops(3, 5, 7) == total


def test_an_inverted_file_that_scans_every_list_costs_more_than_exact_search():
    queries, documents, dimension, lists = 1000, 100_000, 64, 128
    exact = exact_flops(queries, documents, dimension)
    whole = ivf_flops(queries, documents, dimension, lists, lists, 10_000)
    assert whole.scanning == exact and whole.assigning > 0
    assert whole.training == KMEANS_ITERATIONS * exact_flops(10_000, lists, dimension)
    assert ivf_flops(queries, 50, dimension, lists, 8, 10_000).training == whole.training * 50 / 10_000
    few = ivf_flops(queries, documents, dimension, lists, 8, 10_000)
    assert few.scanning == pytest.approx(exact * 8 / lists)
    assert few.assigning == exact_flops(queries, lists, dimension) + exact_flops(documents, lists, dimension)


@pytest.mark.parametrize("family", ["bert", "llama", "mistral"])
def test_adapters_are_counted_as_peft_makes_them(family):
    backbone = make_backbone(family)
    shape = shape_of(backbone.config.to_dict())
    add_lora(backbone, Lora(4, 8.0, 0.0, ("*",)), seed=0)
    assert shape.adapter_parameters(4) == sum(p.numel() for p in backbone.parameters() if p.requires_grad)
