"""From a recipe to the work of its steps."""

from dataclasses import replace
from math import ceil

import numpy as np
import pytest

from cluster.artifacts import ArtifactStore
from pipelines.cost.corpus import read_corpus
from pipelines.cost.recipe_steps import chunked, plan_steps
from pipelines.cost.texts import Texts
from pipelines.cost.works import EncodeWork, SearchWork, TrainWork
from pipelines.recipe import load_recipe


@pytest.fixture
def planned(recipe_file, tmp_path):
    recipe = load_recipe(str(recipe_file))
    corpus = read_corpus(recipe.data, ArtifactStore(str(tmp_path / "store")))
    return plan_steps(recipe, corpus, lambda role, dtype: "float32", num_ranks=2)


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
    corpus = replace(read_corpus(recipe.data, ArtifactStore(str(tmp_path / "store"))), num_queries={})
    steps = plan_steps(recipe, corpus, lambda role, dtype: "float32", num_ranks=2)
    assert [step.stage for step in steps] == ["ingest", "encode"]


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
