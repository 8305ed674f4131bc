"""What a recipe may say of evaluation."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipelines.schemas import Metric, Split


class EvaluateConfig(BaseModel):
    """Retrieval metrics over the whole corpus, before and after training."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    split: Split = "test"
    """Whose queries are asked. Choose with dev, report test once."""
    metrics: tuple[Metric, ...] = Field(
        default=("ndcg@10", "mrr@10", "recall@10", "recall@100"), min_length=1
    )
    """What is measured: ndcg, mrr or recall, each at a rank. The first one leads where one has to."""
    baselines: tuple[Literal["bm25"], ...] = ("bm25",)
    """Rankings that stand beside the model's."""
    retrieval_depth: int = Field(default=100, ge=1)
    """Documents ranked for each query; recall@100 needs 100."""
    rerank_depth: int = Field(default=50, ge=1)
    """Of them, so many first ones are ranked again where the recipe trains a cross-encoder; those behind keep their
    order."""
    bootstrap_samples: int = Field(default=2000, ge=100)
    """Resamples of the queries behind every 95% interval."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Of the resampling."""

    @model_validator(mode="after")
    def _ranks_what_is_measured(self) -> "EvaluateConfig":
        if len(set(self.metrics)) < len(self.metrics):
            raise ValueError(f"metrics: one stands twice in {', '.join(self.metrics)}")
        deepest = max(self.metrics, key=lambda metric: int(metric.partition("@")[2]))
        if int(deepest.partition("@")[2]) > self.retrieval_depth:
            raise ValueError(f"metrics: {deepest} needs a retrieval_depth above {self.retrieval_depth}")
        return self
