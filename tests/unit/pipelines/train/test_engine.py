"""What is refused before the engine is built, and padding that a model has no positions for."""

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel

from models.encoder import Encoder
from models.errors import ModelError
from models.moe.upcycle import upcycle
from pipelines.train.config import TrainConfig
from pipelines.train.engine import Tower, check_ranks, choose_trained


def make_encoder(pooling="mean"):
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=10,
    )  # fmt: skip
    return Encoder(BertModel(config, add_pooling_layer=False), pooling).eval()


def test_another_number_of_ranks_does_not_take_over_experts_that_were_shared_out():
    shared = TrainConfig(moe={"where": "ffn", "engine": "deepspeed"})
    for config, reads_universal in ((shared, False), (TrainConfig(moe={}), True), (TrainConfig(), True)):
        check_ranks(config, reads_universal)
    with pytest.raises(ModelError, match="as many ranks as wrote the checkpoint"):
        check_ranks(shared, True)


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["encoder.layer.0.output.*"], {"backbone.encoder.layer.0.output."}),
        (["backbone.encoder.layer.0.output.*"], {"backbone.encoder.layer.0.output."}),
        (["latent_attention.*"], {"latent_attention."}),
        (["latents_LD", "word_embeddings.weight"],
         {"latent_attention.latents_LD", "backbone.embeddings.word_embeddings.weight"}),
        (["*"], {"backbone.", "latent_attention."}),
    ],
)  # fmt: skip
def test_a_pooler_is_trained_where_a_pattern_names_it(patterns, expected):
    encoder = make_encoder("latent_attention")
    choose_trained(encoder, TrainConfig(only_train=patterns))
    for name, parameter in encoder.named_parameters():
        assert parameter.requires_grad is name.startswith(tuple(expected)), name


@pytest.mark.parametrize("part", ["intermediate", "router"])
def test_a_pooler_stays_as_it_is_where_experts_alone_are_trained(part):
    encoder = make_encoder("latent_attention")
    config = TrainConfig(moe={"only_train": part})
    upcycle(encoder, config.moe.upcycling, config.seed)
    choose_trained(encoder, config)
    trained = {name for name, parameter in encoder.named_parameters() if parameter.requires_grad}
    assert trained and all("intermediate" in name for name in trained)


def test_adapters_and_a_pooler_are_trained_together():
    encoder = make_encoder("latent_attention")
    choose_trained(encoder, TrainConfig(lora={"rank": 2}))
    trained = {name for name, parameter in encoder.named_parameters() if parameter.requires_grad}
    assert {name for name in trained if ".lora_" not in name} == {
        f"latent_attention.{name}" for name, _ in encoder.latent_attention.named_parameters()
    }


def test_padding_beyond_the_models_positions_is_cut_off():
    encoder = make_encoder()
    ids_BT = torch.arange(1, 11).repeat(2, 1)
    mask_BT = torch.ones_like(ids_BT)
    mask_BT[1, 4:] = 0
    wide = [nn.functional.pad(each, (0, 6)) for each in (ids_BT, mask_BT, mask_BT)]
    with torch.no_grad():
        (found_BD,) = Tower(encoder, "float32")([tuple(wide)])
        assert torch.equal(found_BD, encoder(ids_BT, mask_BT, mask_BT))
