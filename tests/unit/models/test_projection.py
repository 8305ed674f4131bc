"""Linear layers behind the pooler: equal to sentence-transformers', trained, merged, on disk; others are refused."""

import json
import shutil
from itertools import pairwise

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.models import Dense, Normalize, Pooling, Transformer

from models.checkpoint import load_encoder, save_encoder, verify_export
from models.errors import ModelError
from models.inference import embed
from models.layout import describe_model, model_digest, tokenizer_digest
from models.merging import soup
from models.prompts import Prompts
from models.reranker import load_reranker
from models.reranking.directory import verify_cross_encoder, write_untrained
from models.reranking.rendering import make_rendering
from models.sentence_modules import ProjectionSettings, read_modules
from models.tokenization import TextTokenizer
from models.weightless import weightless_encoder


@pytest.fixture
def theirs(tiny_model, tmp_path):
    """A model as sentence-transformers writes it: two linear layers, with and without a bias."""
    torch.manual_seed(3)
    transformer = Transformer(str(tiny_model), max_seq_length=24)
    pooling = Pooling(32, "mean")
    layers = [
        Dense(32, 48, bias=False, activation_function=torch.nn.Identity()),
        Dense(48, 20, activation_function=torch.nn.Tanh()),
    ]
    model = SentenceTransformer(modules=[transformer, pooling, *layers, Normalize()], device="cpu")
    model.save(str(tmp_path / "theirs"))
    return model, tmp_path / "theirs"


def embeddings(directory, texts, dtype="float32"):
    tokens = TextTokenizer.load(directory, Prompts(), 24, 24).tokenize(texts, "document")
    return embed(load_encoder(directory, dtype), tokens)


def test_equal_to_sentence_transformers(theirs, sentences):
    model, directory = theirs
    assert describe_model(directory).dimension == load_encoder(directory).dimension == 20
    found = embeddings(directory, sentences)
    np.testing.assert_allclose(found, model.encode(sentences), atol=1e-6)
    assert load_encoder(directory, "bfloat16").projections[0].linear.weight.dtype == torch.float32
    close = np.einsum("nd,nd->n", embeddings(directory, sentences, "bfloat16"), found)
    assert close.min() > 0.999


def test_a_step_moves_it_and_what_is_saved_loads_everywhere(theirs, sentences, tmp_path):
    _, directory = theirs
    encoder = load_encoder(directory).train()
    tokens = TextTokenizer.load(directory, Prompts(), 24, 24).tokenize(sentences, "document")
    with torch.autocast("cpu", torch.bfloat16):
        emb_BD = encoder(*tokens.pad(8, 24))
    emb_BD[:, 0].sum().backward()
    for projection in encoder.projections:
        assert projection.linear.weight.grad.abs().max() > 0
        with torch.no_grad():
            projection.linear.weight -= projection.linear.weight.grad
    save_encoder(encoder, tmp_path / "ours", directory, Prompts(), 24)
    assert read_modules(tmp_path / "ours").projections == ("2_Dense", "3_Dense")
    np.testing.assert_array_equal(embeddings(tmp_path / "ours", sentences), embed(encoder, tokens))
    assert verify_export(tmp_path / "ours", sentences[:8]) > 0.9999
    assert np.abs(embeddings(tmp_path / "ours", sentences) - embeddings(directory, sentences)).max() > 1e-3


def test_its_weights_and_settings_count(theirs):
    _, directory = theirs
    before = model_digest(directory)
    (directory / "4_Normalize" / "config.json").write_text('{"of": "no consequence"}')
    assert model_digest(directory) == before
    weights = directory / "3_Dense" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    assert model_digest(directory) != before
    assert [tuple(p.shape) for p in weightless_encoder(directory, "mean").projections[1].parameters()] == [
        (20, 48),
        (20,),
    ]


