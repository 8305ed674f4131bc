"""Bad settings are refused before anything starts, with what to write instead."""

import pytest
from pydantic import ValidationError

from pipelines.train.config import OWNED_KEYS, TrainConfig
from pipelines.train.engine import deepspeed_config


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("temperature", 0), ("zero_stage", 4), ("zero_stage", 0), ("batch_size", 0), ("learning_rate", 0),
        ("learning_rate", float("nan")), ("num_negatives", -1), ("dtype", "float16"), ("warmup_ratio", 1.0),
        ("loss", {"name": "nothing"}), ("checkpoint_every_steps", 0), ("learning_rat", 1e-5),
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
