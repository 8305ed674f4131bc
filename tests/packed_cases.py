"""Small backbones and a batch of several lengths, and what packing must equal on them."""

import torch
from transformers import AutoConfig, AutoModel

from models.packed import packed_states

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


def check(backbone, atol=2e-5):
    ids_BT, mask_BT = batch(next(backbone.parameters()).device)
    with torch.inference_mode():
        states_BTD = packed_states(backbone, ids_BT, mask_BT)
        assert not states_BTD[mask_BT == 0].any()
        expected = backbone(input_ids=ids_BT, attention_mask=mask_BT).last_hidden_state
    kept = mask_BT.bool()
    torch.testing.assert_close(states_BTD[kept], expected[kept], atol=atol, rtol=1e-3)
    assert backbone.config._attn_implementation == "sdpa"
