"""What a recipe may say of searching, and of the teachers that search."""

import math
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipelines.model_config import ModelConfig


class IvfConfig(BaseModel):
    """Inverted lists: k-means cells of which a query looks into a few."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_lists: int | None = Field(default=None, ge=1)
    """Cells. Null: four times the square root of the number of embeddings."""
    num_probes: int = Field(default=32, ge=1)
    """Cells that a query looks into: more find more, and cost more. As many as there are: an exact search."""
    training_sample: int = Field(default=131_072, ge=1)
    """Embeddings, evenly spaced, that the cells are trained on."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Of the training's first centroids."""

    def lists_of(self, num_embeddings: int) -> int:
        """Return how many cells that many embeddings have: no more than are trained on where none is named."""
        most = min(num_embeddings, self.training_sample)
        return self.num_lists or max(1, min(round(4 * math.sqrt(num_embeddings)), most))


class SearchConfig(BaseModel):
    """Search over all documents, by tiles: a group of documents x a part of the queries.

    `retrieval_depth`, `index` and `ivf` say which candidates come out, `range_queries` how they are cut into
    shards. The other settings bound time and memory and change nothing in the result. The corpus is never held
    whole: an actor holds one group of `group_mb` MiB and one tile, and the driver no embedding at all. Exact
    search costs 2 x queries x documents x dimension operations, reasonable up to queries x documents of about
    1e14 on a modern GPU; beyond that take `index: ivf`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    retrieval_depth: int = Field(default=100, ge=1)
    """Candidates kept for each query."""
    max_retrieval_depth: int = Field(default=1000, ge=1)
    """Depth of the second search, of the queries that the filters starved; lists made of others (fused, reranked) are
    made again of what these found then, and take the place of the first ones. At most `retrieval_depth`: off."""
    backend: Literal["auto", "faiss", "torch"] = "auto"
    """What multiplies: torch (block-wise product and a running threshold; CPU or GPU), or faiss (CPU or GPU).
    auto: torch, which is the faster one, and faiss for `index: ivf` on processors."""
    index: Literal["exact", "ivf"] = "exact"
    """exact: every document is scored. ivf: those of the lists nearest to the query."""
    ivf: IvfConfig = IvfConfig()
    """Settings of `index: ivf`."""
    recall_sample: int = Field(default=200, ge=0)
    """Queries that `index: ivf` searches exactly as well, to state its recall. 0: none."""
    group_mb: int = Field(default=1024, ge=1)
    """MiB of float32 document embeddings that one actor holds at a time: bounds its memory, whatever the corpus."""
    range_queries: int = Field(default=8192, ge=1)
    """Queries of one shard of candidates, rounded to whole shards of the ingested queries."""
    tile_queries: int = Field(default=2048, ge=1)
    """Queries of one tile at most: a tile is lost when its actor is, and should take seconds."""

    @model_validator(mode="after")
    def _ivf_fits(self) -> "SearchConfig":
        if self.index == "exact" and self.ivf != IvfConfig():
            raise ValueError("settings under ivf need index ivf (got index exact)")
        lists = self.ivf.num_lists
        if lists is not None and self.ivf.training_sample < lists:
            raise ValueError(
                f"ivf.training_sample ({self.ivf.training_sample}) is less than ivf.num_lists ({lists})"
            )
        return self

    def backend_on(self, device: str, is_approximate: bool) -> str:
        """Return what multiplies: faiss or torch."""
        if self.backend != "auto":
            return self.backend
        return "faiss" if is_approximate and device == "cpu" else "torch"

    @property
    def searches_deeper(self) -> bool:
        """Whether starved queries are searched once more."""
        return self.max_retrieval_depth > self.retrieval_depth


class DenseTeacher(BaseModel):
    """Candidates by cosine similarity of a model's embeddings."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["dense"]
    """Which teacher this is."""
    model: ModelConfig | None = None
    """The model that embeds. Null: the model that will be trained."""


class Bm25Teacher(BaseModel):
    """Candidates by the words they share with the query: BM25 (k1 .9, b .4) over words of any script."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["bm25"]
    """Which teacher this is."""


class RandomTeacher(BaseModel):
    """Candidates drawn evenly from the corpus, each query its own; all score 0, positives 1."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["random"]
    """Which teacher this is."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Of the draw."""


class FusedTeacher(BaseModel):
    """Candidates of several teachers in one list, by reciprocal rank: the sum of 1 / (constant + rank)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["fused"]
    """Which teacher this is."""
    of: tuple[Annotated[str, Field(min_length=1)], ...] = Field(min_length=1)
    """Names of the teachers whose lists are fused."""
    constant: int = Field(default=60, ge=0)
    """Evens out the first ranks: 60 as in the paper of Cormack et al., 2009; 0 counts rank 1 double of rank 2."""

    @model_validator(mode="after")
    def _each_once(self) -> "FusedTeacher":
        twice = sorted({name for name in self.of if self.of.count(name) > 1})
        if twice:
            raise ValueError(f"of names a teacher twice: {', '.join(twice)}")
        return self
