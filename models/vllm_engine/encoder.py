"""Texts as token ids in, embeddings out, through vLLM's pooling runner.

Shapes: N texts, T tokens of one text, D dimensions.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from models.bidirectional import DECODERS, Attention, attention_of
from models.layout import read_config
from models.pooling import POOLERS
from models.sentence_modules import read_modules
from models.tokenization import Tokens
from models.vllm_engine.start import prompts_of, start
from models.vllm_engine.support import Engine, check_encoder, family_of, overrides_of

POOLING_TYPES = {"mean": "MEAN", "cls": "CLS", "last": "LAST"}
"""Our name of a pooler -> vLLM's."""

PORTION_TOKENS = 65_536
"""Token states that leave the engine at a time where pooling is done outside it: 256 MiB at 1,024 dimensions."""

assert set(POOLING_TYPES) == set(POOLERS)


class VllmEncoder:
    """An embedding model in an engine of its own; complete after the constructor.

    Args:
        directory: As ``resolve_model`` returns it.
        engine: Share of the GPU.
        pooling: A name in POOLERS.
        pools_outside: Whether token states leave the engine and are pooled here, as ``support.pools_outside`` says;
            otherwise the engine pools, which moves one vector a text instead of one a token.
        dtype: Of weights and activations.
        device: ``"cpu"`` or ``"cuda"``.
        max_tokens: Of the longest text.
        token_budget: Tokens of one forward pass.
        attention: ``"bidirectional"`` or ``"causal"``; None means what the directory's config says.

    Raises:
        ModelError: vLLM is absent, or does not compute this model as torch does.
    """

    def __init__(
        self,
        directory: str | Path,
        engine: Engine,
        *,
        pooling: str,
        pools_outside: bool,
        dtype: str,
        device: str,
        max_tokens: int,
        token_budget: int,
        attention: Attention | None = None,
    ) -> None:
        config = read_config(Path(directory))
        projected = bool(read_modules(Path(directory)).projections)
        check_encoder(
            config, str(directory), pooling, attention, max_tokens=max_tokens, has_projections=projected
        )
        overrides = overrides_of(family_of(config, str(directory)).backbone)
        if config["model_type"] in DECODERS:
            overrides["is_causal"] = (attention or attention_of(config)) == "causal"
        self._pooling = pooling
        self._task = "token_embed" if pools_outside else "embed"
        pooler = (
            {"tok_pooling_type": "ALL"} if pools_outside else {"seq_pooling_type": POOLING_TYPES[pooling]}
        )
        self._llm = start(
            directory,
            engine,
            dtype=dtype,
            device=device,
            max_tokens=max_tokens,
            token_budget=token_budget,
            overrides=overrides,
            options={
                "runner": "pooling",
                "convert": "embed",
                "pooler_config": {"task": self._task, "use_activation": False, **pooler},
            },
        )

    def embed(self, tokens: Tokens) -> np.ndarray:
        """Embed tokenised texts, as ``models.inference.embed`` does.

        Args:
            tokens: N texts.

        Returns:
            float32 [N, D], of unit length, in the order of the texts. An embedding does not depend on the texts
            beside it, but for the rounding of the dtype.
        """
        pooled = [self._pooled(portion) for portion in self._portions(tokens)]
        emb_ND = torch.cat(pooled) if pooled else torch.zeros(0, self._llm.model_config.get_hidden_size())
        return torch.nn.functional.normalize(emb_ND, dim=-1).numpy()

    def _pooled(self, tokens: Tokens) -> torch.Tensor:
        outputs = self._llm.encode(prompts_of(tokens), pooling_task=self._task, use_tqdm=False)
        if self._task == "embed":
            return torch.stack([output.outputs.data for output in outputs]).float()
        pooler = POOLERS[self._pooling]
        pooled = []
        for output, start_at in zip(outputs, tokens.pool_starts.tolist(), strict=True):
            hidden_TD = output.outputs.data
            mask_T = torch.arange(len(hidden_TD)) >= start_at
            pooled.append(pooler(hidden_TD[None], mask_T[None]))
        return torch.cat(pooled)

    def _portions(self, tokens: Tokens) -> Iterator[Tokens]:
        if not len(tokens):
            return
        if self._task == "embed":
            yield tokens
            return
        number_N = tokens.offsets[:-1] // PORTION_TOKENS
        for rows in np.split(np.arange(len(tokens)), np.flatnonzero(np.diff(number_N)) + 1):
            yield tokens.take(rows)
