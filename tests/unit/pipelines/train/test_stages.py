"""The stages of a recipe: what a stage leaves out comes from its data set, else from `train`."""

import pytest
from pydantic import ValidationError

from cluster.errors import UserError
from pipelines.train.config import TrainConfig
from pipelines.train.stages import SetRule, SetSettings, Stage, resolve_stages

SETS = {"main": SetSettings(), "pairs": SetSettings(2, False, 3.0), "labels": SetSettings()}


def test_without_stages_there_is_one_of_all_sets():
    config = TrainConfig(epochs=3, batch_size=5, num_negatives=4)
    assert resolve_stages(config, {"main": SetSettings()}) == (Stage(3, 5, {"main": SetRule(4)}),)
    (stage,) = resolve_stages(config, SETS)
    assert stage.sets == {
        "main": SetRule(4),
        "pairs": SetRule(2, False, 3.0, "also.pairs.num_negatives"),
        "labels": SetRule(4),
    }


def test_a_stage_goes_before_the_set_and_the_set_before_train():
    config = TrainConfig(
        num_negatives=4, in_batch_negatives=True, epochs=2, learning_rate=1e-5,
        batches={"order": "phased", "mixed_share": 0.2, "alpha": 0.5, "across_tasks": True},
        stages=[
            {"data": ["main", "pairs"], "num_negatives": 7, "order": "mixed"},
            {"num_negatives": {"labels": 1}, "in_batch_negatives": {"pairs": True}, "epochs": 1, "batch_size": 3,
             "learning_rate": 2e-5},
            {"data": ["labels"], "order": "homogeneous", "in_batch_negatives": False},
        ],
    )  # fmt: skip
    first, second, third = resolve_stages(config, SETS)
    assert first == Stage(
        2, 64, {"main": SetRule(7, True, 1.0, "train.stages.0.num_negatives"),
                "pairs": SetRule(7, False, 3.0, "train.stages.0.num_negatives")}, 1.0, 0.5, True,
    )  # fmt: skip
    assert second == Stage(
        1, 3, {"main": SetRule(4, True), "pairs": SetRule(2, True, 3.0, "also.pairs.num_negatives"),
               "labels": SetRule(1, True, 1.0, "train.stages.1.num_negatives")}, 0.2, 0.5, True,
    )  # fmt: skip
    assert (third.mixed_share, third.sets["labels"].in_batch_negatives) == (0.0, False)
    assert config.peaks == (1e-5, 2e-5, 1e-5) and TrainConfig(learning_rate=3e-5).peaks == (3e-5,)


def test_the_order_does_not_depend_on_rates_and_on_who_says_a_number():
    said = resolve_stages(TrainConfig(stages=[{"num_negatives": 2, "learning_rate": 1e-4}]), SETS)
    plain = resolve_stages(TrainConfig(num_negatives=2), SETS)
    assert said != plain and [stage.identity for stage in said] == [stage.identity for stage in plain]
    other = resolve_stages(TrainConfig(num_negatives=2, in_batch_negatives=True), SETS)
    assert other[0].identity != plain[0].identity


@pytest.mark.parametrize(
    ("stage", "words"),
    [
        ({"data": ["mein"]}, r"train\.stages\.1\.data.*\n.*mein\n.*main, pairs, labels\n.*write main"),
        ({"data": ["zz"]}, r"add also\.zz"),
        ({"data": ["main"], "num_negatives": {"pair": 1}}, r"train\.stages\.1\.num_negatives"),
        ({"in_batch_negatives": {"pair": True}}, r"write pairs"),
    ],
)
def test_an_unknown_data_set_names_the_nearest(stage, words):
    with pytest.raises(UserError, match=words):
        resolve_stages(TrainConfig(stages=[{}, stage]), SETS)


CLP, ALONE = {"name": "clp"}, {"in_batch_negatives": False}


@pytest.mark.parametrize("loss", [CLP, ALONE, None])
@pytest.mark.parametrize(
    ("settings", "own", "key"),
    [
        ({"num_negatives": 0}, None, r"train\.num_negatives"),
        ({"stages": [{}, {"num_negatives": 0}]}, None, r"train\.stages\.1\.num_negatives"),
        ({"stages": [{}, {"num_negatives": {"main": 0}}]}, None, r"train\.stages\.1\.num_negatives"),
        ({}, 0, r"also\.pairs\.num_negatives"),
    ],
)
def test_a_loss_of_own_negatives_needs_some_in_every_stage(settings, own, key, loss):
    losses = {"loss": loss} if loss else {"cross_encoder": {}}
    sets = {"main": SetSettings(), "pairs": SetSettings(own)}
    with pytest.raises(UserError, match=rf"{key}: loss \w+ compares a query's own negatives(.|\n)*1 or more"):
        resolve_stages(TrainConfig(**settings, **losses), sets)
    resolve_stages(TrainConfig(**settings), sets)


@pytest.mark.parametrize("said", ["train", "set", "stage"])
def test_queries_need_negatives_of_their_own_or_those_of_others(said):
    alone = {"num_negatives": 0, "in_batch_negatives": False}
    config = TrainConfig(
        num_negatives=0,
        **{"train": {"in_batch_negatives": False}, "stage": {"stages": [alone]}, "set": {}}[said],
    )
    own = SetSettings(0, False) if said == "set" else SetSettings()
    with pytest.raises(UserError, match="in_batch_negatives is false, and the queries of main have none"):
        resolve_stages(config, {"main": own})


def test_a_number_that_no_stage_takes_is_no_mistake():
    stages = [{"num_negatives": 2}, {"data": ["pairs"]}]
    config = TrainConfig(num_negatives=0, stages=stages, loss=CLP)
    first, second = resolve_stages(config, {"main": SetSettings(), "pairs": SetSettings(3)})
    assert (first.sets["main"].num_negatives, second.sets["pairs"].num_negatives) == (2, 3)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"batches": {"mixed_share": 0.3}}, r"batches\.mixed_share does nothing.*order: phased"),
        ({"batches": {"alpha": 0.5}}, r"batches\.alpha does nothing"),
        ({"batches": {"clusters": {"count": 4}}}, r"batches\.clusters does nothing"),
        ({"batches": {"order": "homogeneous", "across_tasks": True}}, r"batches\.across_tasks does nothing"),
        ({"batches": {"order": "homogenous"}}, "homogeneous"),
        ({"batches": {"mixed_share": 1.0}}, "mixed_share"),
        ({"batches": {"near_duplicate_jaccard": 0}}, "near_duplicate_jaccard"),
        ({"batches": {"clusters": {"count": 1}}}, "count"),
        ({"stages": [{"data": []}]}, "data"),
        ({"stages": [{"learning_rate": 0}]}, "learning_rate"),
        ({"stages": [{"num_negatives": -1}]}, "num_negatives"),
    ],
)
def test_settings_that_do_nothing_or_make_no_sense_are_refused(settings, words):
    with pytest.raises(ValidationError, match=words):
        TrainConfig(**settings)


def test_a_setting_that_one_stage_uses_is_taken():
    TrainConfig(batches={"alpha": 0.5}, stages=[{}, {"order": "homogeneous"}])
    TrainConfig(batches={"order": "homogeneous", "across_tasks": True}, stages=[{}, {"order": "mixed"}])
