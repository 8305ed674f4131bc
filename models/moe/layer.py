"""A feed-forward block with experts in some of its projections.

Shapes: B texts, T tokens of one, M = B x T, H hidden size, F width inside the block (twice that before a gate), E
experts, K experts a token, S = M x K slots.
"""

from typing import Any

import torch
from torch import nn

from models.moe.experts import ExpertLinear, Slots
from models.moe.router import ROUTERS, Router


class One(torch.autograd.Function):
    """``x_SO`` times weights that are all 1: there is nothing to compute but the weights' gradient."""

    @staticmethod
    def forward(ctx: Any, x_SO: torch.Tensor, weights_S: torch.Tensor) -> torch.Tensor:  # noqa: ARG004 (all 1)
        """Return ``x_SO``."""
        ctx.save_for_backward(x_SO)
        return x_SO.view_as(x_SO)

    @staticmethod
    def backward(ctx: Any, grad_SO: torch.Tensor) -> Any:
        """Return the gradients of both factors."""
        return grad_SO, torch.einsum("so,so->s", grad_SO, ctx.saved_tensors[0]).float()


class Moved(nn.Module):
    """What stands where a projection was; its empty weight makes a dense model refuse the file."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", torch.empty(0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``x``."""
        return x


class MoeFeedForward(nn.Module):
    """Send each token to K of E experts, and return the weighted sum of what they make.

    With one expert a token the tokens stay sorted by expert through the whole block, so that only rows of the hidden
    size are ever moved. The router reads what enters the block, wherever the experts are.

    Args:
        up: Before the activation; of two halves the first is activated and gates the second.
        down: Behind it.
        activation: Between them.
        dropout: Behind the activation; the identity for none.
        gated: Whether ``up`` makes two halves.
        where: `up`, `down` or `ffn`: which of the two become experts.
        num_experts: E.
        experts_per_token: K.
        router: A name in ROUTERS.
    """

    def __init__(
        self,
        up: nn.Linear,
        down: nn.Linear,
        activation: nn.Module,
        dropout: nn.Module,
        gated: bool,
        where: str,
        num_experts: int,
        experts_per_token: int,
        router: str,
    ) -> None:
        super().__init__()
        self.where, self.gated, self.kind = where, gated, router
        self.num_experts, self.experts_per_token = num_experts, experts_per_token
        self.router = Router(num_experts, up.weight)
        self.up = up if where == "down" else ExpertLinear(up, num_experts)
        self.down = down if where == "up" else ExpertLinear(down, num_experts)
        self.activation, self.dropout = activation, dropout
        self.seen: list[tuple[torch.Tensor, torch.Tensor]] | None = None
        """Logits [M, E] and choices [M, K] of each pass, while somebody watches."""

    def forward(self, hidden_BTH: torch.Tensor) -> torch.Tensor:
        """Return the block's output [B, T, H]."""
        x_MH = hidden_BTH.flatten(0, -2)
        logits_ME = self.router(x_MH)
        chosen_MK = self._choose(logits_ME.detach())
        if self.seen is not None:
            self.seen.append((logits_ME, chosen_MK))
        weights_MK = ROUTERS[self.kind](logits_ME, chosen_MK)
        slots = Slots(chosen_MK, self.num_experts)
        weights_S = weights_MK.flatten()[slots.order_S]
        alone = self.experts_per_token == 1
        if self.where == "up":
            h_SF = self._weigh(self.up(slots.sort(x_MH), slots), weights_S)
            # Several experts must be added up before the activation, one may stay where it is until the end.
            h_SF = self._between(h_SF, slots) if alone else self._between(slots.unsort(h_SF))
            out = self.down(h_SF)
            return (slots.unsort(out) if alone else out).view_as(hidden_BTH)
        if self.where == "down":
            # The dense projection sees each token once.
            if alone:
                h_SF = self._between(self.up(slots.sort(x_MH)), slots)
            else:
                h_SF = slots.sort(self._between(self.up(x_MH)))
        else:
            h_SF = self._between(self.up(slots.sort(x_MH), slots), slots)
        return slots.unsort(self._weigh(self.down(h_SF, slots), weights_S)).view_as(hidden_BTH)

    def _choose(self, logits_ME: torch.Tensor) -> torch.Tensor:
        if self.experts_per_token == 1:
            return logits_ME.argmax(-1, keepdim=True)
        return logits_ME.topk(self.experts_per_token, dim=-1).indices

    def _between(self, h_XF: torch.Tensor, slots: Slots | None = None) -> torch.Tensor:
        if self.gated:
            activated, gate = h_XF.chunk(2, dim=-1)
            h_XF = self.activation(activated) * gate
        else:
            h_XF = self.activation(h_XF)
        if not self.training or float(getattr(self.dropout, "p", 0.0)) == 0.0:
            return h_XF
        if slots is None:
            return self.dropout(h_XF)
        # A dropout that draws by the text must see the rows of a text together.
        return slots.as_sorted(self.dropout(slots.by_token(h_XF)))

    def _weigh(self, h_SO: torch.Tensor, weights_S: torch.Tensor) -> torch.Tensor:
        if self.kind == "identity" and self.experts_per_token == 1:
            return One.apply(h_SO, weights_S) if weights_S.requires_grad else h_SO
        return h_SO * weights_S[:, None].to(h_SO.dtype)
