"""What a recipe may say of the index."""

from typing import Literal

from pydantic import BaseModel, ConfigDict


class IndexConfig(BaseModel):
    """The index that a release serves."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["flat"] = "flat"
    """flat: exact inner product."""
