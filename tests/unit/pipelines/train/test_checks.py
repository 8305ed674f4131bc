"""A plan without what the losses need is refused, with what to write instead."""

import pytest

from cluster.errors import UserError
from models.errors import ModelError
from pipelines.train.checks import check_dimensions, check_plan, teacher_scores
from pipelines.train.config import TrainConfig
from pipelines.train.plan import Row

ROWS = [
    Row(0, 10, (11, 12), (), ((1.5, None, 0.5), (0.5, None, 0.0), (-2.0, None, 1.0))),
    Row(1, 20, (), (), ((3.0, float("nan"), None),)),
]


def summary(**changes):
    base = {
        "steps": 22, "stage_steps": [12, 10], "teachers": ["words", "chance", "judge"],
        "teacher_scores": teacher_scores(ROWS), "negatives_that_answer": 3,
    }  # fmt: skip
    return {**base, **changes}


def test_scores_are_counted_and_bounded_for_each_teacher():
    assert teacher_scores(ROWS) == [
        {"pairs": 4, "lowest": -2.0, "highest": 3.0},
        {"pairs": 0, "lowest": None, "highest": None},
        {"pairs": 3, "lowest": 0.0, "highest": 1.0},
    ]
    assert teacher_scores([Row(0, 1, ())]) == []


@pytest.mark.parametrize(
    ("settings", "changes", "words"),
    [
        ({"warmup_steps": 10}, {}, r"below 10"),
        ({"refresh_every_steps": 22}, {}, r"refresh_every_steps below 22"),
        ({"loss": {"name": "soft_labels"}}, {}, r"add teacher: words"),
        ({"loss": [{}, {"name": "margin_mse", "teacher": "judges"}]}, {}, r"words, chance, judge"),
        ({"loss": {"name": "listwise_kl", "teacher": "chance"}}, {}, r"scored none"),
        ({"loss": {"name": "soft_labels"}}, {"teachers": [], "teacher_scores": []}, r"hold no scores"),
        ({"loss": {"name": "bixse", "teacher": "words"}}, {}, r"sigmoid_targets: true"),
        ({"loss": {"name": "clp"}}, {"negatives_that_answer": 0}, r"no negative answers"),
        (
            {"loss": {"name": "matryoshka", "dimensions": [8], "of": {"name": "clp"}}},
            {"negatives_that_answer": 0},
            r"no negative answers",
        ),
    ],
)  # fmt: skip
def test_refuses(settings, changes, words):
    with pytest.raises(UserError, match=words):
        check_plan(summary(**changes), TrainConfig(**settings))


@pytest.mark.parametrize(
    "settings",
    [
        {"warmup_steps": 9},
        {"refresh_every_steps": 21},
        {"loss": [{"name": "bixse", "teacher": "judge"}, {"name": "soft_labels", "teacher": "words"}]},
        {"loss": {"name": "bixse", "teacher": "words", "sigmoid_targets": True}},
        {"loss": {"name": "clp"}},
    ],
)
def test_takes(settings):
    check_plan(summary(), TrainConfig(**settings))


def test_the_one_teacher_of_unnamed_groups_needs_no_name():
    check_plan(
        summary(teachers=[], teacher_scores=teacher_scores(ROWS)[:1]),
        TrainConfig(loss={"name": "margin_mse"}),
    )


def test_refuses_prefixes_longer_than_an_embedding():
    config = TrainConfig(loss={"name": "matryoshka", "dimensions": [16, 64]})
    check_dimensions(config, 64)
    with pytest.raises(ModelError, match="write 32"):
        check_dimensions(config, 32)
