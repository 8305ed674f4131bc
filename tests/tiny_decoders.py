"""Tiny decoders of every family that can be made bidirectional, with a byte-level BPE tokenizer."""

from pathlib import Path

SENTENCES = [
    "Query: the mine is deep and the water is cold",
    "Instruct: Given a question, find the passage that answers it\nQuery: what is a stope?",
    "gold and silver in the vein, copper in the rock",
    "drill and blast the rock in the tunnel to the ore of the deep copper mine",
    "a shaft, a hoist, and a pump",
    "Find the rock that holds gold",
]
TEXTS = [*SENTENCES[2:], "lamp", "what is a stope?", "the water"]
FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text")
WINDOWED = ("mistral", "qwen2", "qwen3", "gemma2", "gemma3_text")
"""Families whose layers may see a window alone."""


def make_tokenizer(directory: Path, bos=True, eos=False):
    """Write a byte-level BPE tokenizer as GPT-2 has it; returns how many ids it has."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<pad>", "<bos>", "<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(SENTENCES * 8, trainer)
    template = f"{'<bos> ' if bos else ''}$A{' <eos>' if eos else ''}"
    backend.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[("<bos>", 1), ("<eos>", 2)]
    )
    names = {"bos_token": "<bos>", "eos_token": "<eos>"}
    PreTrainedTokenizerFast(tokenizer_object=backend, **names).save_pretrained(str(directory))
    return backend.get_vocab_size()


def make_config(family, window=None, vocab_size=512):
    """Return the config of two layers, hidden size 32, two heads for keys and four for queries."""
    from transformers import AutoConfig

    settings = {
        "vocab_size": vocab_size, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 128,
        "initializer_range": 0.2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    if family in WINDOWED:
        settings["sliding_window"] = window
    if window is not None and family.startswith("qwen"):
        settings |= {"use_sliding_window": True, "max_window_layers": 0}
    if family in ("gemma2", "gemma3_text"):
        kind = "full_attention" if window is None else "sliding_attention"
        settings |= {"layer_types": [kind, kind], "sliding_window": window or 64}
    return AutoConfig.for_model(family, **settings)


def make_backbone(family, window=None, implementation="sdpa", seed=0, vocab_size=512):
    """Return a model with random weights, in evaluation mode."""
    import torch
    from transformers import AutoModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = make_config(family, window, vocab_size)
        return AutoModel.from_config(config, attn_implementation=implementation).eval()


def make_decoder(directory: Path, family="llama", window=None, bos=True, eos=False, seed=0):
    """Write a decoder with its tokenizer; returns the directory."""
    directory.mkdir(parents=True, exist_ok=True)
    size = make_tokenizer(directory, bos, eos)
    make_backbone(family, window, seed=seed, vocab_size=size + 16).save_pretrained(str(directory))
    return directory
