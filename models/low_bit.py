"""Weights in 8 or 4 bits, through bitsandbytes."""

from importlib.util import find_spec
from typing import Any, Literal

from models.errors import ModelError

Quantize = Literal["8bit", "4bit"]


def require_bitsandbytes(quantize: Quantize) -> None:
    """Refuse weights in few bits where bitsandbytes is not installed.

    Raises:
        ModelError: It names the extra.
    """
    if find_spec("bitsandbytes") is None:
        raise ModelError(
            "weights in few bits need the package bitsandbytes",
            "quantize",
            got=quantize,
            fix="pip install -c constraints.txt 'stope[quantize]', or write quantize: null",
        )


HEADS = (
    *("classifier", "score", "lm_head", "classification_head", "logits_proj"),
    *("pooler.dense", "head.dense", "sequence_summary.summary"),
)
"""How the names of layers begin or end that make scores and logits of states: they stay whole, few as they are."""


def low_bit_options(quantize: Quantize, dtype: str, device: str) -> dict[str, Any]:
    """Return what ``from_pretrained`` is told so that it loads linear layers in few bits, heads apart.

    4 bits are NF4 with double quantisation (arXiv 2305.14314): about half a byte a weight, computed in ``dtype``.
    8 bits are LLM.int8 (arXiv 2208.07339). Embedding tables and norms keep ``dtype``. Both run on a processor as
    well, where they save memory and cost time (NF4 takes six times as long).

    Args:
        quantize: ``"8bit"`` or ``"4bit"``.
        dtype: Of activations and of all other weights.
        device: A torch device; such weights are put there while they are loaded.

    Raises:
        ModelError: bitsandbytes is not installed.
    """
    require_bitsandbytes(quantize)
    import torch
    from transformers import BitsAndBytesConfig

    if quantize == "8bit":
        config = BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=list(HEADS))
    else:
        config = BitsAndBytesConfig(
            load_in_4bit=True,
            llm_int8_skip_modules=list(HEADS),
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=getattr(torch, dtype),
        )
    return {"quantization_config": config, "device_map": {"": device}}
