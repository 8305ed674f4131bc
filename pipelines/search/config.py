"""What a recipe may say of searching."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class SearchConfig(BaseModel):
    """Exact search over all documents.

    Only `retrieval_depth` changes which candidates come out: they are the same for every backend and grid.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    retrieval_depth: int = Field(default=100, ge=1)
    """Candidates kept for each query."""
    backend: Literal["faiss", "torch"] = "faiss"
    """What multiplies: faiss (CPU or GPU), or torch (fused block-wise product)."""
    group_mb: int = Field(default=1024, ge=1)
    """MiB of float32 document embeddings that one actor holds at a time."""
    range_queries: int = Field(default=8192, ge=1)
    """Queries of one tile, rounded to whole shards."""
