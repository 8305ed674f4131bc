"""From a recipe to the work of its steps."""

import json
import shutil
from collections import Counter
from dataclasses import replace
from math import ceil

import numpy as np
import pytest

from cluster.artifacts import ArtifactStore
from models.checkpoint import resolve_model
from models.projection import Projection
from models.sentence_modules import ProjectionSettings
from pipelines.cost.corpus import read_corpus
from pipelines.cost.recipe_steps import plan_steps
from pipelines.cost.sized import chunked
from pipelines.cost.texts import Texts
from pipelines.cost.train_work import TrainWork
from pipelines.cost.works import (
    EncodeWork,
    IndexWork,
    IngestWork,
    LexicalWork,
    PlanWork,
    ScoreWork,
    SearchWork,
    SelectWork,
)
from pipelines.recipe import load_recipe
from pipelines.run import plan
from tests.tiny_training import local_session


def corpora_of(recipe, tmp_path):
    store = ArtifactStore(str(tmp_path / "store"))
    return {"main": read_corpus(recipe.data, store)} | {
        name: read_corpus(one.data, store) for name, one in recipe.also.items()
    }


def plan_of(recipe_file, tmp_path, *settings):
    recipe = load_recipe(str(recipe_file), settings)
    return plan_steps(recipe, corpora_of(recipe, tmp_path), lambda role, dtype: "float32", num_ranks=2)


@pytest.fixture
def planned(recipe_file, tmp_path):
    return plan_of(recipe_file, tmp_path)


def works(steps, kind):
    return [step.work for step in steps if isinstance(step.work, kind)]


def test_the_base_model_embeds_once_before_and_once_after_training(planned):
    before, after = works(planned, EncodeWork)
    assert [texts.count for texts in before.texts] == [40, 14]
    assert [texts.count for texts in after.texts] == [40, 4]
    assert before.dimension == 32


def test_every_search_asks_the_queries_of_its_split(planned):
    assert [work.num_queries for work in works(planned, SearchWork)] == [10, 4, 4]
    assert {work.num_documents for work in works(planned, SearchWork)} == {40}


def test_training_passes_every_row_of_every_epoch(planned):
    (train,) = works(planned, TrainWork)
    assert train.num_steps == 2 * ceil(10 / 4)
    assert [texts.count for texts in train.texts] == [20, 40]
    assert train.num_ranks == 2


def test_a_corpus_without_queries_is_embedded_and_nothing_else(recipe_file, tmp_path):
    recipe = load_recipe(str(recipe_file))
    corpus = replace(corpora_of(recipe, tmp_path)["main"], num_queries={})
    steps = plan_steps(recipe, {"main": corpus}, lambda role, dtype: "float32", num_ranks=2)
    assert [step.stage for step in steps] == ["ingest", "encode"]


@pytest.fixture
def second(tmp_path):
    """A further data set under `also`: 30 pairs of their own texts, searched by words and by the model."""
    lines = ["query,document,split"]
    lines += [f"what lies in vein {i},gold and ore {i},{'train' if i < 24 else 'test'}" for i in range(30)]
    (tmp_path / "second.csv").write_text("\n".join(lines) + "\n")
    return (
        f"also.second.data={{kind: pairs, name: second, path: {tmp_path}/second.csv, columns: {{split: split}}}}",
        "also.second.mine.teachers={words: {kind: bm25}, dense: {kind: dense}}",
        "also.second.mine.select={teachers: [words, dense], ensemble: intra_sample, num_negatives: 3}",
    )


def by_set(steps, kind):
    return [(step.dataset, step.work) for step in steps if isinstance(step.work, kind)]


