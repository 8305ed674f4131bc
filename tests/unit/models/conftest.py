"""Tiny models with a real WordPiece tokenizer, built on the spot."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")

WORDS = """
the a of and in to is was mine ore rock gold silver copper shaft stope drill blast hoist pump water lamp query
document search : . , ? ' - instruct name what where who deep vein tunnel
""".split()  # noqa: SIM905 (sixty words)
PIECES = [f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz"] + list("abcdefghijklmnopqrstuvwxyz")
SENTENCES = [
    "the mine is deep",
    "gold and silver in the vein.",
    "what is a stope?",
    "a shaft, a hoist, and a pump",
    "drill and blast the rock in the tunnel to the ore of the deep copper mine",
    "lamp",
    "water was in the shaft - the pump is in the water",
    "zebra",
]


def build_model(directory: Path, *, seed: int = 0, positions: int = 64) -> Path:
    """Save a 2-layer, hidden-32 BertModel and its tokenizer; returns the directory."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *PIECES]
    vocabulary = list(dict.fromkeys(vocabulary))
    ids = {word: i for i, word in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=positions,
    )
    fast.save_pretrained(str(directory))
    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=positions,
        initializer_range=0.2,
    )
    BertModel(config).save_pretrained(str(directory))
    torch.random.set_rng_state(state)
    return directory


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a tiny plain transformers model; do not write to it."""
    return build_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session")
def sentences() -> list[str]:
    """A few texts of different lengths; one is empty."""
    return [*SENTENCES, ""]
