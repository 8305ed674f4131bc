"""What surrounds the training: steps keyed by what matters, a torn note of Ray Train's forgotten."""

from importlib.util import find_spec

import pytest
import torch

from cluster.artifacts import ArtifactStore
from cluster.definition import load_definition
from cluster.errors import UserError
from cluster.session import Session
from models.errors import ModelError
from models.prompts import Prompts
from pipelines.model import Model
from pipelines.model_config import ModelConfig
from pipelines.steps import Step
from pipelines.train.config import UNFELT, TrainConfig
from pipelines.train.pipeline import plan_step, train_step, training_dtype
from pipelines.train.ranks import RUN_NAME, forget_torn_snapshot, num_workers, scale, told_of_memory
from tests.tiny_training import make_model


def steps(dtype="bfloat16", **settings):
    data = Step("ingest", "tiny", 1, {}, (), {}, print)
    groups = Step("select", "tiny", 1, {}, (), {"data": data}, print)
    model = Model(ModelConfig(source="tiny"), "digest", "mean", Prompts(), dtype, "cpu")
    config = TrainConfig(**settings)
    plan = plan_step(data, groups, model, config)
    return plan, train_step(plan, model, config)


def test_a_setting_that_leaves_the_order_alone_keeps_the_plan():
    plan, trained = steps()
    for settings in ({"learning_rate": 1e-4}, {"temperature": 0.02}, {"zero_stage": 3}):
        other_plan, other = steps(**settings)
        assert other_plan.fingerprint == plan.fingerprint and other.fingerprint != trained.fingerprint
    for settings in ({"seed": 1}, {"epochs": 2}, {"batch_size": 32}, {"num_negatives": 2}):
        assert steps(**settings)[0].fingerprint != plan.fingerprint
    bounds = ({"epochs": 3, "dynamic_negatives": {"ratio": ratio}} for ratio in (1.15, 1.2))
    (first, one), (second, other) = (steps(**settings) for settings in bounds)
    assert first.fingerprint == second.fingerprint != steps(epochs=3)[0].fingerprint
    assert one.fingerprint != other.fingerprint


def test_answers_and_a_guide_are_part_of_the_plan():
    plan, _ = steps()
    assert steps(loss={"name": "soft_labels"})[0].fingerprint == plan.fingerprint
    assert steps(loss={"name": "clp"})[0].fingerprint != plan.fingerprint
    with pytest.raises(UserError, match=r"train\.loss\.guide"):
        steps(loss={"guide": "words"})
    model = Model(ModelConfig(source="tiny"), "digest", "mean", Prompts(), "float32", "cpu")
    words = Step("encode", "words", 1, {}, (), {}, print)
    config = TrainConfig(loss={"guide": "words"})
    guided = plan_step(plan.inputs["data"], plan.inputs["groups"], model, config, {"words": words})
    assert guided.inputs["guide"] is words and guided.fingerprint != plan.fingerprint


def pooled_plan(pooling, prompts):
    data = Step("ingest", "tiny", 1, {}, (), {}, print)
    groups = Step("select", "tiny", 1, {}, (), {"data": data}, print)
    model = Model(ModelConfig(source="tiny"), "digest", pooling, prompts, "bfloat16", "cpu")
    return plan_step(data, groups, model, TrainConfig()).fingerprint


def test_a_plan_whose_prompts_were_checked_for_one_pooler_is_none_for_another():
    apart = Prompts(query="find: ")
    assert len({pooled_plan(pooling, apart) for pooling in ("mean", "cls", "last")}) == 3


def test_adapters_hang_on_the_version_of_peft():
    assert "peft" in steps(lora={})[1].libraries and "peft" not in steps()[1].libraries