def test_a_further_set_is_read_embedded_searched_and_mined_by_itself(recipe_file, tmp_path, second):
    steps = plan_of(recipe_file, tmp_path, *second)
    assert [(name, [t.count for t in work.texts]) for name, work in by_set(steps, IngestWork)] == [
        ("main", [40, 14]), ("second", [30, 30])
    ]  # fmt: skip
    assert [(name, [t.count for t in work.texts]) for name, work in by_set(steps, EncodeWork)] == [
        ("main", [40, 14]), ("second", [30, 24]), ("main", [40, 4])
    ]  # fmt: skip
    searched = [(name, work.num_queries, work.num_documents) for name, work in by_set(steps, SearchWork)]
    assert searched == [("main", 10, 40), ("second", 24, 30), ("main", 4, 40), ("main", 4, 40)]
    assert next((name, work.num_queries) for name, work in by_set(steps, LexicalWork)) == ("second", 24)
    # What starves, then the groups: two teachers of 30 candidates each.
    assert [(name, work.num_candidates, work.num_negatives) for name, work in by_set(steps, SelectWork)] == [
        ("main", 400, 0), ("main", 400, 4), ("second", 1440, 0), ("second", 1440, 3)
    ]  # fmt: skip
    assert [(step.name, step.dataset) for step in steps if step.stage in ("plan", "train")] == [
        ("order", "main+second"), ("trained", "main+second")
    ]  # fmt: skip
    before = plan_of(recipe_file, tmp_path)
    alone = {step.name: step.work for step in before if step.stage not in ("plan", "train")}
    assert alone.items() <= {step.name: step.work for step in steps}.items()


def test_the_same_names_as_in_a_run_each_once(recipe_file, tmp_path, second):
    settings = (*second, "rounds=3", "mine.search.max_retrieval_depth=10", "mine.search.retrieval_depth=10")
    planned = plan_of(recipe_file, tmp_path, *settings)
    with local_session() as session:
        steps = plan(load_recipe(str(recipe_file), settings), session)
    names = [step.name for step in planned]
    assert len(set(names)) == len(names) and set(names) <= set(steps)
    keys = [steps[name].key for name in names]
    assert len(set(keys)) == len(keys), "of steps with one key one is computed"
    # How many are starved nobody knows yet, and the audit is arithmetic on what is there.
    left = {key: name for name, step in steps.items() if (key := step.key) not in keys}
    assert {name.rpartition(".")[2] for name in left.values()} <= {"audit", "words_deeper", "dense_deeper"}


def test_rounds_repeat_what_depends_on_the_trained_model_alone(recipe_file, tmp_path, second):
    stages = Counter(step.stage for step in plan_of(recipe_file, tmp_path, *second, "rounds=3"))
    once = Counter(step.stage for step in plan_of(recipe_file, tmp_path, *second))
    more = {stage: stages[stage] - count for stage, count in once.items() if stages[stage] > count}
    # Two sets: each round embeds, searches and selects (twice) both again, but not the words of the second one.
    assert more == {"encode": 4, "search": 4, "select": 8, "plan": 2, "train": 2}


def test_every_stage_brings_its_own_rows_and_negatives(recipe_file, tmp_path, second):
    stages = (
        "train.stages=[{data: [main], epochs: 3, num_negatives: 2}, {batch_size: 6, num_negatives: {second: 3}}]",
        "train.batches.order=homogeneous",
    )
    (train,) = works(plan_of(recipe_file, tmp_path, *second, *stages), TrainWork)
    assert [texts.count for texts in train.texts] == [30, 90, 20, 40, 48, 192]
    assert train.num_steps == 3 * ceil(10 / 4) + 2 * (ceil(10 / 6) + ceil(24 / 6))
    # Batches are of one set: four rows of the main one in the first stage, six of either in the second.
    first, second_one = train.texts[:2], train.texts[4:]
    kinds = [(4, 12, *first), (6, 12, *first), (6, 24, *second_one)]
    largest = max(kinds, key=lambda kind: kind[0] * kind[2].mean_tokens + kind[1] * kind[3].mean_tokens)
    assert [texts.count for texts in train.largest_batch] == list(largest[:2])
    assert train.largest_batch[1].mean_tokens == largest[3].mean_tokens
    (order,) = works(plan_of(recipe_file, tmp_path, *second, *stages), PlanWork)
    assert order.num_rows == 3 * 10 + 2 * (10 + 24)
    assert order.num_documents == 90 + 40 + 192


def test_a_plan_holds_what_may_take_the_place_of_easy_negatives(recipe_file, tmp_path):
    settings = ("mine.select.num_negatives=7", "train.num_negatives=1", "train.epochs=3")
    (train,), (order,) = (
        works(plan_of(recipe_file, tmp_path, *settings, "train.dynamic_negatives={}"), kind)
        for kind in (TrainWork, PlanWork)
    )
    assert [texts.count for texts in train.texts] == [30, 60] and order.num_documents == 30 * 8


