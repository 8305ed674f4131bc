"""A cross-encoder trained on a real local session: what it learns, who loads it, and what it is to other stages."""

import re

import numpy as np
import pytest

from cluster.artifacts import ArtifactStore
from models.reranker import load_reranker
from models.reranking.rendering import make_rendering
from pipelines.schemas import rendered_texts
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
)


@pytest.fixture(scope="module")
def made(session, tmp_path_factory):
    """Return what a training makes and what is ranked with it, and the reranker that names its directory."""
    folder = tmp_path_factory.mktemp("cross")
    store = ArtifactStore(str(folder / "store"))
    steps = cross_training(folder, session, epochs=12, num_negatives=3, learning_rate=2e-3)
    reads = RerankerConfig(source=str(folder / "model"), **LIMITS, dtype="float32")
    judge = Reranker.of_step(reads, steps["trained"], session)
    over = candidates_step(steps["data"])
    steps["ranking"] = score_step(steps["data"], over, judge, "train", ScoreConfig(depth=8))
    artifacts = {name: compute(step, store, session, Silent()) for name, step in steps.items()}
    source = str(artifacts["trained"].directory("model"))
    named = Reranker.resolve(RerankerConfig(source=source, **LIMITS, dtype="float32"), session)
    return artifacts, named.locate({}).load()


def own_reranker(directory):
    return load_reranker(directory, make_rendering("cross_encoder", **LIMITS))


def pairs_of(artifacts):
    ranking, data = artifacts["ranking"].read("candidates"), artifacts["data"]
    queries, documents = (
        data.read("queries").column("text").to_pylist(),
        rendered_texts(data.read("documents")),
    )
    columns = (ranking.column(name).to_pylist() for name in ("query", "doc"))
    return [(queries[query], documents[doc]) for query, doc in zip(*columns, strict=True)]


def test_the_loss_falls_and_the_positives_rise(made):
    artifacts, _ = made
    losses = artifacts["trained"].read("training_steps").column("loss").to_numpy()
    assert losses[0] > 1.0 and losses[-4:].mean() < 0.3
    table = artifacts["ranking"].read("candidates")
    positive = table.column("is_positive").to_numpy(zero_copy_only=False)
    assert table.column("rank").to_numpy()[positive].mean() < 1.5
    before = own_reranker(artifacts["untrained"].directory("model")).score(pairs_of(artifacts))
    of_query = before.reshape(NUM_QUERIES, -1)
    ranks = (of_query > before[positive][:, None]).sum(1) + 1
    assert ranks.mean() > 2.5


def test_whoever_names_the_directory_scores_as_the_run_that_trained_it(made):
    artifacts, named = made
    scores = artifacts["ranking"].read("candidates").column("score").to_numpy()
    np.testing.assert_allclose(named.score(pairs_of(artifacts)), scores, atol=1e-5)


def test_the_card_scores_both_ways_as_the_pipeline_does(made):
    artifacts, named = made
    directory = artifacts["trained"].directory("model")
    scope = {}
    for block in re.findall(r"```python\n(.*?)```", (directory / "README.md").read_text(), re.DOTALL):
        exec(block.replace(HERE, str(directory)), scope)
    ours = named.score(scope["pairs"])
    np.testing.assert_allclose(scope["logits"].numpy(), ours, atol=1e-5)
    np.testing.assert_allclose(scope["scores"], 1 / (1 + np.exp(-ours)), atol=1e-5)
    assert str(directory.parent) not in (directory / "README.md").read_text()
