"""A checkpoint of another training is refused, and what differs is named."""

import pytest

from cluster.errors import UserError
from pipelines.train.owner import Owner, check_owner

MINE = Owner("a" * 20, {"learning_rate": 1e-3, "dropout": 0.0, "seed": 1})


def test_its_own_checkpoint_is_taken_whatever_is_not_felt():
    check_owner(Owner("a" * 20, {**MINE.settings, "tensorboard": True}), MINE, "somewhere")


def test_settings_that_differ_are_named_with_both_values():
    theirs = Owner("b" * 20, {"learning_rate": 2e-3, "seed": 1, "lora": None})
    with pytest.raises(UserError) as caught:
        check_owner(theirs, MINE, "scratch/checkpoint_1")
    text = str(caught.value)
    for words in (
        "another recipe", "scratch/checkpoint_1", "train.learning_rate 0.002", "train.learning_rate 0.001",
        "train.dropout absent", "train.dropout 0.0", "train.lora None", "train.lora absent", "remove the folder",
    ):  # fmt: skip
        assert words in text, words
    assert "train.seed" not in text


def test_equal_settings_of_another_model_or_plan_are_told_by_the_fingerprint():
    with pytest.raises(UserError, match=r"another model, plan(.|\n)*bbbb(.|\n)*aaaa"):
        check_owner(Owner("b" * 20, MINE.settings), MINE, "here")
