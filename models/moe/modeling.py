"""Backbones of transformers with experts in some of their feed-forward blocks."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import (
    BertModel,
    CamembertModel,
    LlamaModel,
    MistralModel,
    ModernBertModel,
    Qwen2Model,
    Qwen3Model,
    RobertaModel,
    XLMRobertaModel,
)

from models.moe.layer import MoeFeedForward, Moved


@dataclass(frozen=True)
class MoeDescription:
    """Where a backbone has experts and how tokens find them: the entry `moe` of its config.

    Args:
        layers: Their numbers, from 0, rising.
        where: `up`: what stands before the activation becomes experts; `down`: what stands behind it; `ffn`: both.
        num_experts: Of one layer.
        experts_per_token: At most that many.
        router: `identity`, `switch` or `clp`.
    """

    layers: tuple[int, ...]
    where: str
    num_experts: int
    experts_per_token: int
    router: str


@dataclass(frozen=True)
class Family:
    """What the parts of a layer are called in some architectures; paths count from the layer.

    Args:
        layers: Path of the list of layers, from the backbone.
        block: The module that is replaced: it is given what enters the feed-forward block.
        up: The projections before the activation; of two, the first is activated and gates the second.
        down: The projection behind it.
        activation: The activation.
        gated: Whether one half of what ``up`` makes gates the other.
        dropout: Before ``down``; empty for none.
    """

    layers: str
    block: str
    up: tuple[str, ...]
    down: str
    activation: str
    gated: bool = True
    dropout: str = ""


BERT = Family(
    layers="encoder.layer",
    block="intermediate",
    up=("intermediate.dense",),
    down="output.dense",
    activation="intermediate.intermediate_act_fn",
    gated=False,
)
LLAMA = Family("layers", "mlp", ("mlp.gate_proj", "mlp.up_proj"), "mlp.down_proj", "mlp.act_fn")
FAMILIES = {
    "bert": BERT,
    "camembert": BERT,
    "roberta": BERT,
    "xlm-roberta": BERT,
    "modernbert": Family("layers", "mlp", ("mlp.Wi",), "mlp.Wo", "mlp.act", dropout="mlp.drop"),
    "llama": LLAMA,
    "mistral": LLAMA,
    "qwen2": LLAMA,
    "qwen3": LLAMA,
}
"""By `model_type`. A new one is an entry here and a class below, in MOE_MODELS."""


def place_experts(backbone: nn.Module, moe: MoeDescription) -> None:
    """Replace feed-forward blocks by such with experts, each a copy of the dense weights; routers are 0.

    Args:
        backbone: Of a family in FAMILIES, dense; changed in place.
        moe: Checked already.
    """
    family = FAMILIES[backbone.config.model_type]  # type: ignore[union-attr, index]
    layers = backbone.get_submodule(family.layers)
    for number in moe.layers:
        layer = layers[number]  # type: ignore[index]
        block = MoeFeedForward(
            up=_joined([layer.get_submodule(name) for name in family.up]),
            down=layer.get_submodule(family.down),
            activation=layer.get_submodule(family.activation),
            dropout=layer.get_submodule(family.dropout) if family.dropout else nn.Identity(),
            gated=family.gated,
            where=moe.where,
            num_experts=moe.num_experts,
            experts_per_token=moe.experts_per_token,
            router=moe.router,
        )
        layer.set_submodule(family.block, block.train(layer.training))
        layer.set_submodule(family.down, Moved())


def _joined(linears: list[nn.Linear]) -> nn.Linear:
    first = linears[0]
    if len(linears) == 1:
        return first
    joined = nn.Linear(1, 1, bias=first.bias is not None, device="meta")
    joined.in_features, joined.out_features = first.in_features, sum(each.out_features for each in linears)
    joined.weight = nn.Parameter(torch.cat([each.weight.detach() for each in linears]))
    if first.bias is not None:
        joined.bias = nn.Parameter(torch.cat([each.bias.detach() for each in linears]))
    return joined


class WithExperts:
    """Build the dense backbone of the other class, then put experts where its config says."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)  # type: ignore[call-arg]
        moe = dict(config.moe)
        place_experts(self, MoeDescription(**moe | {"layers": tuple(moe["layers"])}))  # type: ignore[arg-type]


class MoeBertModel(WithExperts, BertModel):
    """BERT."""


class MoeCamembertModel(WithExperts, CamembertModel):
    """CamemBERT."""


class MoeRobertaModel(WithExperts, RobertaModel):
    """RoBERTa."""


class MoeXLMRobertaModel(WithExperts, XLMRobertaModel):
    """XLM-RoBERTa: BGE-M3, multilingual E5."""


class MoeModernBertModel(WithExperts, ModernBertModel):
    """ModernBERT."""


class MoeLlamaModel(WithExperts, LlamaModel):
    """Llama."""


class MoeMistralModel(WithExperts, MistralModel):
    """Mistral."""


class MoeQwen2Model(WithExperts, Qwen2Model):
    """Qwen 2."""


class MoeQwen3Model(WithExperts, Qwen3Model):
    """Qwen 3."""


MOE_MODELS: dict[str, Any] = {
    "bert": MoeBertModel,
    "camembert": MoeCamembertModel,
    "roberta": MoeRobertaModel,
    "xlm-roberta": MoeXLMRobertaModel,
    "modernbert": MoeModernBertModel,
    "llama": MoeLlamaModel,
    "mistral": MoeMistralModel,
    "qwen2": MoeQwen2Model,
    "qwen3": MoeQwen3Model,
}
"""By `model_type`, as FAMILIES."""
