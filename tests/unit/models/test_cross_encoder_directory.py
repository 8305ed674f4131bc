"""Cross-encoders that begin on a backbone: equal for a seed, loaded by other libraries, proven before they are kept."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from models import reranker
from models.errors import ModelError
from models.reranking import directory
from models.reranking.directory import check_beginning, verify_cross_encoder, write_untrained
from models.reranking.network import load_network
from models.reranking.rendering import make_rendering
from models.tokenizer_files import load_tokenizer
from tests.tiny_rerankers import make_cross_encoder, make_decoder
from tests.tiny_training import make_model

PAIRS = [("w1 w2", "w3 w4 w5"), ("w6", "w7 w8"), ("w9 w1 w2", "w3")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("beginnings")
    make_model(folder / "encoder")
    make_cross_encoder(folder / "cross")
    for seed in (0, 1):
        write_untrained(folder / "encoder", folder / f"seed-{seed}", seed)
    return folder


def test_the_body_is_the_backbone_and_the_head_hangs_on_the_seed(folder):
    write_untrained(folder / "encoder", folder / "again", 0)
    before, first, again, other = (
        load_file(folder / name / "model.safetensors") for name in ("encoder", "seed-0", "again", "seed-1")
    )
    for name, weight in before.items():
        assert torch.equal(first[f"bert.{name}"], weight) and torch.equal(other[f"bert.{name}"], weight)
    assert first.keys() - {f"bert.{name}" for name in before} > {"classifier.weight", "classifier.bias"}
    assert all(torch.equal(weight, again[name]) for name, weight in first.items())
    assert not torch.equal(first["classifier.weight"], other["classifier.weight"])


def test_drawing_a_head_leaves_the_global_generator_alone(folder, tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    write_untrained(folder / "encoder", tmp_path / "model", 0)
    assert torch.equal(torch.rand(3), expected)


def test_a_cross_encoder_is_taken_as_it_is(folder):
    write_untrained(folder / "cross", folder / "taken", 0)
    rendering = make_rendering("cross_encoder", max_query_tokens=16, max_document_tokens=40)
    before, after = (
        reranker.load_reranker(folder / name, rendering).score(PAIRS) for name in ("cross", "taken")
    )
    assert np.array_equal(before, after)


@pytest.mark.parametrize("name", ["seed-0", "cross"])
def test_sentence_transformers_scores_alike(folder, name):
    assert verify_cross_encoder(folder / name, PAIRS) < 1e-5


def test_a_difference_is_refused(folder, monkeypatch):
    load = reranker.load_reranker
    monkeypatch.setattr(reranker, "load_reranker", lambda _, rendering: load(folder / "seed-1", rendering))
    with pytest.raises(ModelError, match="scores this cross-encoder's pairs differently"):
        verify_cross_encoder(folder / "seed-0", PAIRS)


def test_a_long_text_of_a_model_with_many_positions_fits_the_comparison(tmp_path, monkeypatch):
    make_cross_encoder(tmp_path / "long", positions=131_072)
    assert verify_cross_encoder(tmp_path / "long", [*PAIRS, ("w1 w2", "w3 " * 6000)]) < 1e-5
    # However little a batch holds.
    monkeypatch.setattr(directory, "MIN_TOKEN_BUDGET", 16)
    assert verify_cross_encoder(tmp_path / "long", [*PAIRS, ("w1 w2", "w3 " * 50)]) < 1e-5


@pytest.mark.parametrize(
    ("tokenizer", "config", "expected"),
    [
        ({"pad_token": "<|im_end|>"}, {}, "<|im_end|>"),
        ({"pad_token": "<|im_end|>"}, {"pad_token_id": 5}, "<|im_end|>"),
        ({"pad_token": None, "eos_token": "<|im_end|>"}, {}, "<|im_end|>"),
        ({"eos_token": "<|im_end|>"}, {"pad_token_id": None}, "<|im_end|>"),
        ({}, {"eos_token_id": 7}, None),
    ],
)
def test_a_decoder_is_given_a_head_too_and_others_pad_it_alike(tmp_path, tokenizer, config, expected):
    source = make_decoder(tmp_path / "decoder")
    for name, changes in (("tokenizer_config.json", tokenizer), ("config.json", config)):
        path = source / name
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    write_untrained(source, tmp_path / "model", 0)
    network = load_network(tmp_path / "model", "cross_encoder", "float32", "cpu")
    assert network.config.num_labels == 1
    written = load_tokenizer(tmp_path / "model")
    assert written.pad_token_id == network.config.pad_token_id
    assert written.pad_token == expected or (expected is None and written.pad_token_id == 7)
    pairs = [("w1 w2", "w3 w4 w5 w6 w7"), ("w6", "w7"), ("yes", "no no no")]
    assert verify_cross_encoder(tmp_path / "model", pairs) < 1e-4


def test_a_decoder_without_anything_to_pad_with_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r'add "pad_token" to tokenizer_config.json'):
        write_untrained(make_decoder(tmp_path / "decoder"), tmp_path / "model", 0)


def test_what_no_cross_encoder_begins_with_is_refused(folder, tmp_path):
    make_cross_encoder(tmp_path / "two", labels=2)
    with pytest.raises(ModelError, match="2 labels"):
        check_beginning(tmp_path / "two")
    make_model(tmp_path / "experts")
    path = tmp_path / "experts" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "moe": {"num_experts": 2}}))
    with pytest.raises(ModelError, match="experts"):
        check_beginning(tmp_path / "experts")
