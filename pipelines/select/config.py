"""What a recipe may say of selecting negatives."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

DEFAULT_THRESHOLDS = {"absolute": 0.7, "margin_pos": 0.05, "perc_pos": 0.95}


class FilterConfig(BaseModel):
    """Which candidates count as false negatives and are dropped."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Literal["naive", "shifted", "absolute", "margin_pos", "perc_pos"] = "perc_pos"
    """naive: none. shifted: the first `shift` ranks. absolute: scores above `threshold`. margin_pos: scores not
    below the positive's minus `threshold`. perc_pos: scores not below `threshold` times the positive's."""
    threshold: float | None = Field(default=None, allow_inf_nan=False)
    """Null: the best value of NV-Retriever, table 1 (absolute .7, margin_pos .05, perc_pos .95)."""
    shift: int = Field(default=10, ge=0)
    """Ranks dropped by `shifted`."""

    @model_validator(mode="after")
    def _threshold_fits(self) -> "FilterConfig":
        if self.threshold is not None and self.method not in DEFAULT_THRESHOLDS:
            raise ValueError(f"method {self.method} takes no threshold (got {self.threshold})")
        return self

    @property
    def resolved_threshold(self) -> float:
        """The threshold in force; 0 for methods that have none."""
        return DEFAULT_THRESHOLDS.get(self.method, 0.0) if self.threshold is None else self.threshold


class SelectConfig(BaseModel):
    """From candidates to training groups."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    filter: FilterConfig = FilterConfig()
    """Which candidates are dropped."""
    positive_score: Literal["min", "max", "mean"] = "min"
    """Score of a query with several positives, to which the margin is applied."""
    num_negatives: int = Field(default=4, ge=1)
    """Negatives of a group."""
    selection: Literal["top", "sampled", "top1_sampled"] = "top"
    """top: the best survivors. sampled: drawn among the best `sample_from` by softmax(score / temperature).
    top1_sampled: the best survivor, the others drawn."""
    sample_from: int = Field(default=10, ge=1)
    """Survivors that sampling draws from."""
    sample_temperature: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """1 is nearly uniform on cosines; .05 prefers the hard ones."""
    starved: Literal["keep_fewer", "drop"] = "keep_fewer"
    """What becomes of a query with fewer survivors than `num_negatives`: fewer negatives, or no group."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Of sampling; every query draws from a generator of its own."""

    @property
    def resolved(self) -> "SelectConfig":
        """The same settings with the threshold in force written out: equal rules have equal fingerprints."""
        threshold = self.filter.resolved_threshold if self.filter.method in DEFAULT_THRESHOLDS else None
        return self.model_copy(update={"filter": self.filter.model_copy(update={"threshold": threshold})})

    @model_validator(mode="after")
    def _enough_to_sample(self) -> "SelectConfig":
        if self.selection != "top" and self.sample_from < self.num_negatives:
            raise ValueError(
                f"sample_from ({self.sample_from}) is less than num_negatives ({self.num_negatives})"
            )
        return self
