"""A BERT backbone as one straight-line forward on oneDNN, for inference on a processor.

What it saves against the module tree: the copy of the bias that addmm makes before every product, two of the
three query-key-value products, and one pass over memory for each GELU and each residual. Same weights, same
arithmetic up to the rounding of the dtype; ``is_fusible`` declines whatever it does not know, and the caller then
runs the module tree.

Shapes: B texts, T padded tokens, M = B x T, H hidden size, F = intermediate size, h heads, d = H / h.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from models.moe.choice import Choice
from models.moe.experts import ExpertLinear
from models.moe.layer import MoeFeedForward, Moved
from models.moe.router import Router
from models.positions import offset_positions

# Experts are given their rows in multiples of this, so that their products have few shapes: each is planned once.
_ROW_MULTIPLE = 64

_PLAIN = (
    *(nn.LayerNorm, nn.Dropout, nn.Embedding, nn.Linear, nn.Identity),
    *(MoeFeedForward, ExpertLinear, Router, Moved),
)

# Layers of these families have one and the same structure, with experts too; the truth is of whether positions begin
# behind the padding id.
_FAMILIES = {"BertModel": False, "RobertaModel": True, "XLMRobertaModel": True, "CamembertModel": True}


class Product:
    """``x @ weight.T + bias``: the weight reordered once for oneDNN's matrix units, what follows fused.

    ``torch.ops.mkldnn`` is what torch.compile emits for a frozen linear layer; called by hand it needs no
    compiler.

    Args:
        weight_OI: [out, in].
        bias_O: [out]; None: none is added.
        num_rows: Typical number of rows, a hint for the reordering.
    """

    def __init__(self, weight_OI: torch.Tensor, bias_O: torch.Tensor | None, num_rows: int = 4096) -> None:
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight_OI.detach().contiguous(), num_rows)
        self._bias = None if bias_O is None else bias_O.detach().contiguous()

    def plain(self, x_MI: torch.Tensor) -> torch.Tensor:
        """Return the product."""
        return torch.ops.mkldnn._linear_pointwise(x_MI, self._weight, self._bias, "none", [], "")

    def gelu(self, x_MI: torch.Tensor) -> torch.Tensor:
        """Return the exact (erf) GELU of the product."""
        return torch.ops.mkldnn._linear_pointwise(x_MI, self._weight, self._bias, "gelu", [], "none")

    def silu(self, x_MI: torch.Tensor) -> torch.Tensor:
        """Return the SiLU of the product."""
        return torch.ops.mkldnn._linear_pointwise(x_MI, self._weight, self._bias, "swish", [], "")

    def times(self, x_MI: torch.Tensor, gate_MO: torch.Tensor) -> torch.Tensor:
        """Return the product times a gate."""
        return torch.ops.mkldnn._linear_pointwise.binary(x_MI, gate_MO, self._weight, self._bias, "mul")

    def plus(self, x_MI: torch.Tensor, residual_MO: torch.Tensor) -> torch.Tensor:
        """Return the product plus a residual."""
        return torch.ops.mkldnn._linear_pointwise.binary(x_MI, residual_MO, self._weight, self._bias, "add")


class FusedFeedForward:
    """A feed-forward block and the residual around it.

    Args:
        up: Before the activation.
        down: Behind it.
    """

    def __init__(self, up: Product, down: Product) -> None:
        self._up, self._down = up, down

    def plus(self, x_MH: torch.Tensor) -> torch.Tensor:
        """Return what the block makes of each row, plus the row."""
        return self._down.plus(self._up.gelu(x_MH), x_MH)


class FusedExperts:
    """A feed-forward block with experts, one a token, and the residual around it.

    The rows of an expert pass through the whole block together, so only rows of the hidden size are moved.

    Args:
        block: One that weighs by 1: ``_is_alone`` is true.
    """

    def __init__(self, block: MoeFeedForward) -> None:
        self._choice = Choice(block.router.weight, next(block.up.parameters()).dtype)
        ups, downs = (_products(each, block.num_experts) for each in (block.up, block.down))
        self._experts = [FusedFeedForward(up, down) for up, down in zip(ups, downs, strict=True)]

    def plus(self, x_MH: torch.Tensor) -> torch.Tensor:
        """Return what the block makes of each row, plus the row."""
        chosen_M = self._choice.of(x_MH)
        out_MH = torch.empty_like(x_MH)
        for expert, feed_forward in enumerate(self._experts):
            rows = (chosen_M == expert).nonzero().flatten()
            filled = nn.functional.pad(rows, (0, -len(rows) % _ROW_MULTIPLE))
            out_MH.index_copy_(0, rows, feed_forward.plus(x_MH.index_select(0, filled))[: len(rows)])
        return out_MH


@dataclass(frozen=True)
class FusedLayer:
    """The weights of one transformer layer, packed."""

    query_key_value: Product
    attention_output: Product
    attention_norm: nn.LayerNorm
    feed_forward: FusedFeedForward | FusedExperts
    output_norm: nn.LayerNorm
    num_heads: int

    def forward(self, x_MH: torch.Tensor, mask_B11T: torch.Tensor | None, num_texts: int) -> torch.Tensor:
        """Return the layer's output [M, H]."""
        head = x_MH.shape[1] // self.num_heads
        qkv = self.query_key_value.plain(x_MH).view(num_texts, -1, 3, self.num_heads, head)
        q_BhTd, k_BhTd, v_BhTd = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        attended_BhTd = nn.functional.scaled_dot_product_attention(
            q_BhTd, k_BhTd, v_BhTd, attn_mask=mask_B11T
        )
        attended_MH = attended_BhTd.transpose(1, 2).reshape(x_MH.shape)
        x_MH = self.attention_norm(self.attention_output.plus(attended_MH, x_MH))
        return self.output_norm(self.feed_forward.plus(x_MH))


