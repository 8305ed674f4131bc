"""Tiny backbones of every family that can have experts."""

import torch

SIZES = {
    "vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 24,
    "max_position_embeddings": 40,
}  # fmt: skip
FAMILIES = {
    "bert": "Bert", "roberta": "Roberta", "xlm-roberta": "XLMRoberta", "camembert": "Camembert",
    "modernbert": "ModernBert", "llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3",
}  # fmt: skip


def make_backbone(family: str, seed: int = 0):
    import transformers

    name = FAMILIES[family]
    own = {"pad_token_id": 0, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    if family in ("llama", "mistral", "qwen2", "qwen3"):
        own = {"num_key_value_heads": 1, "head_dim": 8, "pad_token_id": 0}
    if family == "modernbert":
        own = {"pad_token_id": 0} | {
            "cls_token_id": 1,
            "sep_token_id": 2,
            "bos_token_id": 1,
            "eos_token_id": 2,
        }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = getattr(transformers, f"{name}Config")(**SIZES, **own, initializer_range=0.3)
        return getattr(transformers, f"{name}Model")(config).eval()


def make_encoder(family: str = "bert", seed: int = 0):
    from models.encoder import Encoder

    return Encoder(make_backbone(family, seed)).eval()


def make_texts(num_texts: int = 5, width: int = 12, seed: int = 1):
    """Padded ids, attention mask and pool mask; lengths 3 up to the width."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.linspace(width, 3, num_texts).long()
    mask = (torch.arange(width) < lengths[:, None]).long()
    ids = torch.randint(3, SIZES["vocab_size"], (num_texts, width), generator=generator) * mask
    return ids, mask, mask
