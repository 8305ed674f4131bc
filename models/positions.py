"""Positions as RoBERTa and its kin count them."""

import torch


def offset_positions(input_ids_BT: torch.Tensor, padding_id: int) -> torch.Tensor:
    """Return the row of the position table for every token: int64 [B, T].

    They begin behind the row of ``padding_id``, which a token of that id itself has, wherever a text holds one: it is
    not counted.

    Args:
        input_ids_BT: int64, padded to the right.
        padding_id: Of the model's own padding token.
    """
    real_BT = input_ids_BT != padding_id
    return real_BT.cumsum(1) * real_BT + padding_id
