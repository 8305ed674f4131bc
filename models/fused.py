"""A BERT backbone as one straight-line forward on oneDNN, for inference on a processor.

What it saves against the module tree: the copy of the bias that addmm makes before every product, two of the
three query-key-value products, and one pass over memory for each GELU and each residual. Same weights, same
arithmetic up to the rounding of the dtype; ``fuse`` declines whatever it does not know, and the caller then
runs the module tree.

Shapes: B texts, T padded tokens, M = B x T, H hidden size, F = intermediate size, h heads, d = H / h.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

# Layers of these families have one and the same structure; the number is where positions begin, given the
# padding id.
_FAMILIES = {"BertModel": False, "RobertaModel": True, "XLMRobertaModel": True, "CamembertModel": True}


class Product:
    """``x @ weight.T + bias``: the weight reordered once for oneDNN's matrix units, what follows fused.

    ``torch.ops.mkldnn`` is what torch.compile emits for a frozen linear layer; called by hand it needs no
    compiler.

    Args:
        weight_OI: [out, in].
        bias_O: [out].
        num_rows: Typical number of rows, a hint for the reordering.
    """

    def __init__(self, weight_OI: torch.Tensor, bias_O: torch.Tensor, num_rows: int = 4096) -> None:
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight_OI.detach().contiguous(), num_rows)
        self._bias = bias_O.detach().contiguous()

    def plain(self, x_MI: torch.Tensor) -> torch.Tensor:
        """Return the product."""
        return torch.ops.mkldnn._linear_pointwise(x_MI, self._weight, self._bias, "none", [], "")

    def gelu(self, x_MI: torch.Tensor) -> torch.Tensor:
        """Return the exact (erf) GELU of the product."""
        return torch.ops.mkldnn._linear_pointwise(x_MI, self._weight, self._bias, "gelu", [], "none")

    def plus(self, x_MI: torch.Tensor, residual_MO: torch.Tensor) -> torch.Tensor:
        """Return the product plus a residual."""
        return torch.ops.mkldnn._linear_pointwise.binary(x_MI, residual_MO, self._weight, self._bias, "add")


@dataclass(frozen=True)
class FusedLayer:
    """The weights of one transformer layer, packed."""

    query_key_value: Product
    attention_output: Product
    attention_norm: nn.LayerNorm
    up: Product
    down: Product
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
        return self.output_norm(self.down.plus(self.up.gelu(x_MH), x_MH))


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
        first = int(table.padding_idx) + 1 if _FAMILIES[type(backbone).__name__] else 0
        self._positions = (positions[first:] + types[0]).to(self._words.dtype)
        self._norm: nn.LayerNorm = table.LayerNorm
        self._layers = [_pack(layer) for layer in backbone.encoder.layer]

    def __call__(self, input_ids_BT: torch.Tensor, attention_mask_BT: torch.Tensor) -> torch.Tensor:
        """Return the last hidden states [B, T, H].

        Args:
            input_ids_BT: int64, padded to the right.
            attention_mask_BT: 1 where a token is no padding.
        """
        num_texts, width = input_ids_BT.shape
        x_BTH = self._norm(nn.functional.embedding(input_ids_BT, self._words) + self._positions[:width])
        mask_B11T = None
        if not bool(attention_mask_BT.all()):
            lowest = torch.finfo(x_BTH.dtype).min
            mask_B11T = ((1 - attention_mask_BT) * lowest).to(x_BTH.dtype)[:, None, None, :]
        x_MH = x_BTH.view(num_texts * width, -1)
        for layer in self._layers:
            x_MH = layer.forward(x_MH, mask_B11T, num_texts)
        return x_MH.view(num_texts, width, -1)


def is_fusible(backbone: Any) -> bool:
    """Return whether ``FusedBackbone`` computes what ``backbone`` does.

    It must be a plain model, on a processor with oneDNN.

    Adapters, experts and other replacements change the type of a layer, and are declined for that.
    """
    if type(backbone).__name__ not in _FAMILIES or not torch.backends.mkldnn.is_available():
        return False
    config = backbone.config
    weight = next(backbone.parameters())
    if config.is_decoder or config.hidden_act != "gelu" or weight.device.type != "cpu":
        return False
    if weight.dtype == torch.bfloat16:
        if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            return False
    elif weight.dtype != torch.float32:
        return False
    leaves = {
        "LayerNorm": nn.LayerNorm,
        "Dropout": nn.Dropout,
        "Embedding": nn.Embedding,
        "Linear": nn.Linear,
    }
    for module in backbone.encoder.modules():
        plain = type(module) is leaves.get(type(module).__name__)
        known = plain or type(module).__module__ in _modules_of(backbone)
        if not known or module._forward_hooks or module._forward_pre_hooks:
            return False
    return True


def _modules_of(backbone: nn.Module) -> tuple[str, ...]:
    return type(backbone).__module__, "torch.nn.modules.container", "transformers.activations"


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
        up=_product(layer.intermediate.dense),
        down=_product(layer.output.dense),
        output_norm=layer.output.LayerNorm,
        num_heads=int(heads.num_attention_heads),
    )


def _product(linear: nn.Linear) -> Product:
    return Product(linear.weight, linear.bias)
