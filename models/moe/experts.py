"""Linear layers with stacked weights, one an expert, each applied to the tokens that were sent to it.

No token is ever dropped, so what a text becomes does not depend on the texts beside it.

Shapes: M tokens, E experts, K experts a token, S = M x K slots sorted by expert, I inputs, O outputs.
"""

from itertools import pairwise
from typing import Any

import torch
from torch import nn


class Reordered(torch.autograd.Function):
    """Rows in another order; the gradient is brought back by the inverse order, where indexing would scatter it."""

    @staticmethod
    def forward(ctx: Any, x_SO: torch.Tensor, order_S: torch.Tensor, inverse_S: torch.Tensor) -> torch.Tensor:
        """Return ``x_SO[order_S]``."""
        ctx.save_for_backward(inverse_S)
        return x_SO.index_select(0, order_S)

    @staticmethod
    def backward(ctx: Any, grad_SO: torch.Tensor) -> Any:
        """Return the gradient of ``x_SO``."""
        return grad_SO.index_select(0, ctx.saved_tensors[0]), None, None


class Slots:
    """One slot for each token and chosen expert, sorted by expert, tokens in order within one.

    Args:
        chosen_MK: The experts of each token.
        num_experts: E.
    """

    def __init__(self, chosen_MK: torch.Tensor, num_experts: int) -> None:
        self.per_token = chosen_MK.shape[1]
        self.experts_S, self.order_S = chosen_MK.flatten().sort(stable=True)
        self.places_S = torch.empty_like(self.order_S)
        self.places_S[self.order_S] = torch.arange(len(self.order_S), device=chosen_MK.device)
        every_E = torch.arange(num_experts, device=chosen_MK.device)
        self.ends_E = torch.searchsorted(self.experts_S, every_E, right=True, out_int32=True)

    def sort(self, x_MI: torch.Tensor) -> torch.Tensor:
        """Return what each slot is given, [S, I]."""
        if self.per_token > 1:
            x_MI = x_MI.repeat_interleave(self.per_token, dim=0)
        return self.as_sorted(x_MI)

    def as_sorted(self, x_SO: torch.Tensor) -> torch.Tensor:
        """Return rows that are in the order of the tokens sorted by expert."""
        return Reordered.apply(x_SO, self.order_S, self.places_S)

    def by_token(self, y_SO: torch.Tensor) -> torch.Tensor:
        """Return rows that are sorted by expert in the order of the tokens, those of one token together."""
        return Reordered.apply(y_SO, self.places_S, self.order_S)

    def unsort(self, y_SO: torch.Tensor) -> torch.Tensor:
        """Return the sum over the slots of each token, [M, O]."""
        y_SO = self.by_token(y_SO)
        return y_SO.view(-1, self.per_token, y_SO.shape[1]).sum(1) if self.per_token > 1 else y_SO


class Looped(torch.autograd.Function):
    """Each expert's product, written to its place both ways: no list of parts, and no copy that joins them."""

    @staticmethod
    def forward(
        ctx: Any, x_SI: torch.Tensor, weight_EOI: torch.Tensor, bias_EO: torch.Tensor | None, ends: list[int]
    ) -> torch.Tensor:
        """Return [S, O]; the rows of expert e end before ``ends[e]``."""
        ctx.save_for_backward(x_SI, weight_EOI)
        ctx.spans, ctx.biased = [slice(*span) for span in pairwise([0, *ends])], bias_EO is not None
        out_SO = x_SI.new_empty(len(x_SI), weight_EOI.shape[1])
        for expert, rows in enumerate(ctx.spans):
            if bias_EO is None:
                torch.mm(x_SI[rows], weight_EOI[expert].T, out=out_SO[rows])
            else:
                torch.addmm(bias_EO[expert], x_SI[rows], weight_EOI[expert].T, out=out_SO[rows])
        return out_SO

    @staticmethod
    def backward(ctx: Any, grad_SO: torch.Tensor) -> Any:
        """Return the gradients of inputs, weights and biases; 0 for an expert without tokens."""
        x_SI, weight_EOI = ctx.saved_tensors
        grad_x, grad_weight = torch.empty_like(x_SI), torch.empty_like(weight_EOI)
        for expert, rows in enumerate(ctx.spans):
            torch.mm(grad_SO[rows], weight_EOI[expert], out=grad_x[rows])
            torch.mm(grad_SO[rows].T, x_SI[rows], out=grad_weight[expert])
        grad_bias = torch.stack([grad_SO[rows].sum(0) for rows in ctx.spans]) if ctx.biased else None
        return grad_x, grad_weight, grad_bias, None


def grouped_linear(
    x_SI: torch.Tensor, weight_EOI: torch.Tensor, bias_EO: torch.Tensor | None, slots: Slots, kernel: bool
) -> torch.Tensor:
    """Multiply each slot with the weight of its expert.

    Args:
        x_SI: As ``slots`` sorts it, in the dtype of the weight.
        weight_EOI: Of all experts.
        bias_EO: None for none.
        slots: Which expert each row belongs to.
        kernel: Use torch's grouped product, which never waits for the device; else one product an expert, which is
            as fast on a processor and adds the bias in passing.

    Returns:
        [S, O].
    """
    if not kernel:
        return Looped.apply(x_SI, weight_EOI, bias_EO, slots.ends_E.tolist())
    out_SO = nn.functional.grouped_mm(x_SI, weight_EOI.transpose(1, 2), offs=slots.ends_E)
    return out_SO if bias_EO is None else out_SO + bias_EO[slots.experts_S]


def has_kernel(weight_EOI: torch.Tensor) -> bool:
    """Return whether torch's grouped product takes these weights and pays: GPUs since 2020, rows of 16 bytes."""
    if weight_EOI.device.type != "cuda" or torch.cuda.get_device_capability(weight_EOI.device) < (8, 0):
        return False
    return all(size * weight_EOI.element_size() % 16 == 0 for size in weight_EOI.shape[1:])


class ExpertLinear(nn.Module):
    """A linear layer with stacked weights [E, O, I], each a copy of the dense one to begin with.

    Args:
        dense: Copied.
        num_experts: E.
    """

    def __init__(self, dense: nn.Linear, num_experts: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(dense.weight.detach().expand(num_experts, -1, -1).clone())
        biased = dense.bias is not None
        self.bias = nn.Parameter(dense.bias.detach().expand(num_experts, -1).clone()) if biased else None

    def forward(self, x_SI: torch.Tensor, slots: Slots) -> torch.Tensor:
        """Return [S, O]; under autocast in its dtype, which grouped products would not heed."""
        kind = x_SI.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else self.weight.dtype
        weight_EOI = self.weight.to(dtype)
        bias_EO = None if self.bias is None else self.bias.to(dtype)
        return grouped_linear(x_SI.to(dtype), weight_EOI, bias_EO, slots, has_kernel(weight_EOI))
