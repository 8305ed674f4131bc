"""Bad settings are refused before anything starts, with what to write instead."""

import pytest
from pydantic import ValidationError

from cluster.errors import UserError
from pipelines.train.config import OWNED_KEYS, TrainConfig
from pipelines.train.deepspeed_settings import check_deepspeed, deepspeed_config


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("temperature", 0), ("zero_stage", 4), ("zero_stage", 0), ("batch_size", 0), ("learning_rate", 0),
        ("learning_rate", float("nan")), ("num_negatives", -1), ("dtype", "float16"), ("warmup_ratio", 1.0),
        ("loss", {"name": "nothing"}), ("loss", []), ("loss", {"temperature": 1.0}), ("schedule", "step"),
        ("loss", {"name": "soft_labels", "teacher_temperature": 0}), ("loss", {"weight": 0}), ("gradcache_chunk", 0),
        ("loss", {"name": "matryoshka", "dimensions": [8], "weights": [1, 2]}), ("lora", {"rank": 0}),
        ("loss", {"name": "matryoshka", "dimensions": [8], "of": {"name": "matryoshka", "dimensions": [4]}}),
        ("loss", {"in_batch_negatives": False, "partitions": ["q-q"]}), ("only_train", []), ("offload", "weights"),
        ("checkpoint_every_steps", 0), ("checkpoint_every_minutes", 0), ("max_loss_ratio", 1.0), ("max_loss_steps", 0),
        ("dev", {"metric": "ndcg"}), ("dev", {"metric": "map@10"}), ("dev", {"patience": 0}), ("dev", {"keep": "all"}),
        ("dev", {"every_steps": 0}), ("dev", {"split": "validation"}), ("wandb", ""), ("mlflow", ""),
        ("learning_rat", 1e-5), ("few_shot", -1), ("few_shot", None), ("max_failures", -1),
        ("loss", {"guide_margin": 0.1}), ("loss", {"name": "matryoshka", "dimensions": [8, 4, 8]}),
    ],
)  # fmt: skip
def test_refuses(key, value):
    with pytest.raises(ValidationError, match=key):
        TrainConfig.model_validate({key: value})


@pytest.mark.parametrize("key", OWNED_KEYS)
def test_refuses_deepspeed_keys_that_a_field_decides(key):
    with pytest.raises(ValidationError, match=rf"deepspeed\.{key} follows from train\."):
        TrainConfig(deepspeed={key: 1})
    with pytest.raises(ValidationError, match="zero_stage"):
        TrainConfig(deepspeed={"zero_optimization": {"stage": 2}})


def test_a_loss_is_one_or_a_list_and_infonce_without_a_name():
    one = TrainConfig(loss={"false_negative_margin": 0.1})
    assert [term.name for term in one.loss] == ["infonce"] and one.loss[0].false_negative_margin == 0.1
    several = TrainConfig(loss=[{}, {"name": "clp", "weight": 0.5, "max_answers": 2}])
    assert [(term.name, term.weight) for term in several.loss] == [("infonce", 1.0), ("clp", 0.5)]
    assert several.max_answers == 2 and one.max_answers == 0
    assert TrainConfig.model_validate(several.model_dump()) == several
    around = TrainConfig(loss={"name": "matryoshka", "dimensions": [8, 4], "of": [{}, {"name": "clp"}]})
    assert around.max_answers == 4
    assert TrainConfig.model_validate_json(around.model_dump_json()) == around


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"warmup_steps": 5, "warmup_ratio": 0.2}, "warmup_steps"),
        ({"lora": {}, "only_train": ["*"]}, "lora.targets"),
        ({"few_shot": 5, "batch_size": 5}, "set batch_size to 6 or more, or few_shot to 4"),
        ({"few_shot": 1, "stages": [{}, {"batch_size": 1}]}, "set batch_size to 2 or more, or few_shot to 0"),
        ({"max_loss_steps": 3}, "remove max_loss_steps"),
        ({"dynamic_negatives": {}}, "set epochs to 3 or more"),
        ({"dynamic_negatives": {}, "stages": [{}, {"epochs": 1}]}, "epochs is 2"),
        ({"dynamic_negatives": {}, "epochs": 3, "refresh_every_steps": 9}, "write one of them"),
        ({"dynamic_negatives": {"ratio": 1.0}, "epochs": 3}, "ratio"),
        ({"dynamic_negatives": {"max_score": 0}, "epochs": 3}, "max_score"),
        (
            {
                "offload": "optimizer",
                "deepspeed": {"zero_optimization": {"offload_optimizer": {"device": "nvme"}}},
            },
            "follows from train.offload",
        ),
        (
            {"zero_stage": 2, "deepspeed": {"zero_optimization": {"offload_param": {"device": "cpu"}}}},
            "set zero_stage: 3",
        ),
    ],
)
def test_refuses_what_does_not_go_together(settings, words):
    with pytest.raises(ValidationError, match=words):
        TrainConfig(**settings)


def test_an_empty_mapping_measures_with_the_defaults():
    dev = TrainConfig(dev={}).dev
    assert (dev.split, dev.queries, dev.documents, dev.every_steps) == ("dev", 200, 2000, 50)
    assert (dev.metric, dev.patience, dev.keep) == ("ndcg@10", None, "best")
    assert TrainConfig().dev is None


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"gradient_clip": 1}, "no such setting.*got: gradient_clip.*gradient_clipping"),
        ({"zero_optimization": {"reduce_bucket": 5}}, "reduce_bucket: Extra inputs"),
        ({"zero_optimization": {"reduce_bucket_size": "many"}}, "reduce_bucket_size: .*valid integer"),
        ({"amp": {"enabled": True}}, "Apex"),
        ({"wall_clock_breakdown": "yes"}, "TypeError"),
    ],
)
def test_what_deepspeed_does_not_know_is_refused_before_anything_starts(settings, words):
    with pytest.raises(UserError, match=f"(?s)train.deepspeed.*{words}"):
        check_deepspeed(TrainConfig(deepspeed=settings))


def test_what_deepspeed_knows_is_taken():
    known = {
        "zero_optimization": {"offload_optimizer": {"device": "cpu"}, "reduce_bucket_size": 7},
        "wall_clock_breakdown": True,
        "activation_checkpointing": {"number_checkpoints": 2},
        "flops_profiler": {"enabled": False},
    }
    check_deepspeed(TrainConfig(deepspeed=known, zero_stage=2))
    made = deepspeed_config(TrainConfig(deepspeed=known, zero_stage=2))
    assert made["zero_force_ds_cpu_optimizer"] is False, "its own optimizer would be compiled first"
    own = deepspeed_config(TrainConfig(deepspeed={**known, "zero_force_ds_cpu_optimizer": True}))
    assert own["zero_force_ds_cpu_optimizer"] is True, "who says so gets it"


def test_hands_other_deepspeed_keys_through():
    config = TrainConfig(
        zero_stage=3,
        max_gradient_norm=0.5,
        deepspeed={"zero_optimization": {"reduce_bucket_size": 7}, "wall_clock_breakdown": True},
    )
    made = deepspeed_config(config)
    assert made["zero_optimization"] == {"overlap_comm": False, "reduce_bucket_size": 7, "stage": 3}
    assert made["wall_clock_breakdown"] is True
    assert made["gradient_clipping"] == 0.5
