"""What a recipe may say of experts, and what it becomes."""

import pytest
from pydantic import ValidationError

from models.moe.router import ROUTERS
from models.moe.upcycle import PLACES, Upcycling
from pipelines.train.config import TrainConfig
from pipelines.train.moe_config import MoeConfig


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("layers", []), ("layers", "some"), ("layers", ["a"]), ("where", "attention"), ("num_experts", 1),
        ("experts_per_token", 0), ("experts_per_token", 3), ("router", "topk"), ("load_balancing_loss", -1),
        ("load_balancing_loss", float("nan")), ("only_train", "all"), ("num_expert", 2), ("engine", "megablocks"),
    ],
)  # fmt: skip
def test_refuses(key, value):
    with pytest.raises(ValidationError, match=key):
        MoeConfig.model_validate({key: value})


def test_too_many_experts_a_token_names_both():
    with pytest.raises(ValidationError, match=r"experts_per_token \(5\) exceeds num_experts \(4\)"):
        MoeConfig(num_experts=4, experts_per_token=5)


def test_experts_are_shared_out_whole():
    with pytest.raises(ValidationError, match=r"engine deepspeed(.|\n)*set where: ffn or engine: grouped"):
        MoeConfig(engine="deepspeed", where="up")


@pytest.mark.parametrize(
    ("moe", "other", "words"),
    [
        ({"engine": "deepspeed"}, {"zero_stage": 3}, "set zero_stage: 2 or moe.engine: grouped"),
        ({"engine": "deepspeed"}, {"lora": {}}, "lora adapts experts that lie in one stack"),
        ({"only_train": "router"}, {"lora": {}}, "moe.only_train and lora"),
        ({"only_train": "router"}, {"only_train": ["*"]}, "moe.only_train and only_train"),
        ({}, {"lora": {"keep_adapter": True}}, "fits no model on disk"),
    ],
)
def test_refuses_a_training_that_does_not_go_with_the_experts(moe, other, words):
    TrainConfig.model_validate({"moe": {"where": "ffn", **moe}})
    with pytest.raises(ValidationError, match=words):
        TrainConfig.model_validate({"moe": {"where": "ffn", **moe}, **other})


def test_becomes_what_changes_the_model():
    assert MoeConfig().upcycling == Upcycling()
    config = MoeConfig.model_validate(
        {"layers": [0, -1], "where": "ffn", "num_experts": 4, "experts_per_token": 2, "router": "switch"}
    )
    assert config.upcycling == Upcycling((0, -1), "ffn", 4, 2, "switch")
    assert MoeConfig(layers="intermediate").upcycling.layers == "intermediate"


def test_knows_every_router_and_place():
    for name in ROUTERS:
        assert MoeConfig(router=name).upcycling.router == name
    for name in PLACES:
        assert MoeConfig(where=name).upcycling.where == name
