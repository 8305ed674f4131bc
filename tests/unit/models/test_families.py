"""Encoders of every family that is named: loaded, embedded as transformers does, exported and read by others."""

import json
import shutil

import numpy as np
import pytest
import torch

from models.bidirectional import ENCODERS
from models.checkpoint import load_encoder, save_encoder, verify_export
from models.errors import ModelError
from models.fused import is_fusible
from models.inference import embed
from models.layout import describe_model, model_digest
from models.prompts import Prompts
from models.remote_code import check_code
from models.sentence_layout import check_prompts
from models.tokenization import TextTokenizer
from tests.unit.models.conftest import SENTENCES

SIZES = {
    "vocab_size": 200, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
    "max_position_embeddings": 66, "pad_token_id": 0, "initializer_range": 0.2,
}  # fmt: skip
OWN = {
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48},
    "albert": {"embedding_size": 16},
    "electra": {"embedding_size": 16},
    "eurobert": {"num_key_value_heads": 4, "head_dim": 8},
    "modernbert": {"cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3},
}
CODE = """
from transformers import BertConfig, BertModel

class FlippedConfig(BertConfig):
    model_type = "flipped_bert"

class FlippedModel(BertModel):
    config_class = FlippedConfig

    def forward(self, *args, **kwargs):
        out = super().forward(*args, **kwargs)
        out.last_hidden_state = -out.last_hidden_state.flip(-1)
        return out
"""


def write(family, directory, tokenizer_from, **changes):
    import transformers

    config = transformers.AutoConfig.for_model(family, **SIZES | OWN.get(family, {}) | changes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = transformers.AutoModel.from_config(config).eval()
    network.save_pretrained(str(directory))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(tokenizer_from / name, directory / name)
    return network


@pytest.mark.parametrize("family", ENCODERS)
def test_embeds_as_transformers_does(family, tiny_model, tmp_path):
    network = write(family, tmp_path, tiny_model)
    encoder = load_encoder(tmp_path)
    assert encoder.dimension == describe_model(tmp_path).dimension == 32
    tokens = TextTokenizer.load(tmp_path, Prompts(), 24, 24).tokenize(SENTENCES, "document")
    found = embed(encoder, tokens)
    for row in range(len(tokens)):
        ids_BT = torch.from_numpy(tokens.take(np.array([row])).ids.astype(np.int64))[None]
        with torch.no_grad():
            mean_D = (
                network(input_ids=ids_BT, attention_mask=torch.ones_like(ids_BT)).last_hidden_state[0].mean(0)
            )
        np.testing.assert_allclose(found[row], mean_D / mean_D.norm(), atol=2e-5)


@pytest.mark.parametrize("family", ["distilbert", "mpnet", "deberta-v2"])
def test_is_exported_as_sentence_transformers_reads_it(family, tiny_model, tmp_path):
    write(family, tmp_path / "base", tiny_model)
    save_encoder(
        load_encoder(tmp_path / "base"), tmp_path / "out", tmp_path / "base", Prompts(query="query: "), 24
    )
    assert verify_export(tmp_path / "out", SENTENCES) > 0.99999


@pytest.mark.parametrize(
    "changes",
    [{"pad_token": None}, {"pad_token": None, "eos_token": None}, {"truncation_side": "left"}],
    ids=["the end pads", "the end that the config names pads", "cut at the end"],
)
def test_what_a_decoder_leaves_unsaid_is_written_for_others(changes, tiny_model, tmp_path):
    write("llama", tmp_path / "base", tiny_model, eos_token_id=3, pad_token_id=None)
    path = tmp_path / "base" / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token": "[SEP]"} | changes))
    save_encoder(load_encoder(tmp_path / "base"), tmp_path / "out", tmp_path / "base", Prompts(), 24)
    assert verify_export(tmp_path / "out", SENTENCES) > 0.99999
    written = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert written.get("truncation_side", "right") == "right"
    assert written["pad_token"] == ("[SEP]" if "pad_token" in changes else "[PAD]")


def test_a_decoder_without_anything_to_pad_with_is_refused_before_it_is_trained(tiny_model, tmp_path):
    write("llama", tmp_path, tiny_model, eos_token_id=None, pad_token_id=None)
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"pad_token": None, "eos_token": None}))
    with pytest.raises(ModelError, match="neither a padding token"):
        check_prompts(tmp_path, Prompts(), "mean")


def test_tokens_of_images_beyond_the_table_are_text_and_others_are_refused(tiny_model, tmp_path):
    shutil.copytree(tiny_model, tmp_path / "m")
    size = json.loads((tmp_path / "m" / "config.json").read_text())["vocab_size"]
    path = tmp_path / "m" / "tokenizer.json"
    content = json.loads(path.read_text())
    added = {
        "id": size, "content": "<image_soft_token>", "single_word": False, "lstrip": False, "rstrip": False,
        "normalized": False, "special": True,
    }  # fmt: skip
    path.write_text(json.dumps(content | {"added_tokens": [*content["added_tokens"], added]}))
    tokens = TextTokenizer.load(tmp_path / "m", Prompts(), 24, 24).tokenize(
        ["gold <image_soft_token>"], "document"
    )
    assert tokens.ids.max() < size and len(tokens.ids) > 3
    other = added | {"content": "<tool>"}
    path.write_text(json.dumps(content | {"added_tokens": [*content["added_tokens"], other]}))
    with pytest.raises(ModelError, match="more ids than the model has embeddings"):
        TextTokenizer.load(tmp_path / "m", Prompts(), 24, 24)


def with_code(directory, tiny_model):
    shutil.copytree(tiny_model, directory)
    (directory / "modeling_flipped.py").write_text(CODE)
    config = json.loads((directory / "config.json").read_text()) | {
        "model_type": "flipped_bert",
        "architectures": ["FlippedModel"],
        "auto_map": {
            "AutoConfig": "modeling_flipped.FlippedConfig",
            "AutoModel": "modeling_flipped.FlippedModel",
        },
    }
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def test_code_of_a_model_runs_only_where_it_is_trusted(tiny_model, tmp_path):
    directory = with_code(tmp_path / "flipped", tiny_model)
    with pytest.raises(ModelError, match=r"(?s)FlippedModel.*trust_remote_code: true"):
        check_code(directory, trusted=False)
    check_code(directory, trusted=True)
    check_code(tiny_model, trusted=False)
    with pytest.raises(ModelError):
        load_encoder(directory)
    encoder = load_encoder(directory, trusted=True)
    tokens = TextTokenizer.load(directory, Prompts(), 24, 24).tokenize(SENTENCES, "document")
    plain = embed(load_encoder(tiny_model), tokens)
    np.testing.assert_allclose(embed(encoder, tokens), -plain[:, ::-1], atol=1e-6)
    save_encoder(encoder, tmp_path / "out", directory, Prompts(), 24)
    assert verify_export(tmp_path / "out", SENTENCES, trusted=True) > 0.99999
    assert not is_fusible(encoder.backbone), "it would compute what the code changes"
    before, untrusted = model_digest(directory, trusted=True), model_digest(directory)
    (directory / "modeling_flipped.py").write_text(CODE.replace("-out", "out"))
    assert model_digest(directory, trusted=True) != before, "code decides what is embedded"
    assert model_digest(directory) == untrusted
