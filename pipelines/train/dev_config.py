"""What a recipe may say of measuring retrieval while it trains."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from pipelines.schemas import Metric, Split


class DevConfig(BaseModel):
    """Retrieval on a small part of the corpus, measured by the ranks themselves between two steps."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    split: Split = "dev"
    """Whose queries are asked."""
    queries: int = Field(default=200, ge=1)
    """Of them, at most; drawn by train.seed."""
    documents: int = Field(default=2000, ge=1)
    """In which they are looked for: every positive of these queries, however many there are, and random ones up to
    this number. Values lie above those of the whole corpus, which evaluate measures."""
    every_steps: int = Field(default=50, ge=1)
    """Between two evaluations; there is one before the first step and one after the last, too."""
    metric: Metric = "ndcg@10"
    """What counts: ndcg, mrr or recall, at a rank."""
    patience: int | None = Field(default=None, ge=1)
    """Stop after so many evaluations in a row without a gain. Null: train all steps."""
    keep: Literal["best", "last"] = "best"
    """Which weights become the trained model: those of the best evaluation, or the last ones."""