def test_mixed_and_phased_batches_are_counted_as_they_are_formed(recipe_file, tmp_path, second):
    def steps(*settings):
        (train,) = works(plan_of(recipe_file, tmp_path, *second, *settings), TrainWork)
        return train.num_steps

    assert steps() == 2 * ceil(34 / 4)
    # Half of the 68 rows, the second epoch, are mixed; the first is of one set a batch.
    phased = ("train.batches.order=phased", "train.batches.mixed_share=0.5")
    assert steps(*phased) == ceil(10 / 4) + ceil(24 / 4) + ceil(34 / 4)


def test_an_index_holds_what_the_recipe_says(recipe_file, tmp_path):
    def index_of(*settings):
        (work,) = works(plan_of(recipe_file, tmp_path, *settings), IndexWork)
        return work.held_bytes, work.mapped_bytes, work.recall_flops

    asked = 2.0 * 4 * 40 * 32
    assert index_of() == (4 * 32, 0, 0)
    assert index_of("index.kind=binary") == (4, 2 * 32, asked)
    assert index_of("index.kind=binary", "index.dimension=12") == (2, 2 * 32, asked)
    assert index_of("index.kind=int8", "index.rescore_with=codes") == (32, 0, asked)
    assert index_of("index.dimension=8", "index.recall_sample=3") == (4 * 8, 2 * 32, asked * 3 / 4)


def test_training_cuts_documents_where_it_is_told_to(recipe_file, tmp_path):
    whole, cut = (
        works(plan_of(recipe_file, tmp_path, *settings), TrainWork)[0]
        for settings in ((), ("train.max_document_tokens=8",))
    )
    assert cut.texts[1].mean_tokens < whole.texts[1].mean_tokens and cut.texts[1].mean_tokens <= 8


def test_chunks_hold_every_token_and_the_overlaps():
    lengths = np.array([10, 32, 33, 100])
    tokens, overlap = 32, 8
    cut = []
    for length in lengths.tolist():
        start = 0
        while True:
            cut.append(min(tokens, length - start))
            if start + tokens >= length:
                break
            start += tokens - overlap
    chunks = chunked(Texts(400, 0, 0, 1000), lengths, tokens, overlap)
    assert chunks.count == 100 * len(cut)
    assert chunks.mean_tokens == pytest.approx(np.mean(cut))
    assert chunks.mean_square_tokens == pytest.approx(np.mean(np.square(cut)))


def test_a_cross_encoder_passes_pairs_and_ranks_again_before_and_after(recipe_file, tmp_path, planned):
    limits = "train.cross_encoder={max_query_tokens: 16, max_document_tokens: 32}"
    steps = plan_of(recipe_file, tmp_path, limits, "evaluate.rerank_depth=7")
    (train,), (before,) = works(steps, TrainWork), works(planned, TrainWork)
    (pairs,), (queries, documents) = train.texts, before.texts
    # Two epochs of ten queries, each with its positive and a negative.
    assert pairs.count == documents.count == 2 * 10 * 2
    assert pairs.mean_tokens == pytest.approx(queries.mean_tokens + documents.mean_tokens)
    assert [work.pairs.count for work in works(steps, ScoreWork)] == [round(4 * (7 + 24 / 14))] * 2
    names = [step.name for step in steps]
    assert names[-3:] == ["tuned_ranking", "bm25_ranking", "metrics"] and "untrained_ranking" in names
    assert "index" not in names and len(works(steps, EncodeWork)) == 1


def test_a_projection_behind_the_pooler_says_how_long_embeddings_are(recipe_file, tmp_path):
    source = resolve_model(load_recipe(str(recipe_file), ()).model.source)
    directory = shutil.copytree(source, tmp_path / "projected")
    Projection(ProjectionSettings(32, 96)).save(directory / "2_Dense")
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"},
    ]
    (directory / "modules.json").write_text(json.dumps(modules))
    (directory / "1_Pooling").mkdir(exist_ok=True)
    (directory / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    works = [each.work for each in plan_of(recipe_file, tmp_path, f"model.source={directory}")]
    assert {work.dimension for work in works if isinstance(work, SearchWork)} == {96}
