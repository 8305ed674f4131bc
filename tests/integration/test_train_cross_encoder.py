"""A cross-encoder trained on a real local session: what it learns, who loads it, and what it is to other stages."""

import re

import numpy as np
import pytest

from cluster.artifacts import ArtifactStore
from models.reranker import load_reranker
from models.reranking.rendering import make_rendering
from pipelines.score.config import RerankerConfig, ScoreConfig
from pipelines.score.pipeline import score_step
from pipelines.score.reranker import Reranker
from pipelines.train.card import HERE
from tests.tiny_training import (
    LIMITS,
    NUM_QUERIES,
    Silent,
    candidates_step,
    compute,
    cross_training,
    local_session,
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return the steps of a training and of what ranks with it, the artifacts by name, and the store's folder."""
    folder = tmp_path_factory.mktemp("cross")
    store = ArtifactStore(str(folder / "store"))
    with local_session() as session:
        steps = cross_training(folder, session, epochs=12, num_negatives=3, learning_rate=2e-3)
        over = candidates_step(steps["data"])
        reads = RerankerConfig(source=str(folder / "model"), **LIMITS, dtype="float32")
        for name in ("untrained", "trained"):
            judge = Reranker.of_step(reads, steps[name], session)
            steps[f"{name} ranking"] = score_step(steps["data"], over, judge, "train", ScoreConfig(depth=8))
        made = {name: compute(step, store, session, Silent()) for name, step in steps.items()}
        named = Reranker.resolve(
            RerankerConfig(source=str(made["trained"].directory("model")), **LIMITS, dtype="float32"), session
        )
        step = score_step(steps["data"], over, named, "train", ScoreConfig(depth=8))
        made["named ranking"] = compute(step, store, session, Silent())
    return made


def positions(ranking):
    table = ranking.read("candidates")
    return table.column("rank").to_numpy()[table.column("is_positive").to_numpy(zero_copy_only=False)]


def test_the_loss_falls_below_that_of_chance_and_the_positives_rise(trained):
    losses = trained["trained"].read("training_steps").column("loss").to_numpy()
    assert losses[0] > 1.0 and losses[-4:].mean() < 0.3
    before, after = (positions(trained[f"{name} ranking"]) for name in ("untrained", "trained"))
    assert len(before) == len(after) == NUM_QUERIES
    assert after.mean() < 1.5 < before.mean()


def test_a_recipe_that_names_the_directory_scores_as_the_recipe_that_trained_it(trained):
    mine, theirs = (trained[f"{name} ranking"].read("candidates") for name in ("trained", "named"))
    assert mine.equals(theirs)


def test_the_card_scores_both_ways_as_the_pipeline_does(trained):
    directory = trained["trained"].directory("model")
    blocks = re.findall(r"```python\n(.*?)```", (directory / "README.md").read_text(), re.DOTALL)
    scope = {}
    for block in blocks:
        exec(block.replace(HERE, str(directory)), scope)
    ours = load_reranker(directory, make_rendering("cross_encoder", **LIMITS)).score(scope["pairs"])
    np.testing.assert_allclose(scope["logits"].numpy(), ours, atol=1e-5)
    np.testing.assert_allclose(scope["scores"], 1 / (1 + np.exp(-ours)), atol=1e-5)
    assert str(directory.parent) not in (directory / "README.md").read_text()
