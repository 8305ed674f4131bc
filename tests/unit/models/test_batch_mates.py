"""An embedding does not depend on the texts beside it, but for the rounding of the dtype."""

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModel

from models.bidirectional import set_attention
from models.encoder import Encoder
from models.inference import embed
from models.moe.upcycle import Upcycling, moe_blocks, upcycle
from models.tokenization import Tokens, concatenate
from tests.tiny_decoders import make_backbone

SHORT, LONG = 3, 60
ATOL = {"float32": 5e-6, "bfloat16": 0.03}


def tokens_of(length, seed):
    ids = np.random.default_rng(seed).integers(3, 250, length).astype(np.int32)
    return Tokens(ids, np.array([0, length]), np.zeros(1, np.int32))


def make(family):
    if family == "bert with experts":
        backbone = make("bert")
        upcycle(Encoder(backbone), Upcycling(layers="all", where="up", num_experts=3), seed=0)
        for block in moe_blocks(backbone):
            torch.nn.init.normal_(block.router.weight)
            torch.nn.init.normal_(block.up.weight, std=0.2)
        return backbone
    if family in ("bert", "xlm-roberta", "modernbert"):
        config = AutoConfig.for_model(
            family, vocab_size=512, hidden_size=32, intermediate_size=64, num_hidden_layers=2, pad_token_id=0,
            num_attention_heads=4, max_position_embeddings=128, initializer_range=0.2, local_attention=8,
            bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2,
        )  # fmt: skip
        torch.manual_seed(0)
        return AutoModel.from_config(config, attn_implementation="sdpa").eval()
    name, _, attention = family.partition(" ")
    backbone = make_backbone(name, 4 if name == "mistral" else None)
    set_attention(backbone.config, attention, name)
    return backbone


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("pooling", ["mean", "last", "latent_attention"])
@pytest.mark.parametrize(
    "family",
    [
        "bert", "xlm-roberta", "modernbert", "llama causal", "llama bidirectional", "mistral bidirectional",
        "qwen3 bidirectional", "gemma3_text bidirectional", "bert with experts",
    ],
)  # fmt: skip
def test_alone_with_short_and_with_long_ones(family, pooling, dtype):
    encoder = Encoder(make(family), pooling)
    if encoder.latent_attention is not None:
        torch.nn.init.normal_(encoder.latent_attention.output.weight, std=0.1)
    encoder = encoder.to(getattr(torch, dtype)).eval()
    text = tokens_of(17, 1)
    short = [tokens_of(SHORT, seed) for seed in range(2, 6)]
    long = [tokens_of(LONG, seed) for seed in range(6, 10)]
    alone_D = embed(encoder, text)[0]
    for mates in (short, long, short + long):
        for before in (0, len(mates)):
            order = [*mates[:before], text, *mates[before:]]
            emb_D = embed(encoder, concatenate(order), token_budget=4096)[before]
            np.testing.assert_allclose(emb_D, alone_D, atol=ATOL[dtype])
    other_D = embed(encoder, tokens_of(17, 99))[0]
    assert np.abs(other_D - alone_D).max() > 2 * ATOL[dtype]
