"""Which experts a token goes to, and the weights of what they make (arXiv 2101.03961).

Shapes: M tokens, H hidden size, E experts, K experts a token.
"""

from collections.abc import Callable

import torch
from torch import nn


class Router(nn.Module):
    """A linear layer without bias: one logit an expert; 0 until it is given weights.

    Args:
        num_experts: E.
        like_OI: A weight of the layer, for width, dtype and device.
    """

    def __init__(self, num_experts: int, like_OI: torch.Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(like_OI.new_zeros(num_experts, like_OI.shape[1]))

    def forward(self, x_MH: torch.Tensor) -> torch.Tensor:
        """Return logits [M, E] in float32: in bfloat16 rounding would decide between close experts."""
        with torch.autocast(x_MH.device.type, enabled=False):
            return nn.functional.linear(x_MH.float(), self.weight.float())


def identity_weights(logits_ME: torch.Tensor, chosen_MK: torch.Tensor) -> torch.Tensor:
    """Return p / stopgrad(p) / K: the value of a plain mean, while the gradient reaches the router.

    Through logarithms, because p of a second expert may underflow.
    """
    log_MK = logits_ME.log_softmax(-1).gather(1, chosen_MK)
    return (log_MK - log_MK.detach()).exp() / chosen_MK.shape[1]


def switch_weights(logits_ME: torch.Tensor, chosen_MK: torch.Tensor) -> torch.Tensor:
    """Return the probabilities of the chosen experts among all (arXiv 2101.03961, eq. 2)."""
    return logits_ME.softmax(-1).gather(1, chosen_MK)


def clp_weights(logits_ME: torch.Tensor, chosen_MK: torch.Tensor) -> torch.Tensor:
    """Return the softmax over the chosen logits alone, as the official code of CLP does.

    With one expert a token that is 1 and its gradient exactly 0: the router never learns from the task.
    """
    return logits_ME.gather(1, chosen_MK).softmax(-1)


ROUTERS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "identity": identity_weights,
    "switch": switch_weights,
    "clp": clp_weights,
}
"""float32 logits [M, E] and chosen experts [M, K] -> float32 weights [M, K]."""
