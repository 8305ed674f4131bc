"""A model is keyed by its bytes: what changes under the same path is computed again."""

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from cluster.definition import load_definition
from cluster.errors import UserError
from cluster.session import Session
from models.prompts import Prompts
from pipelines.encode.config import EncodeConfig
from pipelines.encode.pipeline import encode_step
from pipelines.ingest.config import DocstringsConfig
from pipelines.ingest.pipeline import ingest_step
from pipelines.model import Model
from pipelines.model_config import ModelConfig
from pipelines.prompts import PromptsConfig
from pipelines.steps import Step
from tests.tiny_training import make_model


@pytest.fixture
def directory(tmp_path):
    make_model(tmp_path / "model")
    return tmp_path / "model"


def fingerprint(directory, **settings) -> str:
    config = ModelConfig(source=str(directory), max_query_tokens=16, max_document_tokens=32, **settings)
    model = Model.resolve(config, Session(load_definition("local")))
    data = ingest_step(DocstringsConfig(packages=("pydantic",)))
    return encode_step(data, model, ("train",), EncodeConfig()).fingerprint


def test_a_weight_changed_under_the_same_path_is_another_model(directory):
    before = fingerprint(directory)
    assert fingerprint(directory) == before
    path = directory / "model.safetensors"
    weights = load_file(path)
    name = sorted(weights)[0]
    weights[name] = weights[name] + np.float32(1e-3)
    save_file(weights, path, metadata={"format": "pt"})
    assert fingerprint(directory) != before


@pytest.mark.parametrize(
    "settings",
    [{"prompts": PromptsConfig(query="query: ")}, {"pooling": "cls"}, {"dtype": "float32"}],
    ids=["prompts", "pooling", "dtype"],
)
def test_what_embeddings_depend_on_is_in_the_key(directory, settings):
    assert fingerprint(directory, **settings) != fingerprint(directory, dtype="bfloat16")


def test_weights_in_few_bits_hang_on_the_version_of_their_library():
    data = Step("ingest", "tiny", 1, {}, (), {}, print)
    for quantize in (None, "8bit"):
        config = ModelConfig(source="tiny", quantize=quantize)
        model = Model(config, "digest", "mean", Prompts(), "bfloat16", "cpu")
        step = encode_step(data, model, ("train",), EncodeConfig())
        assert ("bitsandbytes" in step.libraries) is (quantize is not None)


def test_a_tokenizer_changed_under_the_same_path_is_another_model(directory):
    before = fingerprint(directory)
    path = directory / "tokenizer.json"
    path.write_text(path.read_text().replace("w199", "w299"))
    assert fingerprint(directory) != before


def test_a_limit_beyond_the_positions_is_refused(directory):
    config = ModelConfig(source=str(directory), max_document_tokens=65)
    with pytest.raises(UserError, match="max_document_tokens: 64"):
        Model.resolve(config, Session(load_definition("local")))
