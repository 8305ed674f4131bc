"""A dense backbone given experts: what is asked for, checked against the backbone, and put in place."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import torch
from torch import nn

from models.encoder import Encoder
from models.errors import ModelError
from models.moe.layer import MoeFeedForward
from models.moe.modeling import FAMILIES, Family, MoeDescription, place_experts
from models.moe.router import ROUTERS

PLACES = ("up", "down", "ffn")
ROUTER_STD = 0.02
"""Of a router's first weights: logits of about 0.4 for 384 states of unit variance, so no expert is far ahead."""


@dataclass(frozen=True)
class Upcycling:
    """Experts to be made of dense weights (arXiv 2212.05055).

    Args:
        layers: Numbers from 0, negative ones from the end; `all`; or `intermediate`: all but the first and the last.
        where: `up`: what stands before the activation becomes experts; `down`: what stands behind it; `ffn`: both.
        num_experts: Of one layer, each a copy of the dense weights.
        experts_per_token: At most that many.
        router: `identity` and `clp` leave the output as it was; `switch` scales it by the probability of the expert.
    """

    layers: tuple[int, ...] | Literal["all", "intermediate"] = "all"
    where: str = "up"
    num_experts: int = 2
    experts_per_token: int = 1
    router: str = "identity"


def upcycle(encoder: Encoder, asked: Upcycling, seed: int) -> MoeDescription:
    """Put experts into ``encoder``, in place; one that has the very same already stays as it is.

    Args:
        encoder: Dense, of a family in FAMILIES, without adapters.
        asked: Which experts.
        seed: Of the routers, which are the same on every rank for it.

    Returns:
        What the backbone's config says from now on.

    Raises:
        ModelError: An architecture that is not known, a layer or projection that it lacks, other experts already
            there, more experts a token than there are.
    """
    backbone: Any = encoder.backbone
    family = family_of(str(backbone.config.model_type))
    layers = backbone.get_submodule(family.layers)
    numbers = resolve_layers(asked.layers, len(layers))
    moe = MoeDescription(
        numbers, asked.where, asked.num_experts, asked.experts_per_token, router=asked.router
    )
    check_description(moe, len(layers), "train.moe")
    present = getattr(backbone.config, "moe", None)
    if present is not None:
        if read_description(present, "config.moe") == moe:
            return moe
        raise ModelError(
            "the model has other experts already",
            "train.moe",
            got=str(asdict(moe)),
            expected=str(dict(present)),
            fix="leave train.moe out to go on with the experts it has, or write the same",
        )
    for number in numbers:
        _check_projections(layers[number], family, f"layer {number} of {backbone.config.model_type}")
    place_experts(backbone, moe)
    generator = torch.Generator().manual_seed(seed)
    for block in moe_blocks(backbone):
        weight_EH = block.router.weight
        drawn_EH = torch.randn(weight_EH.shape, generator=generator) * ROUTER_STD
        weight_EH.data.copy_(drawn_EH)
    backbone.config.moe = asdict(moe) | {"layers": list(numbers)}
    return moe


def moe_blocks(module: nn.Module) -> list[MoeFeedForward]:
    """Return the blocks with experts, in the order of the layers."""
    return [each for each in module.modules() if isinstance(each, MoeFeedForward)]


def train_experts(model: nn.Module, part: Literal["intermediate", "router"]) -> None:
    """Freeze all but the experts and routers, or all but the routers; what is frozen already stays so.

    Args:
        model: A backbone with experts, or the encoder around it, whose pooler is frozen too.
        part: `intermediate`: experts and routers; `router`: routers alone.

    Raises:
        ModelError: It has none.
    """
    blocks = moe_blocks(model)
    if not blocks:
        raise ModelError("the model has no experts", "train.moe.only_train", fix="set train.moe.layers")
    kept = {id(p) for block in blocks for p in block.router.parameters()}
    if part == "intermediate":
        for block in blocks:
            projections = [block.up] * (block.where != "down") + [block.down] * (block.where != "up")
            kept |= {id(p) for projection in projections for p in projection.parameters()}
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.requires_grad and id(parameter) in kept)


