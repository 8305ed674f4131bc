"""What a recipe may say of the batches of a training, and of its stages."""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Order = Literal["mixed", "homogeneous", "phased"]
SetName = Annotated[str, Field(min_length=1)]


class ClustersConfig(BaseModel):
    """Batches of queries that are near each other: k-means of their embeddings, in each data set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    count: int = Field(ge=2)
    """Clusters of a data set; one should hold several batches. What fills none is batched across clusters."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Of the first centroids."""
    teacher: str | None = Field(default=None, min_length=1)
    """The dense teacher whose embeddings are clustered: a name under mine.teachers of every data set. Null: the only
    one there is."""


class BatchesConfig(BaseModel):
    """Which rows meet in a global batch."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    order: Order = "mixed"
    """mixed: every batch is drawn from all data sets and tasks. homogeneous: every batch, over all workers, is of one
    task of one data set. phased: homogeneous first, mixed at the end of each stage."""
    mixed_share: float = Field(default=0.15, gt=0, lt=1)
    """Share of a stage's rows, its last ones, that order `phased` mixes; 0.1 to 0.2 is usual."""
    alpha: float = Field(default=1.0, ge=0, le=2)
    """The task of a homogeneous batch is drawn by its remaining rows to this power. 1: in proportion to them, so that
    all tasks end together; 0: all tasks alike, so that small ones end early."""
    across_tasks: bool = False
    """Whether a mixed batch's documents of another task, or data set, are negatives of a row."""
    clusters: ClustersConfig | None = None
    """Draw homogeneous batches from clusters of similar queries, whose documents are harder negatives. Null: from all
    rows of the task."""
    near_duplicate_jaccard: float | None = Field(default=None, gt=0, le=1)
    """Texts that share this much of their word 5-grams (queries: of their words) count as one: they never meet in a
    batch, and are no negatives beside a positive. All texts of the groups are then held in memory. Null: equal
    texts only."""

    @property
    def libraries(self) -> tuple[str, ...]:
        """Distributions that the order depends on beside numpy."""
        clustering = ("faiss-cpu", "faiss-gpu") if self.clusters else ()
        return (*clustering, *(("regex",) if self.near_duplicate_jaccard else ()))


class DynamicNegativesConfig(BaseModel):
    """When the mined negatives of a query are easy by now and give way to the next ranks (arXiv 2408.15710)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ratio: float = Field(default=1.15, gt=1, allow_inf_nan=False)
    """They are easy where this times the mean of their cosines, as the training step has them, is below what that was
    when they were taken first."""
    max_score: float = Field(default=0.8, gt=0, le=1)
    """Where that mean is this or more they stay, whatever it was. 1: no bound."""


class StageConfig(BaseModel):
    """A stretch of the training with its own data and settings; what is null is as `train` says."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: tuple[SetName, ...] | None = Field(default=None, min_length=1)
    """Data sets that are trained on: `main` (the recipe's `data`) and names under `also`. Null: all of them."""
    epochs: int | None = Field(default=None, ge=1)
    """Passes over their groups."""
    batch_size: int | None = Field(default=None, ge=1)
    """Queries of one global batch."""
    num_negatives: Annotated[int, Field(ge=0)] | dict[SetName, Annotated[int, Field(ge=0)]] | None = None
    """Mined negatives of a query in one step, as one number or one a data set. Null, or a data set that is not
    named: what it says of itself under `also`, else train.num_negatives."""
    in_batch_negatives: bool | dict[SetName, bool] | None = None
    """Whether documents of other rows are negatives, likewise."""
    learning_rate: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Peak; every stage warms up and falls on its own."""
    order: Order | None = None
    """In place of train.batches.order."""


def check_dynamic_negatives(epochs: int, refresh_every_steps: int) -> None:
    """Refuse negatives that give way, but never within the training.

    Args:
        epochs: Of all stages.
        refresh_every_steps: As the recipe says.

    Raises:
        ValueError: They cannot, or would be forgotten.
    """
    if epochs < 3:
        raise ValueError(
            f"dynamic_negatives compares a query's second epoch with its first and changes the third, and epochs is "
            f"{epochs}: set epochs to 3 or more, or remove dynamic_negatives"
        )
    if refresh_every_steps:
        raise ValueError(
            f"dynamic_negatives takes the next ranks of what was mined once, and refresh_every_steps "
            f"({refresh_every_steps}) mines anew: write one of them"
        )


def check_batches(batches: BatchesConfig, orders: Sequence[Order]) -> None:
    """Refuse settings of batches that no stage makes.

    Args:
        batches: As the recipe says.
        orders: Of all stages.

    Raises:
        ValueError: A setting would do nothing.
    """
    used, default = set(orders), BatchesConfig()
    for key, needs in (
        ("mixed_share", {"phased"}),
        ("alpha", {"homogeneous", "phased"}),
        ("clusters", {"homogeneous", "phased"}),
        ("across_tasks", {"mixed", "phased"}),
    ):
        if getattr(batches, key) != getattr(default, key) and not used & needs:
            raise ValueError(
                f"batches.{key} does nothing where batches.order is {' or '.join(sorted(used))}: "
                f"write order: {sorted(needs)[-1]} or remove {key}"
            )
