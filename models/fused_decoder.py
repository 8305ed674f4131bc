"""The layers of a Llama-like decoder as straight-line code on oneDNN, for inference on a processor.

The token table, the positions and the masks stay those of transformers, so that windows, scaled positions and both
directions of attention are what they are there; a layer's products are packed, and what follows them fused. Same
weights, same arithmetic up to the rounding of the dtype.

Shapes: B texts, T padded tokens, M = B x T, H hidden size, n query and g key heads of d dimensions.
"""

import copy
from typing import Any

import torch
from torch import nn

from models.fused import Product, are_plain, is_packable_weight

_FAMILIES = ("LlamaModel", "MistralModel", "Qwen2Model", "Qwen3Model")
MAX_PACKED_BYTES = 2 * 2**30
"""Packed weights are held beside those of the model: larger decoders stay as they are."""


class FusedDecoderLayer(nn.Module):
    """One layer, with the signature that the decoder calls; it holds copies of the weights.

    Args:
        layer: Of one of the families above.
        causal: Whether a token sees those before it alone, where no mask says otherwise.
    """

    def __init__(self, layer: Any, causal: bool) -> None:
        super().__init__()
        attention, block = layer.self_attn, layer.mlp
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        self._head = int(attention.head_dim)
        self._num_queries, self._num_keys = (each.out_features // self._head for each in projections[:2])
        self._scale, self._causal = float(attention.scaling), causal
        self._query_key_value = Product(
            torch.cat([each.weight for each in projections]),
            None if attention.q_proj.bias is None else torch.cat([each.bias for each in projections]),
        )
        self._attended, self._gate, self._up, self._down = (
            Product(each.weight, each.bias)
            for each in (attention.o_proj, block.gate_proj, block.up_proj, block.down_proj)
        )
        self._norms = _Norm(layer.input_layernorm), _Norm(layer.post_attention_layernorm)
        self._head_norm: _Norm | None = None
        if hasattr(attention, "q_norm"):
            self._head_norm = _Norm(attention.q_norm)
            counts = ((attention.q_norm, self._num_queries), (attention.k_norm, self._num_keys))
            self._head_norm.weight = torch.cat([norm.weight.detach().repeat(n, 1) for norm, n in counts])

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
        **_options: object,
    ) -> torch.Tensor:
        """Return the layer's output [B, T, H]."""
        assert position_embeddings is not None
        shape = hidden_states.shape
        x_MH = hidden_states.reshape(-1, shape[-1])
        heads_BTnd = self._query_key_value.plain(self._norms[0](x_MH)).view(*shape[:2], -1, self._head)
        rotated_BTnd = self._rotated(heads_BTnd[:, :, : -self._num_keys], *position_embeddings)
        attended_BnTd = nn.functional.scaled_dot_product_attention(
            rotated_BTnd[:, :, : self._num_queries].transpose(1, 2),
            rotated_BTnd[:, :, self._num_queries :].transpose(1, 2),
            heads_BTnd[:, :, -self._num_keys :].transpose(1, 2),
            attn_mask=attention_mask,
            is_causal=self._causal and attention_mask is None and shape[1] > 1,
            scale=self._scale,
            enable_gqa=self._num_queries != self._num_keys,
        )
        x_MH = self._attended.plus(attended_BnTd.transpose(1, 2).reshape(len(x_MH), -1), x_MH)
        normed_MH = self._norms[1](x_MH)
        gated = self._up.times(normed_MH, self._gate.silu(normed_MH))
        return self._down.plus(gated, x_MH).view(shape)

    def _rotated(self, x_BTnd: torch.Tensor, cos_BTd: torch.Tensor, sin_BTd: torch.Tensor) -> torch.Tensor:
        if self._head_norm is not None:
            x_BTnd = self._head_norm(x_BTnd)
        first, second = x_BTnd.chunk(2, dim=-1)
        low, high = sin_BTd.chunk(2, dim=-1)
        sin_BTd = torch.cat([-low, high], dim=-1)
        swapped_BTnd = torch.cat([second, first], dim=-1)
        return torch.addcmul(x_BTnd * cos_BTd.unsqueeze(2), swapped_BTnd, sin_BTd.unsqueeze(2))


class _Norm(nn.Module):
    """Divide by the root mean square of the last dimension, in float32; ``weight`` holds a row a head, or one."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.weight: torch.Tensor = norm.weight.detach()
        self._epsilon = float(norm.variance_epsilon)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = x.to(torch.float32, copy=True)
        length = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        wide.mul_(torch.rsqrt(length.square_().div_(x.shape[-1]).add_(self._epsilon)))
        return wide.to(x.dtype) * self.weight


class FusedDecoder:
    """A decoder of one of the families above; holds copies of the weights, stale when they change.

    Args:
        backbone: A model for which ``is_fusible_decoder`` is true.
    """

    def __init__(self, backbone: Any) -> None:
        causal = getattr(backbone.config, "is_causal", True) is not False
        self._model = copy.copy(backbone)
        layers = nn.ModuleList(FusedDecoderLayer(layer, causal) for layer in backbone.layers)
        self._model._modules = {**backbone._modules, "layers": layers, "norm": _Norm(backbone.norm)}

    def __call__(
        self,
        input_ids_BT: torch.Tensor,
        attention_mask_BT: torch.Tensor,
        _types_BT: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the last hidden states [B, T, H].

        Args:
            input_ids_BT: int64, padded to the right.
            attention_mask_BT: 1 where a token is no padding.
        """
        states_BTH: torch.Tensor = self._model(
            input_ids=input_ids_BT, attention_mask=attention_mask_BT, use_cache=False
        ).last_hidden_state
        return states_BTH


def is_fusible_decoder(backbone: Any) -> bool:
    """Return whether ``FusedDecoder`` computes what ``backbone`` does, and its copies fit.

    Experts, adapters and weights in few bits change the type of a layer, and are declined for that.
    """
    own = type(backbone).__module__
    if type(backbone).__name__ not in _FAMILIES or not own.startswith("transformers.models."):
        return False
    config = backbone.config
    if config.hidden_act != "silu" or config._attn_implementation != "sdpa":
        return False
    if not is_packable_weight(next(backbone.parameters())):
        return False
    weights = [*backbone.layers.parameters()]
    if sum(weight.numel() * weight.element_size() for weight in weights) > MAX_PACKED_BYTES:
        return False
    files = ("torch.nn.modules.container", "torch.nn.modules.activation", "transformers.activations")
    return are_plain(backbone.layers.modules(), (nn.Linear,), (own, *files))
