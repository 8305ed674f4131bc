"""Two stages on two data sets, trained on a real local session."""

import numpy as np
import pytest

from cluster.artifacts import ArtifactStore
from models.prompts import Prompts
from pipelines.model import Model
from pipelines.model_config import ModelConfig
from pipelines.train.config import TrainConfig
from pipelines.train.pipeline import plan_step, train_step
from pipelines.train.sources import Source
from pipelines.train.stages import SetSettings
from tests.tiny_sets import SIZE, set_step
from tests.tiny_training import Silent, compute, make_model


def test_each_stage_has_its_own_sets_negatives_and_rates(session, tmp_path):
    make_model(tmp_path / "model")
    train = TrainConfig(
        batch_size=8, dtype="float32", warmup_ratio=0.5, temperature=0.1,
        loss={"partitions": ["q-d", "q-q"]},
        batches={"order": "phased", "mixed_share": 0.25},
        stages=[
            {"data": ["main"], "epochs": 4, "learning_rate": 2e-3, "order": "mixed"},
            {"num_negatives": {"main": 3}, "learning_rate": 1e-3},
        ],
    )  # fmt: skip
    (data, groups), two = set_step("one", 0), set_step("two", 100, task="sts")
    also = Source("two", *two, Prompts(query="w1 "), {}, SetSettings(num_negatives=2))
    config = ModelConfig(
        source=str(tmp_path / "model"), max_query_tokens=16, max_document_tokens=48, dtype="float32"
    )
    model = Model.resolve(config, session)
    plan = plan_step(data, groups, model, train, also=[also])
    store = ArtifactStore(str(tmp_path / "store"))
    trained = compute(train_step(plan, model, train), store, session, Silent())
    planned = store.find(plan.stage, plan.label, plan.fingerprint)
    steps = trained.read("training_steps").to_pydict()
    first, second = planned.manifest.summary["stage_steps"]
    assert (first, len(steps["step"])) == (4 * SIZE // 8, first + second)
    assert steps["learning_rate"][:first] == pytest.approx(
        [2e-3 * (k + 1) / 6 for k in range(6)] + [2e-3 * (6 - k) / 6 for k in range(6)]
    )
    rises = round(second / 2)
    assert steps["learning_rate"][first : first + rises] == pytest.approx(
        [1e-3 * (k + 1) / rises for k in range(rises)]
    )
    assert np.isfinite(steps["loss"]).all()
    assert np.mean(steps["loss"][first - 3 : first]) < np.mean(steps["loss"][:3])
