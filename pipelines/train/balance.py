"""The load-balancing loss of one step, over all passes and ranks, and how evenly the experts were used.

Shapes: L layers with experts, E experts.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import distributed

from models.moe.balance import Watch, balance_loss, watch_routing
from models.moe.upcycle import moe_blocks
from pipelines.train.dealing import Inputs
from pipelines.train.engine import Network


class Balance:
    """What the routers choose in one step, and the loss on it; nothing at all for a model without experts.

    The share of the tokens that an expert gets is that of the GLOBAL batch, so the parts of passes and ranks add up:
    GradCache has the gradient of the big batch, and N ranks that of one.

    Args:
        encoder: Under training.
        coefficient: Of the loss; 0 for none, and the experts are counted all the same.
    """

    def __init__(self, encoder: Network, coefficient: float) -> None:
        self.encoder, self.coefficient = encoder, coefficient
        self.has_experts = bool(moe_blocks(encoder))
        self._watch = Watch([])
        self._masks: list[torch.Tensor] = []
        self._counts_LE = torch.zeros(0, 0)
        self._num_tokens = torch.zeros(())

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Note what is chosen in the passes inside, in place of what was noted before."""
        if not self.has_experts:
            yield
            return
        with watch_routing(self.encoder) as self._watch:
            yield

    def count(self, inputs: Sequence[Inputs], real: Sequence[torch.Tensor]) -> None:
        """Add up what all passes of the step chose, over all ranks; every rank must call it.

        Args:
            inputs: Padded tensors of the passes that were watched last.
            real: [B] of each: 1, or 0 for a text that only fills up.
        """
        if not self.has_experts:
            return
        # The model is given no padding beyond its positions.
        most = self.encoder.max_tokens
        self._masks = [
            mask_BT[:, :most] * real_B[:, None] for (_, mask_BT, _), real_B in zip(inputs, real, strict=True)
        ]
        usage = self._watch.usage(self._masks)
        totals = torch.cat([usage.counts_LE.flatten(), usage.num_tokens[None]])
        distributed.all_reduce(totals)
        self._counts_LE, self._num_tokens = totals[:-1].view_as(usage.counts_LE), totals[-1]

    def loss(self, place: int | None = None) -> torch.Tensor | float:
        """Return what the passes watched last add to this rank's loss, behind ``count``.

        Args:
            place: Which of the step's passes that is. None: all of them.

        Returns:
            The coefficient times their part of the balance loss, times the number of ranks, over which DeepSpeed
            averages gradients; 0.0 without experts.
        """
        if not self.has_experts or not self.coefficient:
            return 0.0
        usage = self._watch.usage(self._masks if place is None else self._masks[place : place + 1])
        part = balance_loss(usage.probability_LE, self._counts_LE, self._num_tokens)
        return self.coefficient * distributed.get_world_size() * part

    @property
    def largest_share(self) -> float | None:
        """The largest share of the tokens that one expert of one layer got: 1 / E where all is even; None without."""
        if not self.has_experts:
            return None
        return float((self._counts_LE / self._counts_LE.sum(-1, keepdim=True)).max())
