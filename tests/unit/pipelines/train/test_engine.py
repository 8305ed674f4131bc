"""What is refused before the engine is built, and padding that a model has no positions for."""

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel

from models.encoder import Encoder
from models.errors import ModelError
from pipelines.train.config import TrainConfig
from pipelines.train.engine import Tower, check_ranks


def make_encoder():
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=10,
    )  # fmt: skip
    return Encoder(BertModel(config, add_pooling_layer=False), "mean").eval()


def test_another_number_of_ranks_does_not_take_over_experts_that_were_shared_out():
    shared = TrainConfig(moe={"where": "ffn", "engine": "deepspeed"})
    for config, reads_universal in ((shared, False), (TrainConfig(moe={}), True), (TrainConfig(), True)):
        check_ranks(config, reads_universal)
    with pytest.raises(ModelError, match="as many ranks as wrote the checkpoint"):
        check_ranks(shared, True)


def test_padding_beyond_the_models_positions_is_cut_off():
    encoder = make_encoder()
    ids_BT = torch.arange(1, 11).repeat(2, 1)
    mask_BT = torch.ones_like(ids_BT)
    mask_BT[1, 4:] = 0
    wide = [nn.functional.pad(each, (0, 6)) for each in (ids_BT, mask_BT, mask_BT)]
    with torch.no_grad():
        (found_BD,) = Tower(encoder, "float32")([tuple(wide)])
        assert torch.equal(found_BD, encoder(ids_BT, mask_BT, mask_BT))