def test_merged_as_all_weights_are(theirs, tmp_path, sentences):
    _, directory = theirs
    encoder = load_encoder(directory)
    with torch.no_grad():
        encoder.projections[0].linear.weight += 1
    save_encoder(encoder, tmp_path / "other", directory, Prompts(), 24)
    merged = load_encoder(soup([tmp_path / "other", directory_like(tmp_path, directory)], tmp_path / "soup"))
    expected = load_encoder(directory).projections[0].linear.weight + 0.5
    torch.testing.assert_close(merged.projections[0].linear.weight, expected)
    told = tmp_path / "other" / "3_Dense" / "config.json"
    told.write_text(told.read_text().replace("activation.Tanh", "activation.ReLU"))
    with pytest.raises(ModelError, match="differ in projections"):
        soup([tmp_path / "other", directory], tmp_path / "no")


def directory_like(tmp_path, directory):
    """The same model as we write it: folders have the same names."""
    save_encoder(load_encoder(directory), tmp_path / "like", directory, Prompts(), 24)
    return tmp_path / "like"


@pytest.mark.parametrize(
    ("told", "match"),
    [
        ({"activation_function": "torch.nn.functional.Tanh"}, "activation"),
        ({"activation_function": "os.system"}, "activation"),
        ({"activation_function": "evil.nn.Tanh"}, "activation"),
        ({"use_residual": True}, "residual"),
        ({"module_input_name": "token_embeddings"}, "input"),
    ],
)
def test_what_computes_something_else_is_refused(tmp_path, told, match):
    (tmp_path / "config.json").write_text(json.dumps({"in_features": 4, "out_features": 2, **told}))
    with pytest.raises(ModelError, match=match):
        ProjectionSettings.read(tmp_path)


def test_weights_that_are_missing_or_do_not_fit_are_refused(theirs):
    _, directory = theirs
    shutil.copy(directory / "3_Dense" / "model.safetensors", directory / "2_Dense" / "model.safetensors")
    with pytest.raises(ModelError, match="do not fit"):
        load_encoder(directory)
    (directory / "2_Dense" / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1")
    with pytest.raises(ModelError, match="do not fit"):
        load_encoder(directory)
    (directory / "2_Dense" / "model.safetensors").rename(directory / "2_Dense" / "pytorch_model.bin")
    for read in (load_encoder, lambda source: soup([source, source], source.parent / "soup")):
        with pytest.raises(ModelError, match="read safely"):
            read(directory)
    (directory / "2_Dense" / "config.json").unlink()
    with pytest.raises(ModelError, match="no settings"):
        describe_model(directory)


@pytest.fixture
def cased(tiny_model, tmp_path):
    """A model whose tokenizer keeps case, as sentence-transformers writes it."""
    directory = tmp_path / "theirs"
    SentenceTransformer(
        modules=[Transformer(str(tiny_model), max_seq_length=24), Pooling(32, "mean")], device="cpu"
    ).save(str(directory))
    content = json.loads((directory / "tokenizer.json").read_text()) | {"normalizer": None}
    (directory / "tokenizer.json").write_text(json.dumps(content))
    told = json.loads((directory / "tokenizer_config.json").read_text())
    told |= {"tokenizer_class": "PreTrainedTokenizerFast", "do_lower_case": False}
    (directory / "tokenizer_config.json").write_text(json.dumps(told))
    return directory


def test_lower_casing_is_that_of_sentence_transformers(cased, tmp_path, sentences):
    upper = [text.upper() for text in sentences]

    def ids(texts):
        return TextTokenizer.load(cased, Prompts(), 24, 24).tokenize(texts, "query").ids

    assert not np.array_equal(ids(upper), ids(sentences)), "the tokenizer alone keeps case"
    path, before = cased / "sentence_bert_config.json", (model_digest(cased), tokenizer_digest(cased))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"do_lower_case": True}))
    assert model_digest(cased) != before[0] and tokenizer_digest(cased) != before[1]
    np.testing.assert_array_equal(ids(upper), ids([text.lower() for text in upper]))
    save_encoder(load_encoder(cased), tmp_path / "ours", cased, Prompts(query="Query: "), 24)
    assert verify_export(tmp_path / "ours", upper[:8]) > 0.9999
    write_untrained(cased, tmp_path / "judge", 0)
    pairs = list(pairwise(upper))
    verify_cross_encoder(tmp_path / "judge", pairs)
    scores = load_reranker(tmp_path / "judge", make_rendering("cross_encoder")).score(pairs)
    assert scores.std() > 1e-4, "texts are read, not unknown words"
