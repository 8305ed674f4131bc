"""What is refused before the engine is built, and padding that a model has no positions for."""

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel

from models.encoder import Encoder
from models.errors import ModelError
from pipelines.train.config import TrainConfig
from pipelines.train.engine import Tower, check_layout


def make_encoder():
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=10,
    )  # fmt: skip
    return Encoder(BertModel(config, add_pooling_layer=False), "mean").eval()


def test_experts_that_only_some_ranks_hold_do_not_go_with_stage_3():
    encoder = make_encoder()
    check_layout(encoder, TrainConfig(zero_stage=3))
    expert = nn.Parameter(torch.zeros(2, 2))
    # As deepspeed.moe marks them.
    expert.allreduce = False
    encoder.backbone.register_parameter("expert", expert)
    for stage in (1, 2):
        check_layout(encoder, TrainConfig(zero_stage=stage))
    with pytest.raises(ModelError, match=r"train\.zero_stage(.|\n)*backbone\.expert(.|\n)*zero_stage: 2"):
        check_layout(encoder, TrainConfig(zero_stage=3))


def test_padding_beyond_the_models_positions_is_cut_off():
    encoder = make_encoder()
    ids_BT = torch.arange(1, 11).repeat(2, 1)
    mask_BT = torch.ones_like(ids_BT)
    mask_BT[1, 4:] = 0
    wide = [nn.functional.pad(each, (0, 6)) for each in (ids_BT, mask_BT, mask_BT)]
    with torch.no_grad():
        (found_BD,) = Tower(encoder, "float32")([tuple(wide)])
        assert torch.equal(found_BD, encoder(ids_BT, mask_BT, mask_BT))
