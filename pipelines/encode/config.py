"""What a recipe may say of encoding."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class ChunkConfig(BaseModel):
    """How documents longer than the window are cut into chunks, each embedded as a row of its own."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    tokens: int = Field(ge=16)
    """Most tokens of a chunk; special tokens, prompt and title, which every chunk bears, are counted."""
    overlap: int = Field(default=0, ge=0)
    """Tokens of text that a chunk shares with the one before it, at most half of `tokens`; 0: none."""

    @model_validator(mode="after")
    def _moves_on(self) -> "ChunkConfig":
        if 2 * self.overlap > self.tokens:
            raise ValueError(f"chunk.overlap ({self.overlap}) exceeds half of chunk.tokens ({self.tokens})")
        return self


class EncodeConfig(BaseModel):
    """How texts are embedded; which model embeds them is said where the model is named."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    token_budget: int = Field(default=4096, ge=64)
    """Tokens of one forward pass, padding counted. 4,096 suits a processor, 65,536 a GPU."""
    precision: Literal["float16", "float32", "int8", "uint8", "binary", "ubinary"] = "float16"
    """Of the stored embeddings. int8 and uint8: one byte a component, by the range of each component over the
    documents; binary and ubinary: one bit a component. Those four are made of the float16 embeddings, which are
    kept, in the codes of sentence-transformers; mining needs float16 or float32."""
    dimension: int | None = Field(default=None, ge=1)
    """Components kept, the first ones, brought back to unit length: for models trained with the matryoshka loss.
    Null: all."""
    chunk: ChunkConfig | None = None
    """How long documents are cut; null: what does not fit the model's window is left off."""
    reuse: bool = True
    """Whether embeddings of texts that an earlier artifact of the same model and settings holds are taken from it;
    false: every text is embedded anew."""

    @property
    def float_precision(self) -> str:
        """Of the embeddings that the model's pass stores."""
        return self.precision if self.precision in ("float16", "float32") else "float16"

    @property
    def identity(self) -> dict[str, object]:
        """What the float embeddings depend on; a setting that is off is left out."""
        optional = {"dimension": self.dimension, "chunk": self.chunk.model_dump() if self.chunk else None}
        return {
            "token_budget": self.token_budget,
            "precision": self.float_precision,
            **{name: value for name, value in optional.items() if value is not None},
            **({} if self.reuse else {"reuse": False}),
        }
