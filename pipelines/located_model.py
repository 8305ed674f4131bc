"""An embedding model as a worker sees it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np

    from models.encoder import Encoder
    from models.prompts import Prompts
    from models.tokenization import TextTokenizer, Tokens
    from models.vllm_engine.support import Engine


@dataclass(frozen=True)
class LocatedModel:
    """A model that a worker can load: small, hashable, and the same bytes wherever it is loaded.

    Args:
        location: A directory, a hub id or `package:<module>`.
        pooling: Name of the pooler.
        prompts: Query and document prefixes.
        max_query_tokens: Queries are cut here.
        max_document_tokens: Documents are cut here.
        dtype: Of weights and activations.
        device: ``"cpu"`` or ``"cuda"``.
        attention: ``"causal"`` or ``"bidirectional"``; None: as the model's config says.
        latents: Number of latents and of heads of a pooler latent_attention that has no weights yet.
        quantize: ``"8bit"`` or ``"4bit"``; None: whole weights.
        engine: vLLM where it embeds texts; None: torch.
        trusted: Whether code that the model brings may run.
    """

    location: str
    pooling: str
    prompts: "Prompts"
    max_query_tokens: int
    max_document_tokens: int
    dtype: str
    device: str
    attention: Literal["causal", "bidirectional"] | None = None
    latents: tuple[int, int] = (512, 8)
    quantize: Literal["8bit", "4bit"] | None = None
    engine: "Engine | None" = None
    trusted: bool = False

    def tokenizer(self) -> "TextTokenizer":
        """Load the tokenizer, once a process."""
        return _tokenizer(self)

    def encoder(self) -> "Encoder":
        """Load the encoder in evaluation mode."""
        from models.checkpoint import load_encoder, resolve_model

        return load_encoder(
            resolve_model(self.location, self.trusted),
            dtype=self.dtype,
            device=self.device,
            pooling=self.pooling,
            attention=self.attention,
            latents=self.latents,
            quantize=self.quantize,
            trusted=self.trusted,
        )

    def embedder(self, token_budget: int) -> "Callable[[Tokens], np.ndarray]":
        """Load what turns the tokens of N texts into float32 [N, D]: the encoder, or vLLM in its place.

        Args:
            token_budget: Tokens of one forward pass.
        """
        if self.engine is None:
            from models.inference import embed

            return partial(embed, self.encoder(), token_budget=token_budget)
        from models.checkpoint import resolve_model
        from models.vllm_engine.encoder import VllmEncoder
        from models.vllm_engine.support import pools_outside

        return VllmEncoder(
            resolve_model(self.location),
            self.engine,
            pooling=self.pooling,
            pools_outside=pools_outside(self.pooling, self.prompts),
            dtype=self.dtype,
            device=self.device,
            max_tokens=max(self.max_query_tokens, self.max_document_tokens),
            token_budget=token_budget,
            attention=self.attention,
        ).embed

    def check_prompts(self) -> None:
        """Refuse prompts that other libraries would read in another way once a model is trained with them.

        Raises:
            ModelError: They would.
        """
        from models.checkpoint import resolve_model
        from models.sentence_layout import check_prompts

        check_prompts(resolve_model(self.location), self.prompts, self.pooling)

    def whole(self) -> "LocatedModel":
        """Return the model in float32 and unquantised: what training starts from and what is exported."""
        return replace(self, dtype="float32", quantize=None)


@lru_cache(maxsize=4)
def _tokenizer(model: LocatedModel) -> "TextTokenizer":
    from models.checkpoint import resolve_model
    from models.tokenization import TextTokenizer

    directory = resolve_model(model.location)
    return TextTokenizer.load(directory, model.prompts, model.max_query_tokens, model.max_document_tokens)
