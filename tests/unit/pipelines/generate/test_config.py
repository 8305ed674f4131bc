"""What of generated queries cannot be, and where it is said."""

import pytest
from pydantic import ValidationError

from pipelines.generate.config import GenerateConfig
from pipelines.generate.pipeline import usable
from pipelines.mine.config import MineConfig
from pipelines.recipe import Recipe

WRITER = {"source": "writer"}
CLP = {"loss": {"name": "clp"}}
MODEL = {"source": "model"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"template": "a query:"}, r"holds no \{document\}"),
        (
            {"examples": 5, "max_document_tokens": 400},
            r"token_budget \(2048\) does not hold one prompt \(about 2592",
        ),
        ({"keep_rank": 0}, "greater than or equal to 1"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        GenerateConfig(source="writer", token_budget=2048, **settings)


@pytest.mark.parametrize(
    ("teachers", "named", "judge"),
    [
        ({"own": {"kind": "dense"}}, None, "own"),
        ({"words": {"kind": "bm25"}, "own": {"kind": "dense"}}, None, "own"),
        ({"own": {"kind": "dense"}, "other": {"kind": "dense", "model": MODEL}}, "other", "other"),
    ],
)
def test_the_round_trip_is_judged_by_a_dense_teacher(teachers, named, judge):
    select = {"teachers": [next(iter(teachers))]}
    mine = MineConfig.model_validate(
        {"teachers": teachers, "select": select, "generate": {**WRITER, "teacher": named}}
    )
    assert mine.round_trip == judge


@pytest.mark.parametrize(
    ("teachers", "named", "message"),
    [
        ({"words": {"kind": "bm25"}}, None, r"whose embeddings are meant\? Dense teachers are none"),
        ({"own": {"kind": "dense"}, "other": {"kind": "dense", "model": MODEL}}, None, "are own, other"),
        (
            {"words": {"kind": "bm25"}, "own": {"kind": "dense"}},
            "words",
            r"\(words\) is no dense teacher \(own\)",
        ),
    ],
)
def test_no_judge_of_the_round_trip_is_refused(teachers, named, message):
    select = {"teachers": [next(iter(teachers))]}
    with pytest.raises(ValidationError, match=message):
        MineConfig.model_validate(
            {"teachers": teachers, "select": select, "generate": {**WRITER, "teacher": named}}
        )


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({}, "mine.generate: loss clp alone reads its queries"),
        (
            {"loss": [{"name": "infonce", "guide": "model"}, {"name": "clp"}]},
            "does not go with train.loss.guide",
        ),
    ],
)
def test_queries_that_nothing_reads_are_refused(train, message):
    recipe = {
        "name": "x",
        "data": {"kind": "beir", "name": "x", "path": "x"},
        "model": MODEL,
        "mine": {"generate": WRITER},
    }
    Recipe.model_validate({**recipe, "train": CLP})
    with pytest.raises(ValidationError, match=message):
        Recipe.model_validate({**recipe, "train": train})


def test_drafts_that_say_nothing_are_left_out():
    drafts = ["what is it?", "", " ", "the the the the the", "the cat the dog", "a"]
    assert usable(drafts) == ([0, 4, 5], {"empty": 2, "repetitive": 1})
