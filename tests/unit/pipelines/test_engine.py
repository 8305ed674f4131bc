"""An engine is chosen in the recipe, asked for on the machine that runs it, and part of what results are keyed by."""

import numpy as np
import pytest
from pydantic import ValidationError

from cluster.definition import ClusterDefinition, load_definition
from cluster.errors import UserError
from cluster.session import Session
from models.errors import ModelError
from models.tokenization import Tokens
from models.vllm_engine import encoder as vllm_encoder
from models.vllm_engine import reranker as vllm_reranker
from models.vllm_engine.support import Engine
from pipelines import engine
from pipelines.encode.config import EncodeConfig
from pipelines.encode.embedder import Embedder
from pipelines.engine import resolve_engine
from pipelines.model import Model
from pipelines.model_config import ModelConfig
from pipelines.recipe import load_recipe
from pipelines.score.config import RerankerConfig
from pipelines.score.reranker import Reranker
from pipelines.score.scorer import Scorer
from tests.tiny_rerankers import make_cross_encoder
from tests.tiny_training import make_model

LIMITS = {"max_query_tokens": 16, "max_document_tokens": 32}
TOKENS = Tokens(np.arange(4, 9, dtype=np.int32), np.array([0, 2, 5]), np.zeros(2, np.int32))


@pytest.fixture
def installed(monkeypatch):
    monkeypatch.setattr(engine, "installed_version", lambda: "0.32.0")


@pytest.fixture
def directory(tmp_path):
    make_model(tmp_path / "model")
    return tmp_path / "model"


def model(directory, **settings):
    config = ModelConfig(source=str(directory), **LIMITS, **settings)
    return Model.resolve(config, Session(load_definition("local")))


def reranker(directory, **settings):
    config = RerankerConfig(source=str(directory), **LIMITS, **settings)
    return Reranker.resolve(config, Session(load_definition("local")))


def session_of(gpus):
    local = load_definition("local").model_dump()
    group = {**local["workers"][0], "gpus": 2}
    roles = {**local["roles"], "encode": {"group": "local", "cpus": 0.5, "gpus": gpus}}
    return Session(ClusterDefinition.model_validate({**local, "workers": [group], "roles": roles}))


def test_torch_is_the_default_and_leaves_no_trace(directory):
    assert "engine" not in model(directory).identity
    assert model(directory).locate({}).engine is None


def test_the_engine_and_its_version_are_in_the_key_and_its_memory_is_not(directory, installed, monkeypatch):
    found = model(directory, engine="vllm")
    assert found.identity == {**model(directory).identity, "engine": "vllm 0.32.0"}
    assert model(directory, engine="vllm", gpu_memory_fraction=0.5).identity == found.identity
    monkeypatch.setattr(engine, "installed_version", lambda: "0.32.1")
    assert model(directory, engine="vllm").identity != found.identity


def test_scores_are_kept_apart_too(tmp_path, installed):
    directory = make_cross_encoder(tmp_path / "judge")
    plain, engined = reranker(directory), reranker(directory, engine="vllm")
    assert plain.identity | {"engine": "vllm 0.32.0"} == engined.identity
    assert plain.fingerprint != engined.fingerprint and "engine" not in plain.identity


def test_what_it_cannot_compute_is_refused_when_the_model_is_resolved(directory, installed, tmp_path):
    with pytest.raises(ModelError, match="pooling latent_attention"):
        model(directory, engine="vllm", pooling="latent_attention")
    judge = make_cross_encoder(tmp_path / "judge")
    config = (judge / "config.json").read_text().replace('"model_type": "bert"', '"model_type": "deberta"')
    (judge / "config.json").write_text(config)
    with pytest.raises(ModelError, match="model_type deberta"):
        reranker(judge, engine="vllm")


def test_it_is_asked_for_where_it_will_run(directory):
    with pytest.raises(ModelError, match=r"stope\[vllm\]"):
        model(directory, engine="vllm")


@pytest.mark.parametrize(("gpus", "share"), [(1, 0.8), (0.5, 0.4), (0.25, 0.2)])
def test_actors_on_one_gpu_share_its_memory(installed, gpus, share):
    assert resolve_engine("vllm", 0.8, "encode", session_of(gpus)) == Engine("0.32.0", pytest.approx(share))


def test_actors_without_gpus_of_their_own_share_the_machine(installed):
    session = Session(load_definition("local"))
    found = resolve_engine("vllm", 0.8, "encode", session)
    assert found.memory_fraction == pytest.approx(0.8 / session.pool("encode")[1])


def test_several_gpus_are_refused(installed):
    with pytest.raises(UserError, match=r"write gpus: 1 there and 2 times as many actors"):
        resolve_engine("vllm", 0.9, "encode", session_of(2))
    assert resolve_engine("torch", 0.9, "encode", session_of(2)) is None


@pytest.mark.parametrize(
    "settings", [{"engine": "tensorrt"}, {"gpu_memory_fraction": 0}, {"gpu_memory_fraction": 1.1}]
)
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ValidationError):
        ModelConfig(source="x", **settings)
    with pytest.raises(ValidationError):
        RerankerConfig(source="x", **settings)


def test_experts_made_by_training_are_refused_in_the_recipe():
    settings = ["model.engine=vllm", "train.moe={layers: all, num_experts: 2}"]
    with pytest.raises(UserError, match="engine: torch"):
        load_recipe("squad_minilm_cpu", settings)


def test_the_actor_embeds_with_what_was_chosen(directory, installed, monkeypatch):
    made = []

    class Stand:
        def __init__(self, *args, **options):
            made.append((args, options))

        def embed(self, tokens):
            return np.full((len(tokens), 2), 0.5, np.float32)

    monkeypatch.setattr(vllm_encoder, "VllmEncoder", Stand)
    located = model(directory, engine="vllm", dtype="float32").locate({})
    row = {"table": "documents", "index": 0, "ids": TOKENS.ids.tobytes(), "offsets": TOKENS.offsets.tobytes()}
    out = Embedder(located, EncodeConfig(token_budget=256))(
        {**row, "pool_starts": TOKENS.pool_starts.tobytes()}
    )
    assert np.frombuffer(out["embeddings"], np.float16).tolist() == [0.5] * 4
    ((args, options),) = made
    assert args == (directory, located.engine)
    assert (options["token_budget"], options["max_tokens"], options["dtype"]) == (256, 32, "float32")


def test_the_actor_scores_with_what_was_chosen(tmp_path, installed, monkeypatch):
    class Stand:
        def __init__(self, *args, **options):
            pass

        def score_tokens(self, tokens):
            return np.arange(len(tokens), dtype=np.float32)

    monkeypatch.setattr(vllm_reranker, "VllmReranker", Stand)
    located = reranker(make_cross_encoder(tmp_path / "judge"), engine="vllm").locate({})
    row = {
        "row": 0, "deltas": [], "portion": {}, "names": np.zeros((2, 2), np.int64).tobytes(),
        "ids": TOKENS.ids.tobytes(), "offsets": TOKENS.offsets.tobytes(),
        "pool_starts": TOKENS.pool_starts.tobytes(),
    }  # fmt: skip
    assert np.frombuffer(Scorer(located)(row)["scores"], np.float32).tolist() == [0, 1]
