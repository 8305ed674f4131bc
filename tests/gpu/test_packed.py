"""The packed forward pass with the kernel that it is made for."""

import numpy as np
import pytest
import torch

from models.bidirectional import set_attention
from models.encoder import Encoder
from models.inference import embed
from models.packed import agrees, has_varlen, is_packable
from models.tokenization import Tokens
from tests.packed_cases import LENGTHS, batch, check, encoder_backbone
from tests.tiny_decoders import make_backbone


@pytest.mark.parametrize("attention", ["causal", "bidirectional"])
@pytest.mark.parametrize("family", ["bert", "xlm-roberta", "modernbert", "llama", "mistral", "qwen3"])
def test_on_a_gpu(family, attention):
    if family in ("bert", "xlm-roberta", "modernbert"):
        backbone = encoder_backbone(family)
    else:
        backbone = make_backbone(family, None if family == "llama" else 3)
        set_attention(backbone.config, attention, family)
    backbone = backbone.to("cuda", torch.bfloat16)
    assert has_varlen() and is_packable(backbone) and agrees(backbone)
    check(backbone, atol=0.1)
    ids_BT, mask_BT = batch()
    ids = ids_BT[mask_BT.bool()].numpy().astype(np.int32)
    tokens = Tokens(ids, np.concatenate([[0], np.cumsum(LENGTHS)]), np.zeros(len(LENGTHS), np.int32))
    emb_ND = embed(Encoder(backbone), tokens)
    alone_ND = np.concatenate(
        [embed(Encoder(backbone), tokens.take(np.array([i]))) for i in range(len(LENGTHS))]
    )
    assert (emb_ND * alone_ND).sum(1).min() > 0.999