def test_how_a_training_is_kept_and_watched_changes_nothing():
    changes = {
        "checkpoint_every_steps": 7, "checkpoint_every_minutes": 0.5, "max_loss_ratio": 3.0, "max_loss_steps": 2,
        "max_failures": 9,
        "tensorboard": True, "wandb": "mine", "mlflow": "http://localhost",
    }  # fmt: skip
    assert changes.keys() == UNFELT
    assert all(TrainConfig.model_fields[key].default != value for key, value in changes.items())
    absent = {key for key in ("wandb", "mlflow") if find_spec(key) is None}
    kept = {key: value for key, value in changes.items() if key not in absent}
    assert steps(**kept)[1].fingerprint == steps()[1].fingerprint
    for key in absent:
        with pytest.raises(UserError, match=f"pip install {key}"):
            steps(**{key: changes[key]})


@pytest.mark.parametrize(
    ("model_dtype", "wanted", "expected"),
    [
        ("bfloat16", "auto", "bfloat16"), ("float16", "auto", "float32"), ("float32", "auto", "float32"),
        ("bfloat16", "float32", "float32"), ("float32", "bfloat16", "bfloat16"),
    ],
)  # fmt: skip
def test_training_dtype(model_dtype, wanted, expected):
    model = Model(ModelConfig(source="tiny"), "digest", "mean", Prompts(), model_dtype, "cpu")
    assert training_dtype(model, TrainConfig(dtype=wanted)) == expected


@pytest.mark.parametrize(("content", "kept"), [(b'{"ray_version": "2"}', True), (b'{"ray_ver', False)])
def test_a_torn_snapshot_is_forgotten_with_its_checkpoints(tmp_path, content, kept):
    writer = ArtifactStore(str(tmp_path)).open("train", "tiny", "0" * 20)
    folder = f"{writer.key}/scratch/{RUN_NAME}"
    assert not forget_torn_snapshot(writer)
    writer.storage.write(f"{folder}/checkpoint_manager_snapshot.json", content)
    writer.storage.write(f"{folder}/checkpoint_1/state", b"weights")
    assert forget_torn_snapshot(writer) is not kept
    assert bool(writer.storage.list(folder)) is kept


def test_a_device_without_memory_is_told_what_helps():
    with (
        pytest.raises(ModelError, match=r"(?s)CUDA out of memory\n.*train\.gradcache_chunk"),
        told_of_memory(),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total ...")
    with pytest.raises(RuntimeError, match="other"), told_of_memory():
        raise RuntimeError("other")


@pytest.mark.parametrize(
    ("name", "workers", "expected", "most"),
    [
        ("spot", [4, 16], (4, 16), 16), ("spot", [0, 16], (1, 16), 16), ("spot", [3, 3], 3, 3), ("h100x8", 8, 8, 8),
        ("spot", None, 1, 1), ("local", 1, 1, 1), ("local", [1, 1], 1, 1),
    ],
)  # fmt: skip
def test_workers_are_a_number_or_bounds_where_the_cluster_grows(name, workers, expected, most):
    definition = load_definition(name)
    bounds = tuple(workers) if isinstance(workers, list) else workers
    role = definition.role("train").model_copy(update={"workers": bounds})
    roles = definition.roles.model_copy(update={"train": role})
    session = Session(definition.model_copy(update={"roles": roles}))
    assert scale(session) == expected and num_workers(session) == most


def test_measuring_and_dropout_are_part_of_the_training_and_the_workers_are_not():
    plan, trained = steps()
    for settings in ({"dev": {}}, {"dropout": 0.1}, {"lora": {"dropout": 0.1}}):
        other_plan, other = steps(**settings)
        assert other_plan.fingerprint == plan.fingerprint and other.fingerprint != trained.fingerprint
        assert "workers" not in str(other.identity)


@pytest.mark.parametrize("key", ["max_query_tokens", "max_document_tokens"])
def test_sequences_longer_than_the_model_are_refused_before_anything_runs(tmp_path, key):
    make_model(tmp_path)
    session = Session(load_definition("local"))
    Model.resolve(ModelConfig(source=str(tmp_path), **{"max_document_tokens": 64, key: 64}), session)
    longer = ModelConfig(source=str(tmp_path), **{"max_document_tokens": 64, key: 65})
    with pytest.raises(UserError, match=rf"{key} exceeds(.|\n)*65(.|\n)*at most 64(.|\n)*set {key}: 64"):
        Model.resolve(longer, session)
