"""What a trained model is proven with: texts at their own limits, and of whichever data sets were trained on."""

import json

import pytest

from models.checkpoint import describe_model
from models.prompts import Prompts
from models.reranking.directory import verify_cross_encoder, write_untrained
from pipelines.located_model import LocatedModel
from pipelines.train.config import TrainConfig
from pipelines.train.saving import checked_pairs, save_embedding_model
from tests.planned_training import planned_task
from tests.tiny_rerankers import make_cross_encoder
from tests.tiny_sets import SIZE, set_step, text
from tests.tiny_training import WORDS, make_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saving")
    make_model(folder / "model")
    return folder


def task_of(folder, sets, stages=(), prompts=Prompts(), limits=(16, 48)):  # noqa: B008 (frozen)
    """Return a training on some data sets: name -> the steps ingest and select."""
    model = LocatedModel(str(folder / "model"), "mean", prompts, *limits, "float32", "cpu")
    config = TrainConfig(num_negatives=2, batch_size=8, stages=stages)
    return planned_task(folder / "store", sets, model, config)


@pytest.mark.parametrize(
    "prompts",
    [
        Prompts(query=f"{' '.join(WORDS[:30])} : "),
        Prompts(tasks=(("sts", "w1 w2 "),), suffix=" w3 w4"),
    ],
    ids=["few-shot", "suffix"],
)
def test_queries_may_be_longer_than_documents(folder, tmp_path, prompts):
    queries = {n: text(500 + n, 50) for n in range(SIZE)}
    task = task_of(folder, {"main": set_step("main", 0, queries=queries)}, (), prompts, (40, 24))
    save_embedding_model(task.model.encoder(), task, tmp_path)
    assert json.loads((tmp_path / "sentence_bert_config.json").read_text())["max_seq_length"] == 40
    assert describe_model(tmp_path).max_tokens == 40
    assert ("end of a query" in (tmp_path / "README.md").read_text()) is bool(prompts.suffix)


def test_an_embedding_model_is_proven_where_further_sets_alone_are_trained_on(folder, tmp_path):
    sets = {"main": set_step("main", 0), "other": set_step("other", 1000)}
    task = task_of(folder, sets, [{"data": ["other"]}])
    save_embedding_model(task.model.encoder(), task, tmp_path)
    assert (tmp_path / "README.md").is_file()


def test_pairs_are_of_the_sets_that_are_trained_on(folder, tmp_path):
    # A query that the main data set has too goes by its ordinal there.
    shared = {0: text(500, 4)}
    sets = {"main": set_step("main", 0), "other": set_step("other", 1000, queries=shared)}
    pairs = checked_pairs(task_of(folder, sets, [{"data": ["other"]}]))
    own = {(shared.get(n, text(1500 + n, 4)), text(1000 + n, 12)) for n in range(SIZE)}
    assert len(pairs) == 2 * SIZE and set(pairs[:SIZE]) == own
    make_cross_encoder(tmp_path / "cross")
    write_untrained(tmp_path / "cross", tmp_path / "model", 0)
    assert verify_cross_encoder(tmp_path / "model", pairs) < 1e-5


def test_pairs_are_of_the_main_set_first(folder):
    sets = {"main": set_step("main", 0), "other": set_step("other", 1000)}
    pairs = checked_pairs(task_of(folder, sets))
    own = {(text(500 + n, 4), text(n, 12)) for n in range(SIZE)}
    assert set(pairs[:SIZE]) == own and len(pairs) == 2 * 2 * SIZE
