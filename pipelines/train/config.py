"""What a recipe may say of training."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator

OWNED_KEYS = {
    "train_batch_size": "batch_size",
    "train_micro_batch_size_per_gpu": "batch_size",
    "gradient_accumulation_steps": "batch_size",
    "gradient_clipping": "max_gradient_norm",
    "optimizer": "learning_rate and weight_decay",
    "scheduler": "learning_rate and warmup_ratio",
    "bf16": "dtype",
    "fp16": "dtype",
    "torch_autocast": "dtype",
    "zero_allow_untested_optimizer": "zero_stage",
}
"""DeepSpeed keys that follow from a field of TrainConfig, and which."""

PLANNED = {"epochs", "batch_size", "num_negatives", "seed"}
"""Fields of TrainConfig that decide the order of the batches."""


class InfonceConfig(BaseModel):
    """Cross entropy of the positive among all documents of the global batch."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["infonce"] = "infonce"
    """Name in models.losses.LOSSES."""
    false_negative_margin: float | None = Field(default=None, allow_inf_nan=False)
    """Leave out a document whose cosine exceeds that of the query's positive by more than this. Null: keep
    all."""


class TrainConfig(BaseModel):
    """How an encoder is fine-tuned on mined groups."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = Field(default=1, ge=1)
    """Passes over the groups; a query with several positives contributes another one in each pass."""
    batch_size: int = Field(default=64, ge=1)
    """Queries of one global batch, over all workers."""
    num_negatives: int = Field(default=1, ge=0)
    """Mined negatives of a query in one step, taken in turn where more were mined. 0: in-batch negatives
    only."""
    learning_rate: float = Field(default=2e-5, gt=0, allow_inf_nan=False)
    """Peak of AdamW's learning rate; it falls linearly to 0 at the last step."""
    warmup_ratio: float = Field(default=0.1, ge=0, lt=1)
    """Share of all steps in which the learning rate rises linearly. 0: none."""
    weight_decay: float = Field(default=0.01, ge=0, allow_inf_nan=False)
    """Of AdamW, on weight matrices only. 0: none."""
    max_gradient_norm: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    """Gradients are scaled down to this global norm. 0: no clipping."""
    temperature: float = Field(default=0.05, gt=0, allow_inf_nan=False)
    """Divides the cosines in the loss; above 0."""
    loss: InfonceConfig = InfonceConfig()
    """Which loss, and its own settings."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Of the backbone. 0: off, and the result does not depend on the number of workers; above 0 each worker
    draws its own, seeded by seed, step and rank."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of matrix products; weights, gradients and optimizer state stay float32. Auto: bfloat16 where the model
    runs in it, else float32."""
    zero_stage: Literal[1, 2, 3] = 1
    """DeepSpeed ZeRO: workers share the optimizer state (1), gradients too (2), weights too (3)."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass: less memory, a third more time."""
    checkpoint_every_steps: int = Field(default=50, ge=1)
    """A killed run resumes from the last checkpoint; two are kept."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Of the order of the groups, the choice of positives and negatives, and dropout."""
    deepspeed: dict[str, JsonValue] = {}
    """Further DeepSpeed settings as its documentation names them. Empty: none."""

    @field_validator("deepspeed")
    @classmethod
    def _no_owned_key(cls, value: dict[str, JsonValue]) -> dict[str, JsonValue]:
        for key, field in OWNED_KEYS.items():
            if key in value:
                raise ValueError(f"deepspeed.{key} follows from train.{field}: set that instead")
        zero = value.get("zero_optimization", {})
        if not isinstance(zero, dict):
            raise ValueError("deepspeed.zero_optimization: expected a mapping")
        if "stage" in zero:
            raise ValueError(
                "deepspeed.zero_optimization.stage follows from train.zero_stage: set that instead"
            )
        return value
