"""Poolers: one embedding a text from the hidden states of its tokens.

Shapes: B texts, T padded tokens, D dimensions.
"""

from collections.abc import Callable

import torch

Pooler = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def mean(hidden_BTD: torch.Tensor, pool_mask_BT: torch.Tensor) -> torch.Tensor:
    """Average the hidden states of the pooled tokens.

    ``emb = sum_t mask_t h_t / max(1, sum_t mask_t)``. The sum runs in float32: over hundreds of tokens
    bfloat16 would lose the small terms. The product with a 0/1 mask is exact in any dtype.

    Args:
        hidden_BTD: Hidden states, any float dtype.
        pool_mask_BT: 1 or True where a token counts.

    Returns:
        float32 [B, D].
    """
    total_BD = (hidden_BTD * pool_mask_BT.unsqueeze(-1).to(hidden_BTD.dtype)).sum(dim=1, dtype=torch.float32)
    return total_BD / pool_mask_BT.sum(dim=1, keepdim=True).clamp(min=1).to(torch.float32)


def cls(hidden_BTD: torch.Tensor, pool_mask_BT: torch.Tensor) -> torch.Tensor:  # noqa: ARG001 (a Pooler)
    """Take the hidden state of the first token, whatever the mask says.

    Args:
        hidden_BTD: Hidden states, any float dtype.
        pool_mask_BT: Unused; every pooler has the same signature.

    Returns:
        float32 [B, D].
    """
    return hidden_BTD[:, 0].to(torch.float32)


def last(hidden_BTD: torch.Tensor, pool_mask_BT: torch.Tensor) -> torch.Tensor:
    """Take the hidden state of the last pooled token; padding stands to the right.

    Args:
        hidden_BTD: Hidden states, any float dtype.
        pool_mask_BT: 1 or True where a token counts; at least one a row.

    Returns:
        float32 [B, D].
    """
    positions_T = torch.arange(1, hidden_BTD.shape[1] + 1, device=hidden_BTD.device)
    last_B = (positions_T * pool_mask_BT.to(positions_T.dtype)).argmax(dim=1)
    return hidden_BTD[torch.arange(len(last_B), device=last_B.device), last_B].to(torch.float32)


POOLERS: dict[str, Pooler] = {"mean": mean, "cls": cls, "last": last}

LATENT_ATTENTION = "latent_attention"
"""The pooler that has weights of its own; see models/latent_attention.py."""

POOLINGS = (*POOLERS, LATENT_ATTENTION)
