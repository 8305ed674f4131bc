"""What a recipe may say of low-rank updates."""

from pydantic import BaseModel, ConfigDict, Field


class LoraConfig(BaseModel):
    """Low-rank updates of linear layers; all other weights stay as they are."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rank: int = Field(default=16, ge=1)
    """Of the update; 8 to 64 is usual."""
    alpha: float = Field(default=32.0, gt=0, allow_inf_nan=False)
    """The update is scaled by alpha / rank."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Of the update's input. 0: off; drawn as train.dropout is."""
    targets: tuple[str, ...] = Field(default=("*",), min_length=1)
    """Names of linear layers, in full or from a dot on (`query`, `attention.*`); `*`: all of them."""
    keep_adapter: bool = False
    """Whether the update is written on its own too, in `adapter/`, with the weights of a pooler latent_attention, which
    is trained beside it; the trained model always has it merged in."""
