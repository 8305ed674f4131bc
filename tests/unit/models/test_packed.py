"""A batch without its padding computes what the padded one does."""

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModel

from models.bidirectional import set_attention
from models.encoder import Encoder
from models.inference import embed
from models.packed import attend_text_by_text, has_varlen, is_known, is_packable, pack, packed_states, unpack
from models.tokenization import Tokens
from tests.tiny_decoders import make_backbone

LENGTHS = (5, 1, 12, 8)
SMALL = {
    "vocab_size": 512, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "max_position_embeddings": 64, "initializer_range": 0.2,
}  # fmt: skip


def batch(device="cpu"):
    generator = torch.Generator().manual_seed(0)
    ids_BT = torch.randint(3, 250, (len(LENGTHS), 16), generator=generator)
    mask_BT = (torch.arange(16) < torch.tensor(LENGTHS)[:, None]).long()
    return (ids_BT * mask_BT).to(device), mask_BT.to(device)


def encoder_backbone(family):
    settings = SMALL | {"pad_token_id": 1 if "roberta" in family else 0}
    if family == "modernbert":
        settings |= {"local_attention": 6, "global_attn_every_n_layers": 2, "num_hidden_layers": 3}
        settings |= {"bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
    torch.manual_seed(0)
    return AutoModel.from_config(AutoConfig.for_model(family, **settings), attn_implementation="sdpa").eval()


def test_packing_and_unpacking_are_inverse():
    ids_BT, mask_BT = batch()
    packed = pack(ids_BT, mask_BT)
    expected = [token for b, n in enumerate(LENGTHS) for token in ids_BT[b, :n].tolist()]
    assert packed.ids_M.tolist() == expected
    assert packed.bounds_B1.tolist() == [0, 5, 6, 18, 26] and packed.bounds_B1.dtype == torch.int32
    assert packed.positions_M.tolist() == [place for n in LENGTHS for place in range(n)]
    assert packed.longest == 12
    assert torch.equal(unpack(packed.ids_M[:, None], mask_BT)[..., 0], ids_BT)


@pytest.mark.parametrize("window", [(-1, -1), (-1, 0), (2, 2), (3, 0)])
def test_attention_text_by_text_equals_loops(window):
    generator = torch.Generator().manual_seed(0)
    q_MHd, k_MHd, v_MHd = (torch.randn(7, heads, 8, generator=generator) for heads in (4, 2, 2))
    bounds = [0, 3, 7]
    out_MHd = attend_text_by_text(q_MHd, k_MHd, v_MHd, torch.tensor(bounds), window, 0.3)
    for low, high in ((0, 3), (3, 7)):
        for i in range(low, high):
            for head in range(4):
                seen = [
                    j
                    for j in range(low, high)
                    if (window[0] < 0 or j >= i - window[0]) and (window[1] < 0 or j <= i + window[1])
                ]
                scores = torch.stack([0.3 * q_MHd[i, head] @ k_MHd[j, head // 2] for j in seen]).softmax(0)
                expected = sum(s * v_MHd[j, head // 2] for s, j in zip(scores, seen, strict=True))
                torch.testing.assert_close(out_MHd[i, head], expected, atol=1e-5, rtol=1e-5)


def check(backbone, atol=2e-5):
    ids_BT, mask_BT = batch(next(backbone.parameters()).device)
    with torch.inference_mode():
        states_BTD = packed_states(backbone, ids_BT, mask_BT)
        assert not states_BTD[mask_BT == 0].any()
        expected = backbone(input_ids=ids_BT, attention_mask=mask_BT).last_hidden_state
    kept = mask_BT.bool()
    torch.testing.assert_close(states_BTD[kept], expected[kept], atol=atol, rtol=1e-3)
    assert backbone.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("family", ["bert", "roberta", "xlm-roberta", "camembert", "modernbert"])
def test_encoders(family):
    backbone = encoder_backbone(family)
    assert is_known(backbone)
    check(backbone)


@pytest.mark.parametrize("attention", ["causal", "bidirectional"])
@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_decoders(family, window, attention):
    backbone = make_backbone(family, None if family == "llama" else window)
    set_attention(backbone.config, attention, family)
    assert is_known(backbone)
    check(backbone)


def test_what_is_not_known_is_declined():
    assert not is_known(make_backbone("gemma2"))
    decoder = encoder_backbone("bert")
    decoder.config.is_decoder = True
    assert not is_known(decoder)
    odd = make_backbone("llama")
    odd.config.head_dim = 12
    assert not is_known(odd)
    assert not is_packable(make_backbone("llama"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("attention", ["causal", "bidirectional"])
@pytest.mark.parametrize("family", ["bert", "xlm-roberta", "modernbert", "llama", "mistral", "qwen3"])
def test_on_a_gpu(family, attention):
    if family in ("bert", "xlm-roberta", "modernbert"):
        backbone = encoder_backbone(family)
    else:
        backbone = make_backbone(family, None if family == "llama" else 3)
        set_attention(backbone.config, attention, family)
    backbone = backbone.to("cuda", torch.bfloat16)
    assert has_varlen() and is_packable(backbone)
    check(backbone, atol=0.1)
    ids_BT, mask_BT = batch()
    ids = ids_BT[mask_BT.bool()].numpy().astype(np.int32)
    tokens = Tokens(ids, np.concatenate([[0], np.cumsum(LENGTHS)]), np.zeros(len(LENGTHS), np.int32))
    emb_ND = embed(Encoder(backbone), tokens)
    alone_ND = np.concatenate(
        [embed(Encoder(backbone), tokens.take(np.array([i]))) for i in range(len(LENGTHS))]
    )
    assert (emb_ND * alone_ND).sum(1).min() > 0.999
