"""What a recipe may say of queries that a language model writes."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from models.generation import TEMPLATE
from pipelines.engine import EngineName


class GenerateConfig(BaseModel):
    """Queries written for the negatives that are no query's positive, for the penalty of loss clp.

    A query is kept where the round trip finds its document: where the teacher ranks it among the first `keep_rank`
    of the whole corpus.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    """A causal language model: a directory, a hub id, or `package:<module>`; safetensors or GGUF, no remote code."""
    template: str = TEMPLATE
    """Text that holds {document} and ends where the query begins."""
    examples: int = Field(default=3, ge=0, le=16)
    """Training queries, each with a document that it asks for, that stand before in the same template."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Of their draw."""
    max_query_tokens: int = Field(default=32, ge=1)
    """Tokens that are written; a query ends with its line."""
    max_document_tokens: int = Field(default=192, ge=1)
    """Documents are cut here, those of the examples as well."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of weights and activations; auto: bfloat16 where the device multiplies it in hardware, else float32."""
    token_budget: int = Field(default=8192, ge=64)
    """Tokens of one batch, padding and what is written counted."""
    engine: EngineName = "torch"
    """What writes in the actors of the role `generate`: torch, or vllm (extra `vllm`), which batches by itself."""
    gpu_memory_fraction: float = Field(default=0.9, gt=0, le=1)
    """Of engine vllm: what an actor's engine takes, as it starts, of the actor's share of a GPU's memory."""
    row_documents: int = Field(default=64, ge=1)
    """Documents of one row of work: what a kill may lose."""
    teacher: str | None = None
    """Whose embeddings decide on the round trip: a dense teacher under mine.teachers. Null: the only one."""
    keep_rank: int = Field(default=20, ge=1)
    """Rank of the document, at most, for its query to be kept."""

    @model_validator(mode="after")
    def _fits(self) -> "GenerateConfig":
        if "{document}" not in self.template:
            raise ValueError("template holds no {document}")
        longest = (self.examples + 1) * (self.max_document_tokens + self.max_query_tokens)
        if longest > self.token_budget:
            raise ValueError(
                f"token_budget ({self.token_budget}) does not hold one prompt (about {longest} tokens: {self.examples} "
                "examples and the document); raise it, or lower examples or max_document_tokens"
            )
        return self
