"""What a recipe may say of an embedding model."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipelines.engine import EngineName
from pipelines.prompts import PromptsConfig


class LatentAttentionConfig(BaseModel):
    """The pooler latent_attention, where the model brings none."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_latents: int = Field(default=512, ge=1)
    """Rows of the trainable array that token states attend to."""
    num_heads: int = Field(default=8, ge=1)
    """Of that attention; divides the model's hidden size."""


class ModelConfig(BaseModel):
    """A text-embedding model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    """A directory (sentence-transformers or transformers layout), a GGUF file, a hub id, or `package:<module>` for
    weights that an installed package brings (the module names its directory MODEL_DIR, or holds a GGUF file)."""
    trust_remote_code: bool = False
    """Run the Python code that the model brings, wherever it is loaded, its release included: what its `auto_map`
    names. Read it first. False: such a model is refused."""
    attention: Literal["causal", "bidirectional"] | None = None
    """Whether tokens of a decoder see those behind them; `bidirectional` is what embeddings want, and needs training.
    Null: as the model's directory says."""
    pooling: Literal["mean", "cls", "last", "latent_attention"] | None = None
    """How token states become one vector; latent_attention has weights of its own, which are trained. Null: as the
    model's directory says, else mean."""
    latent_attention: LatentAttentionConfig = LatentAttentionConfig()
    """Of the pooler latent_attention."""
    prompts: PromptsConfig | None = None
    """Null: as the model's directory says, else none."""
    max_query_tokens: int = Field(default=64, ge=4)
    """Queries are cut here, special tokens counted."""
    max_document_tokens: int = Field(default=256, ge=4)
    """Documents are cut here, special tokens counted."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of weights and activations; auto: bfloat16 where the device multiplies it in hardware, else float32. On a
    processor float16 is refused."""
    quantize: Literal["8bit", "4bit"] | None = None
    """Weights of linear layers in 8 bits (LLM.int8) or 4 (NF4, double quantisation) where texts are embedded, through
    bitsandbytes: a fraction of the memory; experts stay whole. Training uses whole weights. Null: none."""
    engine: EngineName = "torch"
    """What embeds texts in the actors of the role `encode`: torch, or vllm (extra `vllm`), which batches by itself, up
    to `encode.token_budget` tokens a pass. Training, evaluation in between and serving are torch's."""
    gpu_memory_fraction: float = Field(default=0.9, gt=0, le=1)
    """Of engine vllm: what an actor's engine takes, as it starts, of the actor's share of a GPU's memory."""

    @model_validator(mode="after")
    def _engine_runs_the_code(self) -> "ModelConfig":
        if self.trust_remote_code and self.engine != "torch":
            raise ValueError(
                f"engine {self.engine} computes models of its own, not what trust_remote_code lets in: write "
                "engine: torch"
            )
        return self
