"""A reranker is keyed by its bytes and its template; what cannot work is refused before anything runs."""

import shutil

import numpy as np
import pytest
from pydantic import ValidationError
from safetensors.numpy import load_file, save_file

from cluster.definition import load_definition
from cluster.errors import UserError
from cluster.session import Session
from models.errors import ModelError
from models.tokenization import Tokens
from pipelines.score.config import RerankerConfig, ScoreConfig
from pipelines.score.pipeline import score_step
from pipelines.score.reranker import Reranker
from pipelines.score.scorer import Scorer
from tests.tiny_rerankers import make_cross_encoder, make_decoder
from tests.tiny_scoring import data_step, over_step


@pytest.fixture(scope="module")
def cross_encoder(tmp_path_factory):
    return make_cross_encoder(tmp_path_factory.mktemp("cross") / "judge")


def resolve(directory, **settings):
    settings = {"max_query_tokens": 8, "max_document_tokens": 40, **settings}
    return Reranker.resolve(
        RerankerConfig(source=str(directory), **settings), Session(load_definition("local"))
    )


def step(reranker, **settings):
    data = data_step()
    return score_step(data, over_step(data), reranker, "train", ScoreConfig(**settings))


def change(directory):
    path = directory / "model.safetensors"
    weights = load_file(path)
    name = sorted(weights)[0]
    save_file({**weights, name: weights[name] + np.float32(1e-3)}, path, metadata={"format": "pt"})


def test_what_a_score_depends_on_is_in_the_key(cross_encoder, tmp_path):
    directory = shutil.copytree(cross_encoder, tmp_path / "judge")
    same = resolve(cross_encoder, dtype="float32")
    assert resolve(directory, dtype="float32").fingerprint == same.fingerprint
    # Batches and what becomes of a score later are the store's business no more than the name is.
    assert resolve(directory, dtype="float32", token_budget=9000, activation="sigmoid").fingerprint == (
        same.fingerprint
    )
    changed = {
        resolve(directory, **settings).fingerprint
        for settings in ({"dtype": "bfloat16"}, {"dtype": "float32", "max_document_tokens": 41})
    }
    change(directory)
    changed |= {resolve(directory, dtype="float32").fingerprint, same.fingerprint}
    assert len(changed) == 4


def test_the_step_follows_depth_teacher_and_activation(cross_encoder):
    told = [
        step(resolve(cross_encoder, dtype="float32"), depth=5),
        step(resolve(cross_encoder, dtype="float32"), depth=6),
        step(resolve(cross_encoder, dtype="bfloat16"), depth=5),
        step(resolve(cross_encoder, dtype="float32", activation="sigmoid"), depth=5),
    ]
    assert len({each.fingerprint for each in told}) == 4
    assert told[0].key.startswith("score/tiny-judge-train-")


def test_limits_beyond_the_positions_are_refused(cross_encoder):
    with pytest.raises(UserError, match="max_document_tokens: 56"):
        resolve(cross_encoder, max_document_tokens=100)
    with pytest.raises(UserError, match="max_query_tokens: 16"):
        resolve(cross_encoder, max_query_tokens=64)


def test_another_kind_of_model_is_refused_at_plan_time(cross_encoder, tmp_path):
    with pytest.raises(ModelError, match="write method: cross_encoder"):
        resolve(cross_encoder, method="yes_no")
    with pytest.raises(ModelError, match="write method: yes_no"):
        resolve(make_decoder(tmp_path / "decoder"), method="cross_encoder")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "yes_no", "activation": "sigmoid"}, "activation"),
        ({"token_budget": 64}, r"token_budget \(64\) does not hold one pair"),
        ({"method": "yes_no", "token_budget": 400}, "does not hold one pair"),
        ({"template": "{query}{document}"}, "has no template"),
        ({"method": "yes_no", "template": "{document}"}, "does not hold its texts"),
        ({"instruction": "Judge"}, "nothing takes the instruction"),
        ({"no_such_key": 1}, "no_such_key"),
    ],
)
def test_settings_that_contradict_are_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        RerankerConfig(source="x", **settings)


def test_a_model_that_changes_after_the_plan_is_refused(cross_encoder, tmp_path):
    directory = shutil.copytree(cross_encoder, tmp_path / "judge")
    located = resolve(directory, dtype="float32").locate({})
    assert located.load().score([("w1", "w2")]).shape == (1,)
    change(directory)
    with pytest.raises(UserError, match="changed while the run was under way"):
        located.load()


def test_a_row_names_the_pair_whose_score_is_not_finite(cross_encoder, tmp_path):
    directory = shutil.copytree(cross_encoder, tmp_path / "judge")
    path = directory / "model.safetensors"
    weights = load_file(path)
    words = next(name for name in weights if name.endswith("word_embeddings.weight"))
    weights[words][9] = np.nan  # w5
    save_file(weights, path, metadata={"format": "pt"})
    located = resolve(directory, dtype="float32").locate({})
    tokens: Tokens = located.tokenizer().tokenize([("w1", "w2"), ("w1", "w5 w6"), ("w2", "w2")])
    row = {
        "row": 0, "deltas": [], "portion": {}, "names": np.array([[4, 70], [5, 71], [6, 72]]).tobytes(),
        "ids": tokens.ids.tobytes(), "offsets": tokens.offsets.tobytes(),
        "pool_starts": tokens.pool_starts.tobytes(),
    }  # fmt: skip
    with pytest.raises(ModelError, match=r"nan for query 5 and document 71 \(ordinals\) \(1 of 3 pairs\)"):
        Scorer(located)(row)