class FusedBackbone:
    """A BERT, RoBERTa or XLM-RoBERTa backbone; holds copies of the weights, stale when they change.

    Args:
        backbone: A model for which ``is_fusible`` is true.
    """

    def __init__(self, backbone: Any) -> None:
        table = backbone.embeddings
        self._words: torch.Tensor = table.word_embeddings.weight.detach()
        positions = table.position_embeddings.weight.detach().float()
        types = table.token_type_embeddings.weight.detach().float()
        # The first type is part of the positions.
        self._types = (types - types[0]).to(self._words.dtype)
        self._padding = int(table.padding_idx) if _FAMILIES[_family(backbone)] else None
        self._positions = (positions + types[0]).to(self._words.dtype)
        self._norm: nn.LayerNorm = table.LayerNorm
        self._layers = [_pack(layer) for layer in backbone.encoder.layer]

    def __call__(
        self,
        input_ids_BT: torch.Tensor,
        attention_mask_BT: torch.Tensor,
        types_BT: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the last hidden states [B, T, H].

        Args:
            input_ids_BT: int64, padded to the right.
            attention_mask_BT: 1 where a token is no padding.
            types_BT: Token types. None: all have the first one.
        """
        num_texts, width = input_ids_BT.shape
        x_BTH = nn.functional.embedding(input_ids_BT, self._words) + self._position_states(input_ids_BT)
        if types_BT is not None:
            x_BTH = x_BTH + nn.functional.embedding(types_BT, self._types)
        x_BTH = self._norm(x_BTH)
        mask_B11T = None
        if not bool(attention_mask_BT.all()):
            lowest = torch.finfo(x_BTH.dtype).min
            mask_B11T = ((1 - attention_mask_BT) * lowest).to(x_BTH.dtype)[:, None, None, :]
        x_MH = x_BTH.view(num_texts * width, -1)
        for layer in self._layers:
            x_MH = layer.forward(x_MH, mask_B11T, num_texts)
        return x_MH.view(num_texts, width, -1)

    def _position_states(self, input_ids_BT: torch.Tensor) -> torch.Tensor:
        width = input_ids_BT.shape[1]
        if self._padding is None:
            return self._positions[:width]
        if bool((input_ids_BT == self._padding).any()):
            return nn.functional.embedding(offset_positions(input_ids_BT, self._padding), self._positions)
        return self._positions[self._padding + 1 :][:width]


def is_fusible(backbone: Any) -> bool:
    """Return whether ``FusedBackbone`` computes what ``backbone`` does.

    It must be a plain model, or one with experts that are alone with a token, on a processor with oneDNN.

    Adapters and other replacements change the type of a layer, and are declined for that.
    """
    # Code of a directory may have the name, and the very classes, of what it changes.
    if not type(backbone).__module__.startswith(("transformers.models.", "models.moe.")):
        return False
    if _family(backbone) not in _FAMILIES or not is_packable_weight(next(backbone.parameters())):
        return False
    config = backbone.config
    if config.is_decoder or config.hidden_act != "gelu":
        return False
    own = (type(backbone.encoder).__module__, "torch.nn.modules.container", "transformers.activations")
    modules = [*backbone.encoder.modules()]
    blocks = (module for module in modules if isinstance(module, MoeFeedForward))
    return are_plain(modules, _PLAIN, own) and all(map(_is_alone, blocks))


def are_plain(modules: Iterable[nn.Module], classes: tuple[type, ...], files: tuple[str, ...]) -> bool:
    """Return whether all modules are of these classes, or of classes of these files, and nothing is hooked to one."""
    return all(
        (type(module) in classes or type(module).__module__ in files)
        and not (module._forward_hooks or module._forward_pre_hooks)
        for module in modules
    )


def is_packable_weight(weight: torch.Tensor) -> bool:
    """Return whether ``Product`` takes a weight of this dtype, on this processor."""
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if weight.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return weight.dtype == torch.float32


def _family(backbone: nn.Module) -> str:
    return type(backbone).__name__.removeprefix("Moe")


def _is_alone(block: MoeFeedForward) -> bool:
    """Return whether a token has one expert whose weight is 1."""
    return block.experts_per_token == 1 and block.kind != "switch" and not block.gated


def _pack(layer: Any) -> FusedLayer:
    attention = layer.attention
    heads = attention.self
    projections = (heads.query, heads.key, heads.value)
    return FusedLayer(
        query_key_value=Product(
            torch.cat([linear.weight for linear in projections]),
            torch.cat([linear.bias for linear in projections]),
        ),
        attention_output=_product(attention.output.dense),
        attention_norm=attention.output.LayerNorm,
        feed_forward=_feed_forward(layer),
        output_norm=layer.output.LayerNorm,
        num_heads=int(heads.num_attention_heads),
    )


def _feed_forward(layer: Any) -> FusedFeedForward | FusedExperts:
    if isinstance(layer.intermediate, MoeFeedForward):
        return FusedExperts(layer.intermediate)
    return FusedFeedForward(_product(layer.intermediate.dense), _product(layer.output.dense))


def _products(layer: nn.Linear | ExpertLinear, num_experts: int) -> list[Product]:
    """Return a product an expert; of a dense layer one and the same."""
    if isinstance(layer, ExpertLinear):
        assert layer.bias is not None, "these families have biases"
        return [Product(weight, bias) for weight, bias in zip(layer.weight, layer.bias, strict=True)]
    return [_product(layer)] * num_experts


def _product(linear: nn.Linear) -> Product:
    return Product(linear.weight, linear.bias)
