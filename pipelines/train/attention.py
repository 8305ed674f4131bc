"""Attention for training as plain matrix products, in the dtype of autocast.

Shapes: B texts, H heads, T tokens, d dimensions of a head.
"""

import torch
from torch import nn

NAME = "stope_plain"


def use_plain_attention(backbone: nn.Module) -> None:
    """Switch ``backbone`` to this module's attention.

    For dropout, whose masks fused attention draws itself, and for bfloat16 on processors: there torch's
    scaled_dot_product_attention has a scalar backward pass, which takes half of a training step of a small encoder
    (torch 2.13: 2,900 tokens/s against 5,400 with plain matrix products). In float32 without dropout it is the other
    way round: plain products take 1.4 times as long.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import eager_mask

    AttentionInterface.register(NAME, plain_attention)
    AttentionMaskInterface.register(NAME, eager_mask)
    backbone.set_attn_implementation(NAME)  # type: ignore[operator]


def plain_attention(
    module: nn.Module,
    query_BHTd: torch.Tensor,
    key_BHTd: torch.Tensor,
    value_BHTd: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_options: object,
) -> tuple[torch.Tensor, None]:
    """Attend, with the signature that transformers calls.

    Autocast is off inside: the inputs have its dtype already, and it would turn the softmax to float32 and
    back, which costs more than both products. The softmax sums in float32 whatever its dtype.

    Dropout draws by the text: pipelines.train.dropout has told ``module`` where from.

    Returns:
        [B, T, H, d], and no weights.
    """
    groups = query_BHTd.shape[1] // key_BHTd.shape[1]
    if groups > 1:
        key_BHTd, value_BHTd = (x.repeat_interleave(groups, dim=1) for x in (key_BHTd, value_BHTd))
    scale = query_BHTd.shape[-1] ** -0.5 if scaling is None else scaling
    with torch.autocast(query_BHTd.device.type, enabled=False):
        scores_BHTT = (query_BHTd * scale) @ key_BHTd.transpose(2, 3)
        if attention_mask is not None:
            # The smallest float32 is -inf in bfloat16, and padding beyond a window, which sees no token, would be NaN.
            mask = attention_mask[..., : scores_BHTT.shape[-1]].clamp(min=torch.finfo(scores_BHTT.dtype).min)
            scores_BHTT = scores_BHTT + mask.to(scores_BHTT.dtype)
        weights_BHTT = scores_BHTT.softmax(dim=-1)
        if dropout and module.training:
            weights_BHTT = module.stope_rows.drop(weights_BHTT, dropout, module.stope_layer)  # type: ignore[operator, union-attr]
        return (weights_BHTT @ value_BHTd.to(weights_BHTT.dtype)).transpose(1, 2).contiguous(), None
