"""An engine is started: one in a process, inside it, on tokens alone."""

import os
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.errors import ModelError
from models.silence import silence
from models.tokenization import Tokens
from models.vllm_engine.support import Engine, installed_version

if TYPE_CHECKING:
    from vllm import LLM

PROCESSOR_CACHE_BYTES = 2**30
"""Keys and values that an engine on a processor keeps; left alone it would take most of the machine's memory."""

MAX_REASON = 300
"""Characters of vLLM's own words that an error repeats."""

_ENVIRONMENT = {
    # The engine lives in the process that asks for it: when that ends, however it ends, the GPU is free again.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    # An actor computes with the threads that it was given, not on all cores.
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}


def start(
    directory: str | Path,
    engine: Engine,
    *,
    dtype: str,
    device: str,
    max_tokens: int,
    token_budget: int,
    overrides: Mapping[str, Any],
    options: Mapping[str, Any],
) -> "LLM":
    """Start vLLM on a model's directory.

    Args:
        directory: As ``resolve_model`` returns it.
        engine: Share of the GPU.
        dtype: Of weights and activations.
        device: ``"cpu"`` or ``"cuda"``.
        max_tokens: Of the longest prompt, what is generated behind it included.
        token_budget: Tokens of one forward pass.
        overrides: What replaces values of config.json.
        options: Runner, pooler and the like, as ``vllm.LLM`` takes them.

    Raises:
        ModelError: vLLM is absent or of another version, or refuses the model.
    """
    found = installed_version()
    if found != engine.version:
        raise ModelError(
            "this machine has another vLLM than the one that the run was planned with",
            got=found,
            expected=engine.version,
            fix="install one version on all nodes",
        )
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # On a processor compiling takes longer than it saves.
    own = {"kv_cache_memory_bytes": PROCESSOR_CACHE_BYTES, "enforce_eager": True} if device == "cpu" else {}
    with silence():
        from vllm import LLM

        try:
            return LLM(
                model=str(directory),
                dtype=dtype,
                max_model_len=max_tokens,
                max_num_batched_tokens=max(token_budget, max_tokens),
                gpu_memory_utilization=engine.memory_fraction,
                # sentence-transformers' own limit stands in a file that vLLM reads; ours was checked against the
                # positions.
                hf_overrides={"model_max_length": max_tokens, **overrides},
                **options,
                **own,
            )
        except (ValueError, RuntimeError, OSError) as error:
            raise ModelError(
                "vLLM cannot load this model",
                str(directory),
                got=" ".join(str(error).split())[:MAX_REASON],
                fix="lower gpu_memory_fraction where memory is short; else write engine: torch where the recipe "
                "names the model",
            ) from error


def prompts_of(tokens: Tokens) -> list[Any]:
    """Return the token ids of N texts as prompts of vLLM."""
    return [
        {"prompt_token_ids": tokens.ids[start:stop].tolist()}
        for start, stop in pairwise(tokens.offsets.tolist())
    ]
