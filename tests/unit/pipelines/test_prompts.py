"""Prompts, attention, pooling and precision of a model as a recipe names them."""

import json
from importlib.util import find_spec

import pytest
from pydantic import ValidationError

from cluster.definition import load_definition
from cluster.session import Session
from models.errors import ModelError
from models.prompts import Prompts
from pipelines.model import Model
from pipelines.model_config import ModelConfig
from pipelines.prompts import PromptsConfig
from tests.tiny_decoders import make_decoder
from tests.tiny_training import make_model


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    return make_decoder(tmp_path_factory.mktemp("decoder") / "model")


def resolve(directory, **settings):
    config = ModelConfig(source=str(directory), max_query_tokens=64, max_document_tokens=32, **settings)
    return Model.resolve(config, Session(load_definition("local")))


def test_what_was_not_asked_for_leaves_the_key_as_it_was(decoder):
    assert resolve(decoder).identity.keys() == {
        "digest", "pooling", "prompts", "max_query_tokens", "max_document_tokens", "dtype", "device",
    }  # fmt: skip
    assert resolve(decoder).identity["prompts"] == {"query": "", "document": "", "pooled": False}


@pytest.mark.parametrize(
    "settings",
    [
        {"attention": "bidirectional"},
        {"pooling": "latent_attention"},
        {"pooling": "latent_attention", "latent_attention": {"num_latents": 16}},
        {"prompts": {"instructions": {"sts": "Find the rock"}}},
        {"prompts": {"instructions": {"sts": "Find the rock"}, "template": "{task}: {query}"}},
        {"prompts": {"few_shot": [{"query": "gold", "document": "in the vein"}]}},
    ],
)
def test_what_embeddings_depend_on_is_in_the_key(decoder, settings):
    plain, other = resolve(decoder).identity, resolve(decoder, **settings).identity
    assert json.dumps(plain, sort_keys=True) != json.dumps(other, sort_keys=True)
    if settings.get("latent_attention"):
        assert other != resolve(decoder, pooling="latent_attention").identity


def test_workers_load_what_was_asked_for(decoder):
    model = resolve(
        decoder,
        attention="bidirectional",
        pooling="latent_attention",
        latent_attention={"num_latents": 6, "num_heads": 4},
        prompts={
            "instructions": {"sts": "Find the rock"},
            "few_shot": [{"query": "ore", "document": "in the rock", "task": "sts"}],
        },
    )
    located = model.locate({})
    hash(located)
    encoder = located.whole().encoder()
    assert encoder.backbone.config.is_causal is False
    assert encoder.latent_attention.settings == {"dimension": 32, "num_latents": 6, "num_heads": 4}
    own = "Instruct: Find the rock\nQuery: "
    assert located.prompts == Prompts(query="", tasks=(("sts", f"{own}ore\nin the rock\n\n{own}"),))
    tokens = located.tokenizer().tokenize(["gold"], "query", ["sts"])
    assert located.tokenizer().uncut.decode(tokens.ids[tokens.pool_starts[0] :].tolist()) == " gold"


def test_bad_prompts_are_refused():
    for settings, words in (
        ({"template": "{task}: {query}"}, "there are none"),
        ({"template": "{task}", "instructions": {"sts": "Find"}}, "a template holds"),
        ({"instructions": {"document": "Find"}}, "cannot be called 'document'"),
        (
            {"few_shot": [{"query": "a", "document": "b", "task": "passage"}]},
            "few_shot: a task cannot be called 'passage'",
        ),
        ({"few_shot": [{"query": "", "document": "x"}]}, "few_shot"),
    ):
        with pytest.raises(ValidationError, match=words):
            PromptsConfig(**settings)


def test_what_the_model_cannot_do_is_refused_before_anything_starts(decoder, tmp_path):
    make_model(tmp_path / "bert")
    with pytest.raises(ModelError, match="bidirectional by its making"):
        resolve(tmp_path / "bert", attention="causal")
    long = [{"query": "gold", "document": "in the vein " * 30}] * 3
    with pytest.raises(ModelError, match="leave no room for a query"):
        resolve(decoder, prompts={"few_shot": long})
    if find_spec("bitsandbytes") is None:
        with pytest.raises(ModelError, match=r"stope\[quantize\]"):
            resolve(decoder, quantize="4bit")


def test_what_embeddings_depend_on_is_json(decoder):
    prompts = {"query": "q: ", "instructions": {"retrieval": "find", "sts": "alike"}}
    identity = resolve(decoder, prompts=prompts).identity
    assert json.loads(json.dumps(identity)) == identity
    assert [task for task, _ in identity["prompts"]["tasks"]] == ["retrieval", "sts"]
