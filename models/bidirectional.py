"""Decoders that see both sides of a token.

transformers reads ``is_causal`` of a model's config when it makes masks and when it calls attention: False there,
and nowhere else, gives every family below masks that cover both sides, respects padding, works with eager and sdpa
attention and gradient checkpointing, and lies in config.json, so that whoever loads the model computes the same. To
set it on the layers alone would be wrong (a batch with padding would still be masked causally), and so would be
``use_bidirectional_attention`` of Gemma and Gemma 2, which never reaches their masks.

A sliding window of w tokens reaches w to either side then, where a causal one reaches w - 1 back.

This module imports neither torch nor transformers.
"""

from collections.abc import Mapping
from typing import Any, Literal

from models.errors import ModelError

Attention = Literal["causal", "bidirectional"]

DECODERS = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text")
"""Values of ``model_type`` that pass tests/unit/models/test_bidirectional.py; another one is added here and there."""

ENCODERS = (
    "albert",
    "bert",
    "camembert",
    "deberta",
    "deberta-v2",
    "distilbert",
    "electra",
    "eurobert",
    "modernbert",
    "mpnet",
    "nomic_bert",
    "roberta",
    "xlm-roberta",
    "xlm-roberta-xl",
)
"""Values of ``model_type`` that look to both sides as they are."""


def attention_of(config: Mapping[str, Any]) -> Attention | None:
    """Return how a model attends as its config stands; None for a family that is not known.

    Args:
        config: Content of config.json.
    """
    family = config.get("model_type")
    if family in ENCODERS:
        return "causal" if config.get("is_decoder") else "bidirectional"
    if family not in DECODERS:
        return None
    both_sides = family == "gemma3_text" and config.get("use_bidirectional_attention")
    return "bidirectional" if both_sides or config.get("is_causal") is False else "causal"


def check_attention(config: Mapping[str, Any], attention: Attention, where: str) -> None:
    """Refuse an attention that the model cannot be given.

    Args:
        config: Content of config.json.
        attention: What is asked for.
        where: The model's directory or name.

    Raises:
        ModelError: The family is not known, or looks to both sides by its making.
    """
    family = config.get("model_type")
    if family not in (*DECODERS, *ENCODERS):
        raise ModelError(
            f"nobody has shown that this architecture can be made {attention}",
            where,
            got=f"model_type {family}",
            expected=f"a decoder of {', '.join(DECODERS)}",
            fix="drop attention from the model's settings; or add the model_type to DECODERS in "
            "models/bidirectional.py once its tests pass for it",
        )
    if attention_of(config) != attention and not is_switchable(config):
        raise ModelError(
            f"this model attends {attention_of(config)} by its making",
            where,
            got=f"attention: {attention}",
            expected=f"attention: {attention_of(config)}, or none",
            fix="drop attention from the model's settings, or name another model",
        )


def is_switchable(config: Mapping[str, Any]) -> bool:
    """Return whether ``is_causal`` decides how this model attends."""
    return config.get("model_type") in DECODERS and not config.get("use_bidirectional_attention")


def set_attention(config: Any, attention: Attention, where: str) -> None:
    """Make a model attend as asked, before or after it is built from this config.

    Args:
        config: Of transformers; changed in place where it does not attend so yet.
        attention: What is asked for.
        where: The model's directory or name, for messages.

    Raises:
        ModelError: As ``check_attention``.
    """
    content = config.to_dict()
    check_attention(content, attention, where)
    if attention_of(content) != attention:
        config.is_causal = attention == "causal"
