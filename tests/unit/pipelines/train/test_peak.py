"""FLOPs of a token by hand, and a rate that can be measured."""

import torch
from transformers import BertConfig, BertModel

from models.adapters import Lora, add_lora
from models.encoder import Encoder
from pipelines.train.peak import flops_per_token, matrix_flops_s

HIDDEN, INNER, LAYERS = 8, 24, 2


def make_encoder():
    config = BertConfig(
        vocab_size=30, hidden_size=HIDDEN, num_hidden_layers=LAYERS, num_attention_heads=2, intermediate_size=INNER,
        max_position_embeddings=16,
    )  # fmt: skip
    return Encoder(BertModel(config), "mean")


WEIGHTS = LAYERS * (4 * HIDDEN * HIDDEN + 2 * HIDDEN * INNER)


def test_two_flops_a_weight_forward_and_four_back():
    assert flops_per_token(make_encoder()) == 6 * WEIGHTS


def test_what_is_frozen_takes_two_back_and_adapters_count():
    encoder = make_encoder()
    add_lora(encoder.backbone, Lora(3, 8, 0.0, ("query",)), 0)
    assert flops_per_token(encoder) == 4 * WEIGHTS + 6 * LAYERS * 2 * 3 * HIDDEN


def test_a_rate_is_measured():
    rate = matrix_flops_s(torch.float32, torch.device("cpu"))
    assert 1e8 < rate < 1e16
