"""GGUF files found in folders and packages, converted once, found again."""

import json
import sys
from importlib.util import find_spec

import numpy as np
import pytest

from models.checkpoint import load_encoder, resolve_model
from models.errors import ModelError
from models.gguf import CONVERSION_VERSION, gguf_file, plain_directory
from models.layout import file_digest
from tests.tiny_decoders import make_decoder


@pytest.fixture
def file(tmp_path):
    """A file that is no GGUF: what is in the cache already is not read again."""
    path = tmp_path / "folder" / "tiny.Q4.gguf"
    path.parent.mkdir()
    path.write_bytes(b"GGUF and no more")
    return path


def kept(file, cache):
    return cache / f"{file.stem}-{file_digest(file)[:24]}-v{CONVERSION_VERSION}"


def test_one_file_beside_no_plain_model(file):
    assert gguf_file(file.parent) == file
    (file.parent / "other.gguf").write_bytes(b"")
    with pytest.raises(ModelError, match=r"several GGUF files(.|\n)*other.gguf, tiny.Q4.gguf"):
        gguf_file(file.parent)
    (file.parent / "config.json").write_text("{}")
    assert gguf_file(file.parent) is None


def test_what_was_converted_is_found_by_its_bytes(file, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    made = make_decoder(kept(file, cache))
    assert plain_directory(file, cache) == made
    monkeypatch.setattr("models.gguf._cache", lambda: cache)
    package = tmp_path / "site" / "tiny_weights_in_gguf"
    package.mkdir(parents=True)
    # Imports what need not be there.
    (package / "__init__.py").write_text("import no_such_runtime\n")
    (package / file.name).write_bytes(file.read_bytes())
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    for source in (file, file.parent, "package:tiny_weights_in_gguf"):
        assert resolve_model(source) == made
    assert "tiny_weights_in_gguf" not in sys.modules
    assert load_encoder(resolve_model(file), attention="bidirectional").dimension == 32


def test_what_cannot_be_read_is_refused(file, tmp_path, monkeypatch):
    if find_spec("gguf") is not None:
        with pytest.raises(ModelError, match="cannot read this GGUF file"):
            plain_directory(file, tmp_path / "cache")
    monkeypatch.setattr("models.gguf.find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"needs the package gguf(.|\n)*stope\[gguf\]"):
        plain_directory(file, tmp_path / "cache")
    assert not kept(file, tmp_path / "cache").exists()


def write_llama(path):
    """Write a llama of one layer; returns the embedding table."""
    import gguf

    generator = np.random.default_rng(0)
    vocabulary = [chr(256 + byte) if not 33 <= byte <= 126 else chr(byte) for byte in range(256)]
    vocabulary[255] = "ab"
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_name("tiny")
    for add, value in (
        (writer.add_context_length, 64), (writer.add_embedding_length, 32), (writer.add_block_count, 1),
        (writer.add_feed_forward_length, 64), (writer.add_head_count, 4), (writer.add_head_count_kv, 2),
        (writer.add_layer_norm_rms_eps, 1e-5), (writer.add_rope_dimension_count, 8), (writer.add_vocab_size, 256),
        (writer.add_tokenizer_model, "gpt2"), (writer.add_token_list, vocabulary), (writer.add_token_merges, ["a b"]),
        (writer.add_token_types, [1] * 256), (writer.add_bos_token_id, 1), (writer.add_eos_token_id, 2),
    ):  # fmt: skip
        add(value)
    shapes = {
        "token_embd": (256, 32), "output_norm": (32,), "blk.0.attn_norm": (32,), "blk.0.ffn_norm": (32,),
        "blk.0.attn_q": (32, 32), "blk.0.attn_k": (16, 32), "blk.0.attn_v": (16, 32), "blk.0.attn_output": (32, 32),
        "blk.0.ffn_gate": (64, 32), "blk.0.ffn_up": (64, 32), "blk.0.ffn_down": (32, 64),
    }  # fmt: skip
    weights = {name: generator.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    for name, weight in weights.items():
        writer.add_tensor(f"{name}.weight", weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return weights["token_embd"]


def test_weights_come_out_as_they_went_in(tmp_path, capfd):
    table = write_llama(tmp_path / "tiny.gguf")
    directory = plain_directory(tmp_path / "tiny.gguf", tmp_path / "cache")
    assert "quantization_config" not in json.loads((directory / "config.json").read_text())
    encoder = load_encoder(directory)
    np.testing.assert_array_equal(encoder.backbone.embed_tokens.weight.detach().numpy(), table)
    assert plain_directory(tmp_path / "tiny.gguf", tmp_path / "cache") == directory
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [directory.name]
    assert capfd.readouterr().out == ""
