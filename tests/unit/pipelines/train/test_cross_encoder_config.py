"""What a recipe may say of a cross-encoder: defaults that make sense, and settings that it would not feel refused."""

import pytest
from pydantic import ValidationError

from pipelines.train.config import TrainConfig


def test_the_listwise_softmax_is_the_default_and_the_name_of_a_loss_without_one():
    assert [term.name for term in TrainConfig(cross_encoder={}).losses] == ["listwise_softmax"]
    weighed = TrainConfig(cross_encoder={"loss": {"weight": 2.0}}).losses
    assert [(term.name, term.weight) for term in weighed] == [("listwise_softmax", 2.0)]
    assert TrainConfig(cross_encoder={}).kind == "cross_encoder" and TrainConfig().kind == "embedding"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"in_batch_negatives": True}, "in_batch_negatives .*a group is complete"),
        ({"temperature": 0.02}, "temperature .*logits"),
        ({"loss": {"false_negative_margin": 0.1}}, "loss .*write train.cross_encoder.loss"),
        ({"loss": {"name": "matryoshka", "dimensions": [8]}}, "loss .*write train.cross_encoder.loss"),
        ({"max_document_tokens": 64}, "write train.cross_encoder.max_document_tokens"),
        ({"few_shot": 2}, "few_shot"),
        ({"moe": {}}, "moe .*no library"),
        ({"dev": {}}, "dev .*embeddings"),
        ({"refresh_every_steps": 100}, "refresh_every_steps .*same negatives"),
        ({"lora": {"keep_adapter": True}}, "keep_adapter"),
        ({"batches": {"order": "homogeneous", "clusters": {"count": 4}}}, r"batches\.clusters"),
        ({"batches": {"across_tasks": True}}, r"batches\.across_tasks"),
        ({"stages": [{"in_batch_negatives": False}]}, r"stages\.0\.in_batch_negatives"),
        ({"cross_encoder": {"loss": {"name": "infonce"}}}, "listwise_softmax"),
    ],
)
def test_what_it_would_not_feel_is_refused(settings, words):
    with pytest.raises(ValidationError, match=words):
        TrainConfig(**{"cross_encoder": {}, **settings})


def test_what_it_feels_goes_with_it():
    TrainConfig(
        cross_encoder={"loss": [{}, {"name": "soft_labels", "weight": 0.5, "teacher": "judge"}]},
        gradcache_chunk=8, lora={"rank": 4}, dropout=0.1, zero_stage=3, batches={"near_duplicate_jaccard": 0.8},
        stages=[{"num_negatives": 2}, {"num_negatives": 4}],
    )  # fmt: skip
