"""Weights, vocabularies and precisions that do not belong together are refused."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, BertForMaskedLM

from models.checkpoint import load_encoder
from models.errors import ModelError
from models.inference import embed
from models.low_bit import low_bit_options, require_bitsandbytes
from models.precision import resolve_dtype
from models.prompts import Prompts
from models.tokenization import TextTokenizer
from tests.tiny_decoders import TEXTS, make_backbone, make_config, make_decoder, make_tokenizer


@pytest.fixture
def decoder(tmp_path):
    return make_decoder(tmp_path / "model")


def rewrite(directory, change):
    path = directory / "model.safetensors"
    weights = load_file(str(path))
    change(weights)
    save_file(weights, str(path), metadata={"format": "pt"})


def test_missing_weights(decoder):
    rewrite(decoder, lambda weights: weights.pop("layers.1.mlp.up_proj.weight"))
    with pytest.raises(ModelError, match=r"1 absent, 0 misshapen, 0 left over: layers.1.mlp.up_proj.weight"):
        load_encoder(decoder)


@pytest.mark.parametrize("name", ["layers.2.mlp.up_proj.weight", "layers.0.self_attn.q_proj.bias"])
def test_weights_left_over(decoder, name):
    rewrite(decoder, lambda weights: weights.update({name: torch.zeros(3)}))
    with pytest.raises(
        ModelError, match=rf"0 absent, 0 misshapen, 1 left over: {name}(.|\n)*one and the same"
    ):
        load_encoder(decoder)


def test_a_config_with_fewer_layers_than_weights(decoder):
    path = decoder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_hidden_layers": 1}))
    with pytest.raises(ModelError, match="left over"):
        load_encoder(decoder)


def test_heads_and_buffers_may_be_left_over(tmp_path, decoder, tiny_model):
    expected = load_encoder(decoder).backbone.embed_tokens.weight
    whole = AutoModelForCausalLM.from_config(make_config("llama", None, len(expected)))
    whole.model.load_state_dict(load_encoder(decoder).backbone.state_dict())
    whole.save_pretrained(str(tmp_path / "whole"))
    assert torch.equal(load_encoder(tmp_path / "whole").backbone.embed_tokens.weight, expected)
    bert = BertForMaskedLM(load_encoder(tiny_model).backbone.config)
    bert.save_pretrained(str(tmp_path / "masked"))
    rewrite(
        tmp_path / "masked",
        lambda weights: weights.update({"bert.embeddings.position_ids": torch.arange(64)[None]}),
    )
    assert load_encoder(tmp_path / "masked").backbone.pooler is None


def test_a_tokenizer_of_another_model(tmp_path):
    for size, words in ((300, "has more ids"), (9000, "has far fewer ids")):
        directory = tmp_path / str(size)
        directory.mkdir()
        make_tokenizer(directory)
        make_backbone("llama", vocab_size=size).save_pretrained(str(directory))
        with pytest.raises(ModelError, match=rf"{words} than the model has(.|\n)*belong to this model"):
            TextTokenizer.load(directory, Prompts(), 16, 16)


def test_float16_needs_a_gpu():
    assert resolve_dtype("float16", "cuda") == "float16"
    with pytest.raises(ModelError, match="float16 needs a GPU"):
        resolve_dtype("float16", "cpu")


def test_few_bits_without_bitsandbytes_are_refused_with_the_extra(decoder, monkeypatch):
    monkeypatch.setattr("models.low_bit.find_spec", lambda name: None)
    for call in (
        lambda: require_bitsandbytes("4bit"),
        lambda: low_bit_options("8bit", "float32", "cpu"),
        lambda: load_encoder(decoder, quantize="4bit"),
    ):
        with pytest.raises(ModelError, match=r"bitsandbytes(.|\n)*stope\[quantize\]"):
            call()


# Random weights of 64 columns lose more in 4 bits than those of a real model, which stays at .98. With fewer columns
# bitsandbytes fails on processors with AVX512-BF16, where it packs weights anew.
@pytest.mark.parametrize(("quantize", "least"), [("8bit", 0.99), ("4bit", 0.7)])
def test_few_bits_embed_nearly_the_same(tmp_path, quantize, least):
    decoder = make_decoder(tmp_path / "model")
    config = AutoConfig.from_pretrained(decoder)
    config.update({"hidden_size": 64, "intermediate_size": 128, "head_dim": 16})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModel.from_config(config).save_pretrained(decoder)
    tokens = TextTokenizer.load(decoder, Prompts(), 32, 32).tokenize(TEXTS, "document")
    encoder = load_encoder(decoder, quantize=quantize, attention="bidirectional")
    kinds = {type(module).__name__ for module in encoder.backbone.layers.modules()}
    assert {"8bit": "Linear8bitLt", "4bit": "Linear4bit"}[quantize] in kinds
    expected_ND = embed(load_encoder(decoder, attention="bidirectional"), tokens)
    assert (embed(encoder, tokens) * expected_ND).sum(1).min() > least
    assert np.abs(embed(encoder, tokens) - expected_ND).max() > 0