def family_of(model_type: str) -> Family:
    """Return what the layers of an architecture are called.

    Raises:
        ModelError: It is not known.
    """
    if model_type not in FAMILIES:
        raise ModelError(
            "this architecture cannot be given experts",
            "train.moe",
            got=model_type,
            expected=", ".join(FAMILIES),
            fix=f"add {model_type!r} to FAMILIES and MOE_MODELS in models/moe/modeling.py: the names of its layers, "
            "feed-forward block, projections and activation",
        )
    return FAMILIES[model_type]


def resolve_layers(
    layers: tuple[int, ...] | Literal["all", "intermediate"], num_layers: int
) -> tuple[int, ...]:
    """Return layer numbers from 0, rising.

    Raises:
        ModelError: A number out of range or named twice, or no layer at all.
    """
    if isinstance(layers, str):
        numbers = list(range(num_layers) if layers == "all" else range(1, num_layers - 1))
    else:
        outside = [number for number in layers if not -num_layers <= number < num_layers]
        if outside:
            raise ModelError(
                "no such layer",
                "train.moe.layers",
                got=", ".join(map(str, outside)),
                expected=f"{-num_layers} to {num_layers - 1}: the model has {num_layers} layers",
            )
        numbers = [number % num_layers for number in layers]
    found = sorted(set(numbers))
    if not found or len(found) < len(numbers):
        raise ModelError(
            "a layer is named twice" if found else "this names no layer",
            "train.moe.layers",
            got=str(layers),
            expected=f"some of the layers 0 to {num_layers - 1}, each once",
        )
    return tuple(found)


def read_description(entry: Any, where: str) -> MoeDescription:
    """Return the entry `moe` of a config.

    Raises:
        ModelError: It is not as ``upcycle`` writes it.
    """
    known = {field.name for field in fields(MoeDescription)}
    if not isinstance(entry, Mapping) or set(entry) != known or not isinstance(entry["layers"], list | tuple):
        raise ModelError(
            "this does not say which experts the model has",
            where,
            got=str(entry),
            expected=f"a mapping with {', '.join(sorted(known))}",
            fix="copy config.json from where the model was written",
        )
    return MoeDescription(**{**entry, "layers": tuple(entry["layers"])})


def check_description(moe: MoeDescription, num_layers: int, where: str) -> None:
    """Refuse experts that cannot be.

    Raises:
        ModelError: An unknown router or place, fewer than two experts, more a token than there are, no such layer.
    """
    faults = [
        ("router", moe.router, moe.router in ROUTERS, f"one of {', '.join(ROUTERS)}"),
        ("where", moe.where, moe.where in PLACES, f"one of {', '.join(PLACES)}"),
        ("num_experts", moe.num_experts, moe.num_experts >= 2, "2 or more"),
        (
            "experts_per_token",
            moe.experts_per_token,
            1 <= moe.experts_per_token <= moe.num_experts,
            f"1 to num_experts, {moe.num_experts}",
        ),
    ]
    for name, got, fits, expected in faults:
        if not fits:
            raise ModelError(
                f"{name} cannot be that",
                f"{where}.{name}",
                got=str(got),
                expected=expected,
                fix=f"set {where}.{name} to {expected}",
            )
    resolve_layers(moe.layers, num_layers)


def _check_projections(layer: nn.Module, family: Family, where: str) -> None:
    for name in (*family.up, family.down):
        parent, _, attribute = name.rpartition(".")
        found = getattr(layer.get_submodule(parent), attribute, None)
        if type(found) is not nn.Linear:
            raise ModelError(
                "the projection that becomes experts is no plain linear layer",
                where,
                got=f"{name}: {type(found).__name__ if found is not None else 'absent'}",
                expected="torch.nn.Linear",
                fix="load the model without quantised weights or adapters, or name layers that have it",
            )
