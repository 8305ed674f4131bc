"""Experts shared out among the ranks: DeepSpeed's expert parallelism under the routers and files of ``models.moe``.

Each rank holds some of the experts of a block, and an all-to-all brings it the tokens that all ranks have for them. No
token is dropped: the buffers are as large as the busiest expert of all ranks needs.

Shapes: M tokens of this rank, H hidden size, E experts, K experts a token, R ranks that share the experts, C tokens of
a rank for one expert, padded.
"""

from math import gcd
from typing import Any

import torch
from deepspeed.moe.layer import MoE
from torch import distributed, nn

from models.errors import ModelError
from models.moe.experts import ExpertLinear, Slots
from models.moe.layer import MoeFeedForward
from models.moe.router import ROUTERS


class Expert(nn.Module):
    """One expert: the whole feed-forward block.

    Args:
        block: With stacked experts.
        number: Which of them.
    """

    def __init__(self, block: MoeFeedForward, number: int) -> None:
        super().__init__()
        self.up, self.down = _taken(block.up, number), _taken(block.down, number)
        self.activation, self.gated = block.activation, block.gated

    def forward(self, x_R1CH: torch.Tensor) -> torch.Tensor:
        """Return what this expert makes of the tokens of R ranks."""
        h = self.up(x_R1CH)
        if self.gated:
            activated, gate = h.chunk(2, dim=-1)
            return self.down(self.activation(activated) * gate)
        return self.down(self.activation(h))


class Gate(nn.Module):
    """Stands where DeepSpeed's gate does, with our router: its own drops tokens where ranks have unequal numbers.

    Args:
        block: Whose router this is, and who notes what it chooses.
    """

    def __init__(self, block: "ParallelFeedForward", router: nn.Module) -> None:
        super().__init__()
        self.router = router
        # Not a part of this module: it is the other way round.
        self._block = (block,)
        self._group: Any = None

    def _set_ep_group(self, group: Any) -> None:
        self._group = group

    def forward(self, x_MH: torch.Tensor, *_: Any) -> tuple[Any, ...]:
        """Return what DeepSpeed's layer takes: no loss of its own, C, E, and [K, M] experts, places and weights."""
        (block,) = self._block
        logits_ME = self.router(x_MH)
        chosen_MK = block.note(logits_ME)
        weights_MK = ROUTERS[block.kind](logits_ME, chosen_MK)
        slots = Slots(chosen_MK, block.num_experts)
        starts_E = nn.functional.pad(slots.ends_E, (1, 0))[:-1]
        counts_E = slots.ends_E - starts_E
        places_MK = slots.places_S.view_as(chosen_MK) - starts_E[chosen_MK]
        most = counts_E.max().long()
        distributed.all_reduce(most, distributed.ReduceOp.MAX, group=self._group)
        by_route = (each.T.contiguous() for each in (chosen_MK, places_MK, weights_MK))
        return logits_ME.new_zeros(()), most, block.num_experts, *by_route, counts_E


class ParallelFeedForward(MoeFeedForward):
    """A block whose experts the ranks share.

    Args:
        block: With stacked experts, the same on every rank; left empty.
    """

    def __init__(self, block: MoeFeedForward) -> None:
        nn.Module.__init__(self)
        self.where, self.gated, self.kind = block.where, block.gated, block.kind
        self.num_experts, self.experts_per_token = block.num_experts, block.experts_per_token
        self.seen = None
        ranks = gcd(block.num_experts, distributed.get_world_size())
        width = block.router.weight.shape[1]
        moe = MoE(
            width, Expert(block, 0), block.num_experts, ranks, block.experts_per_token, drop_tokens=False
        )
        layer = moe.deepspeed_moe
        first = distributed.get_rank() % ranks * layer.num_local_experts
        for number, expert in enumerate(layer.experts.deepspeed_experts, first):
            own = Expert(block, number)
            for name, parameter in expert.named_parameters():
                given = own.get_parameter(name)
                parameter.data.copy_(given.data)
                parameter.requires_grad_(given.requires_grad)
        layer.gate = Gate(self, block.router)
        self.moe = moe
        self.train(block.training)

    def note(self, logits_ME: torch.Tensor) -> torch.Tensor:
        """Return the experts of each token, [M, K], and tell whoever watches."""
        chosen_MK = self._choose(logits_ME.detach())
        if self.seen is not None:
            self.seen.append((logits_ME, chosen_MK))
        return chosen_MK

    def forward(self, hidden_BTH: torch.Tensor) -> torch.Tensor:
        """Return the block's output [B, T, H]; every rank must call it, as often as the others."""
        output_BTH: torch.Tensor = self.moe(hidden_BTH)[0]
        return output_BTH

    def stacked(self, trained_only: bool) -> dict[str, torch.Tensor]:
        """Return router and experts under the names, and in the layout, of the block that this was made of.

        Every rank must call it.

        Args:
            trained_only: Leave out what is frozen.
        """
        layer = self.moe.deepspeed_moe
        experts = layer.experts.deepspeed_experts
        router = layer.gate.router.weight
        weights = {"router.weight": router.detach()} if router.requires_grad or not trained_only else {}
        for name, parameter in experts[0].named_parameters():
            if trained_only and not parameter.requires_grad:
                continue
            own = torch.stack([expert.get_parameter(name).detach() for expert in experts])
            every = [torch.empty_like(own) for _ in range(distributed.get_world_size(layer.ep_group))]
            distributed.all_gather(every, own, group=layer.ep_group)
            weights[name] = torch.cat(every)
        return weights


def share_out(backbone: nn.Module) -> None:
    """Share the experts of all blocks among as many ranks as divide both the experts and the ranks evenly.

    Each rank has held all of them until then.

    Raises:
        ModelError: No expert is trained; or a dropout stands between the projections: it is drawn by the text, which
            the rank of an expert does not know.
    """
    blocks = {name: each for name, each in backbone.named_modules() if isinstance(each, MoeFeedForward)}
    projections = [each for block in blocks.values() for each in (block.up, block.down)]
    if not any(parameter.requires_grad for each in projections for parameter in each.parameters()):
        raise ModelError(
            "DeepSpeed shares out experts that are trained",
            "train.moe.engine",
            got="deepspeed, and every expert is frozen",
            fix="set train.moe.engine: grouped, or train experts as well",
        )
    for name, block in blocks.items():
        if float(getattr(block.dropout, "p", 0.0)):
            raise ModelError(
                "experts on several ranks cannot repeat a dropout",
                "train.moe.engine",
                got=f"deepspeed, with dropout {block.dropout.p} inside {name}",
                expected="no dropout between the projections",
                fix="set train.dropout: 0, or train.moe.engine: grouped",
            )
    for name, block in blocks.items():
        backbone.set_submodule(name, ParallelFeedForward(block))


def _taken(stack: nn.Module, number: int) -> nn.Linear:
    """Return one expert's linear layer of a stack."""
    assert isinstance(stack, ExpertLinear)
    _, outputs, inputs = stack.weight.shape
    linear = nn.Linear(inputs, outputs, bias=stack.bias is not None, device="meta")
    for name, stacked in stack.named_parameters():
        own = nn.Parameter(stacked.detach()[number].clone(), requires_grad=stacked.requires_grad)
        setattr(linear, name, own)
    return linear
