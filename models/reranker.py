"""Rerankers: (query, document) pairs to scores, by cross-encoders and by language models.

Shapes: P pairs, B pairs of one batch, T padded tokens.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch

from models.errors import ModelError
from models.inference import BATCH_MULTIPLE, plan_batches
from models.low_bit import Quantize
from models.reranking.network import load_network
from models.reranking.pair_tokens import PairTokenizer
from models.reranking.rendering import Rendering
from models.reranking.scorers import CrossEncoder, QueryLikelihood, Scorer, YesNo
from models.states import fast_states
from models.tokenization import Tokens

RERANKERS: dict[str, Callable[[Any, PairTokenizer], Scorer]] = {
    "cross_encoder": CrossEncoder,
    "yes_no": YesNo,
    "query_likelihood": QueryLikelihood,
}
"""Method -> the module that turns padded pairs into scores."""

EXCERPT = 80


class Reranker:
    """Score pairs; complete after the constructor.

    Args:
        scorer: A module of RERANKERS, in evaluation mode.
        tokenizer: Of the same model.
    """

    def __init__(self, scorer: Scorer, tokenizer: PairTokenizer) -> None:
        self.scorer = scorer
        self.tokenizer = tokenizer
        # While a head runs, the backbone before it answers with the states of one batch.
        self._alone = Lock()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.scorer.parameters()).device

    def score(self, pairs: Sequence[tuple[str, str]], token_budget: int = 4096) -> np.ndarray:
        """Score pairs of (query, document).

        Args:
            pairs: P pairs; the document alone is cut to the model's positions.
            token_budget: Most tokens of a forward pass, padding counted.

        Returns:
            float32 [P], in order, larger for a better document. A score does not depend on the pairs beside it,
            but for the rounding of the dtype.

        Raises:
            ModelError: A score is not finite, or a pair alone exceeds the budget.
        """
        scores_P = self.score_tokens(self.tokenizer.tokenize(pairs), token_budget)

        def name(row: int) -> str:
            return " and ".join(f"{text[:EXCERPT]!r}" for text in pairs[row])

        require_finite(scores_P, name, str(self.tokenizer.directory))
        return scores_P

    def score_tokens(self, tokens: Tokens, token_budget: int = 4096) -> np.ndarray:
        """Score tokenised pairs; float32 [P], not checked. Threads that share a reranker take turns."""
        with self._alone, torch.inference_mode():
            return self._score_tokens(tokens, token_budget)

    def _score_tokens(self, tokens: Tokens, token_budget: int) -> np.ndarray:
        device, max_tokens = self.device, self.tokenizer.max_tokens
        self.scorer.states = fast_states(self.scorer.network.base_model)
        scores_P = torch.empty(len(tokens), dtype=torch.float32, device=device)
        for rows in plan_batches(tokens.lengths, token_budget):
            ids_BT, mask_BT, marked_BT = tokens.take(rows).pad(BATCH_MULTIPLE, max_tokens)
            # Scores stay on the device until the end: a copy back per batch would make it wait.
            inputs = [tensor.to(device, non_blocking=True) for tensor in (ids_BT, mask_BT, marked_BT)]
            scores_P[torch.from_numpy(rows).to(device)] = self.scorer(*inputs)
        return scores_P.cpu().numpy()


def require_finite(scores_P: np.ndarray, name: Callable[[int], str], where: str) -> None:
    """Refuse scores that are not finite.

    Args:
        scores_P: float32.
        name: Says of a row's number which pair it is.
        where: The reranker.

    Raises:
        ModelError: It names the first such pair and counts them.
    """
    bad = np.flatnonzero(~np.isfinite(scores_P))
    if len(bad):
        raise ModelError(
            "the reranker's score is not finite",
            where,
            got=f"{scores_P[bad[0]]} for {name(int(bad[0]))} ({len(bad)} of {len(scores_P)} pairs)",
            expected="a finite score for every pair",
            fix="write dtype: float32 (or bfloat16 for float16); if it stays, the weights are damaged",
        )


def load_reranker(
    directory: str | Path,
    rendering: Rendering,
    dtype: str = "float32",
    device: str = "cpu",
    quantize: Quantize | None = None,
) -> Reranker:
    """Load a reranker in evaluation mode.

    Args:
        directory: As ``models.checkpoint.resolve_model`` returns it.
        rendering: Method, template and limits.
        dtype: Of weights and activations, as ``models.precision.resolve_dtype`` returns it.
        device: A torch device.
        quantize: ``"8bit"`` or ``"4bit"`` weights of linear layers, without the head; None: none.

    Raises:
        ModelError: No such model there, weights that do not fit it, or ``quantize`` without bitsandbytes.
    """
    network = load_network(directory, rendering.method, dtype, device, quantize)
    tokenizer = PairTokenizer(directory, rendering)
    return Reranker(RERANKERS[rendering.method](network, tokenizer).eval(), tokenizer)
