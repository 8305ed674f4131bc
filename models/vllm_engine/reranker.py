"""Tokens of pairs to scores, through vLLM: the same pairs, the same tokens, the same formulas as in torch.

Shapes: P pairs, L labels.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.errors import ModelError
from models.layout import read_config
from models.reranking.description import check_architecture
from models.reranking.pair_tokens import PairTokenizer
from models.reranking.rendering import Rendering
from models.tokenization import Tokens
from models.vllm_engine.start import prompts_of, start
from models.vllm_engine.support import Engine, check_reranker, family_of, overrides_of


class VllmReranker:
    """A reranker in an engine of its own; complete after the constructor.

    Args:
        directory: As ``models.checkpoint.resolve_model`` returns it.
        rendering: Method, template and limits.
        engine: Share of the GPU.
        dtype: Of weights and activations.
        device: ``"cpu"`` or ``"cuda"``.
        token_budget: Tokens of one forward pass, and most tokens of a pair.

    Raises:
        ModelError: vLLM is absent, or does not compute this model as torch does.
    """

    def __init__(
        self,
        directory: str | Path,
        rendering: Rendering,
        engine: Engine,
        *,
        dtype: str,
        device: str,
        token_budget: int,
    ) -> None:
        config = read_config(Path(directory))
        check_architecture(directory, rendering.method)
        check_reranker(config, str(directory), rendering.method)
        self.tokenizer = PairTokenizer(directory, rendering)
        self._max_tokens = min(self.tokenizer.max_tokens or token_budget, token_budget)
        options: dict[str, Any] = {"runner": "generate"}
        overrides: dict[str, Any] = {}
        if rendering.method == "cross_encoder":
            options = {"runner": "pooling", "convert": "classify", "pooler_config": {"task": "classify"}}
            overrides = overrides_of(str(family_of(config, str(directory)).cross_encoder))
        self.llm = start(
            directory,
            engine,
            dtype=dtype,
            device=device,
            # A token is generated behind the pair, because vLLM generates at least one.
            max_tokens=self._max_tokens + (rendering.method != "cross_encoder"),
            token_budget=token_budget,
            overrides=overrides,
            options=options,
        )
        self.has_types = int(config.get("type_vocab_size") or 0) > 1

    def score_tokens(self, tokens: Tokens) -> np.ndarray:
        """Score tokenised pairs, as ``models.reranker.Reranker.score_tokens`` does; float32 [P], not checked.

        Raises:
            ModelError: A pair is longer than the token budget.
        """
        if not len(tokens):
            return np.zeros(0, np.float32)
        longest = int(tokens.lengths.max())
        if longest > self._max_tokens:
            raise ModelError(
                "a pair is longer than the token budget",
                got=f"{longest} tokens",
                expected=f"at most {self._max_tokens}",
                fix=f"raise token_budget to {longest} or more, or cut texts shorter",
            )
        return SCORES[self.tokenizer.rendering.method](self, tokens)


def _classify(reranker: VllmReranker, tokens: Tokens) -> np.ndarray:
    """Return the logit of relevance; of two labels, the second one's above the first one's."""
    from vllm import PoolingParams

    params = [
        PoolingParams(
            use_activation=False,
            # Where the second text begins; an engine's own rendering of pairs would say it by this name.
            extra_kwargs={"compressed_token_type_ids": second} if reranker.has_types else None,
        )
        for second in tokens.pool_starts.tolist()
    ]
    outputs = reranker.llm.encode(prompts_of(tokens), params, pooling_task="classify", use_tqdm=False)
    logits_PL = torch.stack([output.outputs.data for output in outputs]).float().numpy()
    return logits_PL[:, 0] if logits_PL.shape[1] == 1 else logits_PL[:, 1] - logits_PL[:, 0]


def _ask(reranker: VllmReranker, tokens: Tokens) -> np.ndarray:
    """Return p(yes) among yes and no at the last token."""
    from vllm import SamplingParams

    yes, no = reranker.tokenizer.answer_ids()
    params = SamplingParams(temperature=0, max_tokens=1, detokenize=False, logprob_token_ids=[yes, no])
    outputs = reranker.llm.generate(prompts_of(tokens), params, use_tqdm=False)
    found = [output.outputs[0].logprobs[0] for output in outputs]
    difference_P = np.array([each[yes].logprob - each[no].logprob for each in found], np.float64)
    return (1 / (1 + np.exp(-difference_P))).astype(np.float32)


def _likelihood(reranker: VllmReranker, tokens: Tokens) -> np.ndarray:
    """Return mean log P(query token | document, query so far)."""
    from vllm import SamplingParams

    params = SamplingParams(temperature=0, max_tokens=1, detokenize=False, prompt_logprobs=0)
    outputs = reranker.llm.generate(prompts_of(tokens), params, use_tqdm=False)
    scores_P = np.zeros(len(tokens), np.float32)
    for row, (output, start_at) in enumerate(zip(outputs, tokens.pool_starts.tolist(), strict=True)):
        # Nothing comes before the first token, so nothing is said of it.
        first = max(1, start_at)
        ids, told = output.prompt_token_ids[first:], output.prompt_logprobs[first:]
        if ids:
            scores_P[row] = np.mean([each[token].logprob for token, each in zip(ids, told, strict=True)])
    return scores_P


SCORES: dict[str, Callable[[VllmReranker, Tokens], np.ndarray]] = {
    "cross_encoder": _classify,
    "yes_no": _ask,
    "query_likelihood": _likelihood,
}
"""Method -> how its scores are had from the engine."""
