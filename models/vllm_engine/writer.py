"""Queries that a causal language model writes behind prompts, through vLLM."""

from pathlib import Path

from models.generation import METHOD, check_writer, first_line
from models.layout import max_positions, read_config
from models.tokenization import Tokens
from models.vllm_engine.start import prompts_of, start
from models.vllm_engine.support import Engine, check_reranker


class VllmWriter:
    """A causal language model in an engine of its own; as ``models.generation.QueryWriter``.

    Args:
        directory: As ``models.checkpoint.resolve_model`` returns it.
        engine: Share of the GPU.
        dtype: Of weights and activations.
        device: ``"cpu"`` or ``"cuda"``.
        token_budget: Tokens of one forward pass, and most tokens of a prompt with what is written.
        max_query_tokens: Tokens that are written.

    Raises:
        ModelError: vLLM is absent, or does not compute this model as torch does.
    """

    def __init__(
        self,
        directory: str | Path,
        engine: Engine,
        *,
        dtype: str,
        device: str,
        token_budget: int,
        max_query_tokens: int,
    ) -> None:
        config = read_config(Path(directory))
        check_writer(Path(directory))
        check_reranker(config, str(directory), METHOD)
        self._max_new = max_query_tokens
        self._llm = start(
            directory,
            engine,
            dtype=dtype,
            device=device,
            max_tokens=min(max_positions(config) or token_budget, token_budget),
            token_budget=token_budget,
            overrides={},
            options={"runner": "generate"},
        )

    def write(self, prompts: Tokens) -> list[str]:
        """Return what is written behind each of P prompts: one line, empty where there is none."""
        from vllm import SamplingParams

        if not len(prompts):
            return []
        params = SamplingParams(temperature=0, max_tokens=self._max_new, stop=["\n"])
        outputs = self._llm.generate(prompts_of(prompts), params, use_tqdm=False)
        return [first_line(output.outputs[0].text) for output in outputs]
