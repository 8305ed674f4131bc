"""What a recipe may say of a cross-encoder that is trained in place of the embedding model."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from pipelines.train.loss_config import LossTerm, MarginMseConfig, SoftLabelsConfig, named

REFUSED = {
    "in_batch_negatives": "a group is complete in itself: no document of another row is scored",
    "temperature": "it divides cosines, and the scores are logits",
    "loss": "it compares embeddings: write train.cross_encoder.loss",
    "max_document_tokens": "write train.cross_encoder.max_document_tokens",
    "few_shot": "no example stands before the query of a pair",
    "moe": "no library would load a classifier with experts",
    "dev": "it measures embeddings: evaluate measures what is reranked",
    "dynamic_negatives": "its ratio compares cosines, and the scores are logits",
    "refresh_every_steps": "what is trained does not search, so mining anew would find the same negatives",
}
"""Fields of TrainConfig that say nothing of a cross-encoder, and why."""
OF_OTHER_ROWS = ("clusters", "across_tasks")
"""Fields of TrainConfig.batches that make documents of other rows harder negatives."""


class ListwiseSoftmaxConfig(LossTerm):
    """Cross entropy of the positive among the documents of its group."""

    name: Literal["listwise_softmax"] = "listwise_softmax"
    """Name in models.losses.LOSSES."""


class BinaryCrossEntropyConfig(LossTerm):
    """Every pair by itself: relevant or not."""

    name: Literal["binary_cross_entropy"]
    """Name in models.losses.LOSSES."""
    positive_weight: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """Multiplies the term of the positive; the number of negatives balances both sides."""


PairLosses = Annotated[
    tuple[
        Annotated[
            ListwiseSoftmaxConfig | BinaryCrossEntropyConfig | SoftLabelsConfig | MarginMseConfig,
            Field(discriminator="name"),
        ],
        ...,
    ],
    BeforeValidator(named("listwise_softmax")),
    Field(min_length=1),
]
"""One loss over the scores of a group, or a list of losses that are added up; without a name: listwise_softmax."""


class CrossEncoderConfig(BaseModel):
    """A reranker: query and document are read together and have one score."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str | None = None
    """What it begins with: an encoder or decoder, which is given a head drawn by train.seed, or a cross-encoder of one
    label; a directory, a hub id or `package:<module>`. With train.lora or train.only_train a new head is trained where
    they name it (`classifier`, `score`), as lora's `*` does. Null: the recipe's model."""
    max_query_tokens: int = Field(default=64, ge=1)
    """Queries are cut here, special tokens not counted; a teacher that reads as much scores as it was trained."""
    max_document_tokens: int = Field(default=256, ge=1)
    """Documents are cut here, or where the model's positions end."""
    loss: PairLosses = (ListwiseSoftmaxConfig(),)
    """listwise_softmax or binary_cross_entropy on the labels; soft_labels (a KL divergence but for a constant) or
    margin_mse on a teacher's scores in the groups; or a list, each times its `weight`."""


def refusals(train: Any, fields: Any) -> Iterator[str]:
    """Yield what a TrainConfig says that a cross-encoder would not feel, and why not.

    Args:
        train: The TrainConfig.
        fields: Its model_fields.
    """
    for name, reason in REFUSED.items():
        if getattr(train, name) != fields[name].default:
            yield f"{name} does not go with cross_encoder: {reason}"
    for name in OF_OTHER_ROWS:
        if getattr(train.batches, name):
            yield f"batches.{name} does not go with cross_encoder: {REFUSED['in_batch_negatives']}"
    for place, stage in enumerate(train.stages):
        if stage.in_batch_negatives is not None:
            yield (
                f"stages.{place}.in_batch_negatives does not go with cross_encoder: "
                f"{REFUSED['in_batch_negatives']}"
            )
    if train.lora and train.lora.keep_adapter:
        yield (
            "lora.keep_adapter does not go with cross_encoder: the head that it was trained beside is in no model "
            "on disk"
        )
