"""What of a model is trained: LoRA adapters beside frozen weights, or some of the weights alone.

Shapes: O outputs and I inputs of a linear layer, r rank, E experts whose weights are stacked.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import nn

from models.errors import ModelError
from models.moe.experts import ExpertLinear
from models.moe.layer import MoeFeedForward
from models.moe.router import Router

NAME = "default"
"""peft's name for the one adapter."""


@dataclass(frozen=True)
class Lora:
    """A low-rank update ``W + alpha / rank * B A`` of linear layers (arXiv 2106.09685, eq. 3).

    Every expert has its own, and so has a router.

    Args:
        rank: r; A is [r, I], B is [O, r]; of experts A is [E r, I], expert by expert, and B is [O, r E].
        alpha: The update is scaled by alpha / rank.
        dropout: Of the update's input, 0 to 1; 0 where experts are adapted.
        targets: Patterns of layer names, in full or from a dot on; ``*`` is every linear layer.
    """

    rank: int
    alpha: float
    dropout: float
    targets: tuple[str, ...]


def add_lora(backbone: nn.Module, lora: Lora, seed: int) -> None:
    """Put adapters beside the linear layers that ``lora.targets`` name, and freeze everything else.

    The update is 0 at the start (B is), so the model computes what it did.

    Args:
        backbone: Changed in place.
        lora: Rank, scale, dropout, layers.
        seed: Of A, which is the same on every rank for it.

    Raises:
        ModelError: A target matches no linear layer; the names that exist are told. Experts and dropout.
    """
    peft = _peft()
    linear = adaptable_layers(backbone)
    matched = match_names(lora.targets, linear, "train.lora.targets", "linear layer")
    stacked = [name for name in matched if not isinstance(linear[name], nn.Linear)]
    blocks = [name for name, module in backbone.named_modules() if isinstance(module, MoeFeedForward)]
    beside_experts = [name for name in matched if name.rpartition(".")[0] in blocks]
    if beside_experts and lora.dropout:
        raise ModelError(
            "adapters in a block with experts take no dropout: peft adapts the stacked weights themselves",
            "train.lora.dropout",
            got=f"{lora.dropout}, with {beside_experts[0]}",
            expected="0",
            fix="set train.lora.dropout to 0, or name targets outside of these blocks",
        )
    backbone.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        peft.inject_adapter_in_model(_peft_config(lora, matched, stacked), backbone, adapter_name=NAME)


def adaptable_layers(backbone: nn.Module) -> dict[str, nn.Module]:
    """Return name -> linear layer that an adapter can be put beside."""
    return {
        name: module
        for name, module in backbone.named_modules()
        if isinstance(module, nn.Linear | ExpertLinear | Router) and not name.startswith("pooler")
    }


def train_only(model: nn.Module, patterns: Sequence[str]) -> None:
    """Freeze every weight whose name no pattern matches; what is frozen already stays so.

    Args:
        model: An encoder, its pooler's weights among its own, or a backbone.
        patterns: Of names, in full or from a dot on, so that those of an encoder's backbone need no prefix.

    Raises:
        ModelError: A pattern matches no trainable weight; the names that exist are told.
    """
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    matched = set(match_names(patterns, trainable, "train.only_train", "weight"))
    for name, parameter in trainable.items():
        parameter.requires_grad_(name in matched)


def match_names(patterns: Sequence[str], names: Iterable[str], where: str, kind: str) -> list[str]:
    """Return the names that a pattern matches, in full or from a dot on.

    Args:
        patterns: Shell patterns; ``*`` matches dots too.
        names: Dotted names.
        where: The setting, for the error.
        kind: Of what they are names, for the error.

    Raises:
        ModelError: A pattern matches none of them.
    """
    found: set[str] = set()
    names = list(names)
    for pattern in patterns:
        hits = [name for name in names if fnmatchcase(name, pattern) or fnmatchcase(name, f"*.{pattern}")]
        if not hits:
            # Layers differ by their number alone: one name stands for all of them.
            shapes = dict.fromkeys(re.sub(r"\.\d+\.", ".*.", name) for name in names)
            raise ModelError(
                f"the pattern matches no {kind}",
                where,
                got=pattern,
                expected=f"one of {', '.join(shapes)}",
                fix="write one of these names, or the part of it behind a dot",
            )
        found.update(hits)
    return [name for name in names if name in found]


def merge_lora(weights: Mapping[str, torch.Tensor], lora: Lora) -> dict[str, torch.Tensor]:
    """Return the weights of the model without adapters that computes the same.

    Args:
        weights: Of a model with adapters, by name, whole.
        lora: As it was given to ``add_lora``.

    Returns:
        Names of the model as it was before; weights in the dtype they had.
    """
    merged: dict[str, torch.Tensor] = {}
    for name, weight in weights.items():
        if ".lora_A." in name or ".lora_B." in name:
            continue
        stem = name.removesuffix(".base_layer.weight")
        if stem != name:
            a_rI, b_Or = (weights[f"{stem}.lora_{side}.{NAME}.weight"].float() for side in "AB")
            update = _update_of_experts(a_rI, b_Or, len(weight)) if weight.ndim == 3 else b_Or @ a_rI
            weight = (weight.float() + lora.alpha / lora.rank * update).to(weight.dtype)
        merged[name.replace(".base_layer.", ".")] = weight
    return merged


def save_adapter(
    weights: Mapping[str, torch.Tensor],
    lora: Lora,
    directory: str | Path,
    base: str,
    prefix: str = "backbone.",
) -> None:
    """Write the adapter alone, as ``peft.PeftModel.from_pretrained(backbone, directory)`` loads it.

    Args:
        weights: Of a model with adapters, by name, whole.
        lora: As it was given to ``add_lora``.
        directory: Made if absent.
        base: The source of the model that the adapter belongs to; written into its config.
        prefix: What stands before the backbone's names in ``weights``.
    """
    from safetensors.torch import save_file

    tensors = {
        f"base_model.model.{name.removeprefix(prefix).replace(f'.{NAME}.', '.')}": weight.contiguous()
        for name, weight in weights.items()
        if ".lora_A." in name or ".lora_B." in name
    }
    layers = sorted({name.split(".lora_")[0].removeprefix("base_model.model.") for name in tensors})
    Path(directory).mkdir(parents=True, exist_ok=True)
    save_file(tensors, str(Path(directory) / "adapter_model.safetensors"), metadata={"format": "pt"})
    bases = {layer: weights[f"{prefix}{layer}.base_layer.weight"] for layer in layers}
    stacked = [layer for layer, base in bases.items() if base.ndim == 3 or layer.endswith(".router")]
    config = _peft_config(lora, layers, stacked)
    config.base_model_name_or_path = base
    config.inference_mode = True
    config.save_pretrained(str(directory))


def _update_of_experts(a_sI: torch.Tensor, b_Os: torch.Tensor, num_experts: int) -> torch.Tensor:
    a_ErI = a_sI.unflatten(0, (num_experts, -1))
    # peft lets the expert vary fastest on this side.
    b_OrE = b_Os.unflatten(1, (-1, num_experts))
    return torch.einsum("ore,eri->eoi", b_OrE, a_ErI)


def _peft_config(lora: Lora, layers: list[str], stacked: list[str]) -> Any:
    return _peft().LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=[layer for layer in layers if layer not in stacked],
        target_parameters=[f"{layer}.weight" for layer in stacked] or None,
        bias="none",
    )


def _peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise ImportError("LoRA needs peft: pip install -c constraints.txt 'peft>=0.19,<1'") from error
    return peft
