"""What a recipe may say of a reranker and of scoring with it."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from models.reranking.rendering import Rendering, make_rendering
from pipelines.engine import EngineName


class RerankerConfig(BaseModel):
    """A model that judges a query and a document together."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    """A directory, a hub id, or `package:<module>`; safetensors only, no remote code."""
    method: Literal["cross_encoder", "yes_no", "query_likelihood"] = "cross_encoder"
    """cross_encoder: the logit of a sequence classifier with one label, or two with the relevant one last.
    yes_no: a language model's p(yes) among yes and no. query_likelihood: its mean log P(query token | document)."""
    instruction: str | None = None
    """What counts as relevant; fills {instruction} of the template. Null: that of Qwen3-Reranker."""
    template: str | None = None
    """Text that holds {query} and {document} (yes_no: in this order; query_likelihood: the query ends it) and may
    hold {instruction}. Null: the method's own; a cross-encoder takes none."""
    answers: tuple[str, str] = ("yes", "no")
    """The two words whose logits yes_no compares, one token each."""
    max_query_tokens: int = Field(default=64, ge=1)
    """Queries are cut here, special tokens and template not counted."""
    max_document_tokens: int = Field(default=256, ge=1)
    """Documents are cut here, or where query, template and document fill the model's positions."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of weights and activations; auto: bfloat16 where the device multiplies it in hardware, else float32."""
    quantize: Literal["8bit", "4bit"] | None = None
    """Linear layers in 8 bits (LLM.int8) or 4 bits (NF4) through bitsandbytes (extra `quantize`), the head apart: a
    large language model on a small GPU. Null: none."""
    token_budget: int = Field(default=4096, ge=64)
    """Tokens of one forward pass, padding counted. 4,096 suits a processor, 32,768 a GPU."""
    activation: Literal["none", "sigmoid"] = "none"
    """Of a cross-encoder's logit in the candidates; sigmoid: scores in 0..1. The ranking is the same."""
    engine: EngineName = "torch"
    """What scores pairs in the actors of the role `score`: torch, or vllm (extra `vllm`), which batches by itself, up
    to `token_budget` tokens a pass."""
    gpu_memory_fraction: float = Field(default=0.9, gt=0, le=1)
    """Of engine vllm: what an actor's engine takes, as it starts, of the actor's share of a GPU's memory."""

    @model_validator(mode="after")
    def _fits_together(self) -> "RerankerConfig":
        if self.activation != "none" and self.method != "cross_encoder":
            raise ValueError(
                f"activation ({self.activation}) is for cross_encoder; the scores of {self.method} are no logits"
            )
        # Four characters a token is the rule of thumb; a template with special tokens has more of them.
        longest = self.max_query_tokens + self.max_document_tokens + len(self.rendering.template) // 4 + 16
        if longest > self.token_budget:
            raise ValueError(
                f"token_budget ({self.token_budget}) does not hold one pair (about {longest} tokens)"
            )
        return self

    @property
    def rendering(self) -> Rendering:
        """How a pair becomes the text that the model reads.

        Raises:
            ModelError: The template does not hold its texts.
        """
        return make_rendering(
            self.method,
            instruction=self.instruction,
            template=self.template,
            answers=self.answers,
            max_query_tokens=self.max_query_tokens,
            max_document_tokens=self.max_document_tokens,
        )


class ScoreConfig(BaseModel):
    """Which pairs are scored, and in what portions."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    depth: int = Field(default=50, ge=1)
    """Candidates of each query that are scored, besides its positives."""
    row_tokens: int = Field(default=500_000, ge=1)
    """Tokens, estimated, of one row of work: what a kill may lose. Ten to sixty seconds of a device are right."""
    group_pairs: int = Field(default=1_000_000, ge=1)
    """Pairs that one task holds in memory; about 100 bytes each, besides their texts."""
    group_mb: int = Field(default=128, ge=1)
    """MiB of stored (compressed) documents whose texts one task may hold."""
