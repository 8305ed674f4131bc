"""What a recipe may say of encoding."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class EncodeConfig(BaseModel):
    """How texts are embedded; which model embeds them is said where the model is named."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    token_budget: int = Field(default=4096, ge=64)
    """Tokens of one forward pass, padding counted. 4,096 suits a processor, 65,536 a GPU."""
    precision: Literal["float16", "float32"] = "float16"
    """Of the stored embeddings."""
