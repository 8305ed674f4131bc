"""What cannot be shared out; ranks in tests/integration/test_moe_ranks.py show that the rest equals plain torch."""

import pytest

from models.errors import ModelError
from models.moe.upcycle import Upcycling, moe_blocks, train_experts, upcycle
from pipelines.train.expert_parallel import share_out
from tests.unit.models.moe.tiny_backbones import make_encoder


def test_a_dropout_between_the_projections_is_refused():
    encoder = make_encoder("modernbert")
    upcycle(encoder, Upcycling(where="ffn"), 0)
    moe_blocks(encoder)[1].dropout.p = 0.1
    with pytest.raises(ModelError, match=r"dropout 0\.1 inside layers\.1\.mlp(.|\n)*train\.dropout: 0"):
        share_out(encoder.backbone)


def test_frozen_experts_are_refused():
    encoder = make_encoder()
    upcycle(encoder, Upcycling(where="ffn"), 0)
    train_experts(encoder.backbone, "router")
    with pytest.raises(ModelError, match=r"every expert is frozen(.|\n)*engine: grouped"):
        share_out(encoder.backbone)
