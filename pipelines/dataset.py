"""What a recipe may say of a further data set, which is mined and trained on beside the main one."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from pipelines.ingest.config import JudgedConfig
from pipelines.mine.config import MineConfig


class DatasetConfig(BaseModel):
    """A further data set: mined by itself, trained on with the others, neither evaluated nor indexed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: Annotated[JudgedConfig, Field(discriminator="kind")]
    """Where its documents, queries and labels come from."""
    mine: MineConfig = MineConfig()
    """How its hard negatives are found."""
    query_prompt: str | None = None
    """The instruction before its queries, as mining and training see them. Null: as `model` says."""
    num_negatives: int | None = Field(default=None, ge=0)
    """Mined negatives of a query in one step. Null: train.num_negatives."""
    in_batch_negatives: bool | None = None
    """Whether documents of other rows are negatives. Null: train.in_batch_negatives."""
    weight: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """Multiplies the chance that the next homogeneous batch is of this set: above 1, it comes earlier. Every group is
    used once an epoch all the same."""
