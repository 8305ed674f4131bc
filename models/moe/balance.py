"""How evenly the routers use their experts: what they chose in some passes, and the loss that evens it out.

Shapes: L layers with experts, E experts, K experts a token, M = B x T tokens of a pass, padding among them.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from models.moe.upcycle import moe_blocks


@dataclass(frozen=True)
class Usage:
    """What routers did with some tokens; that of several passes or ranks adds up.

    Args:
        counts_LE: float32, how often each expert was chosen; no gradient.
        probability_LE: float32, the sum of each expert's probability over the tokens, with its graph.
        num_tokens: float32 scalar, padding not counted.
    """

    counts_LE: torch.Tensor
    probability_LE: torch.Tensor
    num_tokens: torch.Tensor

    @property
    def shares_LE(self) -> torch.Tensor:
        """The share of the choices that fell on each expert; every layer's add up to 1."""
        return self.counts_LE / self.counts_LE.sum(-1, keepdim=True)


class Watch:
    """The routers' logits and choices of the passes that ran while it was kept.

    Args:
        seen: Layer by layer, pass by pass.
    """

    def __init__(self, seen: list[list[tuple[torch.Tensor, torch.Tensor]]]) -> None:
        self.seen = seen

    def usage(self, masks: Sequence[torch.Tensor]) -> Usage:
        """Add up over the passes.

        Args:
            masks: [B, T] of each pass, in their order: 1 where a token is to be counted, 0 for padding.
        """
        assert all(len(of_layer) == len(masks) for of_layer in self.seen), "a pass without a mask"
        counts, sums = [], []
        weights = [mask_BT.flatten().to(self.seen[0][0][0].device, torch.float32) for mask_BT in masks]
        for of_layer in self.seen:
            chosen, probability = [], []
            for (logits_ME, chosen_MK), weight_M in zip(of_layer, weights, strict=True):
                every_ME = torch.zeros_like(logits_ME, requires_grad=False)
                chosen.append(weight_M @ every_ME.scatter(1, chosen_MK, 1.0))
                probability.append(weight_M @ logits_ME.softmax(-1))
            counts.append(torch.stack(chosen).sum(0))
            sums.append(torch.stack(probability).sum(0))
        num_tokens = torch.stack([weight_M.sum() for weight_M in weights]).sum()
        return Usage(torch.stack(counts), torch.stack(sums), num_tokens)


@contextmanager
def watch_routing(module: nn.Module) -> Iterator[Watch]:
    """Note what the routers of ``module`` choose in the passes inside.

    What is noted keeps its graph, also under gradient checkpointing: the passes that this computes again in the
    backward pass run outside and are not noted. A layer without experts notes nothing.
    """
    blocks = moe_blocks(module)
    watch = Watch([[] for _ in blocks])
    for block, of_layer in zip(blocks, watch.seen, strict=True):
        block.seen = of_layer
    try:
        yield watch
    finally:
        for block in blocks:
            block.seen = None


def balance_loss(
    probability_LE: torch.Tensor, counts_LE: torch.Tensor, num_tokens: torch.Tensor
) -> torch.Tensor:
    """Return the sum over layers of E * sum_e f_e P_e (arXiv 2101.03961, eq. 4 to 6): L where all is even, at most L E.

    It is linear in P, so the parts of passes and ranks add up to that of the global batch, as long as each is given
    the counts of all of them. f has no gradient.

    Args:
        probability_LE: Of this part of the batch, with its graph.
        counts_LE: Of the whole batch.
        num_tokens: Of the whole batch.
    """
    f_LE = counts_LE / counts_LE.sum(-1, keepdim=True)
    return counts_LE.shape[1] * (f_LE * probability_LE).sum() / num_tokens
