"""Which expert a token goes to, where inference needs no more of the router than that.

Shapes: M tokens, E experts, H hidden size.
"""

import torch
from torch import nn


class Choice:
    """The expert of each row: the one with the highest of the router's logits, which count in float32.

    Of two experts the difference of the logits decides, and in bfloat16 its sign is found by a product of that dtype:
    the difference of their weights is written as a sum of three bfloat16 numbers, each 256 times smaller than the one
    before. What each comes to is rounded to a part of itself, so that the sign is right unless the difference is below
    1e-5 of the states' and weights' lengths, where float32 has some of its signs wrong, too.

    Args:
        weight_EH: The router's.
        dtype: What rows come in.
    """

    def __init__(self, weight_EH: torch.Tensor, dtype: torch.dtype) -> None:
        self._weight: torch.Tensor = weight_EH.detach().float()
        self._terms: torch.Tensor | None = None
        if dtype == torch.bfloat16 and len(weight_EH) == 2:
            left_H, terms = self._weight[1] - self._weight[0], []
            for _ in range(3):
                terms.append(left_H.to(dtype))
                left_H = left_H - terms[-1].float()
            self._terms = torch.stack(terms)

    def of(self, x_MH: torch.Tensor) -> torch.Tensor:
        """Return the expert of each row, int64 [M]."""
        if self._terms is None:
            return nn.functional.linear(x_MH.float(), self._weight).argmax(-1)
        return (nn.functional.linear(x_MH, self._terms).float().sum(-1) > 0).long()
