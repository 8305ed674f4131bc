"""Gather embeddings of all ranks, with gradient.

Shapes: n rows of one rank, N rows of all ranks, D dimensions.
"""

import numpy as np
import torch
from torch import distributed


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(_context: torch.autograd.function.FunctionCtx, own_nD: torch.Tensor) -> torch.Tensor:
        world = distributed.get_world_size()
        all_ND = own_nD.new_empty(world * len(own_nD), own_nD.shape[1])
        distributed.all_gather_into_tensor(all_ND, own_nD.contiguous())
        return all_ND

    @staticmethod
    def backward(_context: torch.autograd.function.FunctionCtx, gradient_ND: torch.Tensor) -> torch.Tensor:
        # Every rank's loss depends on every rank's rows, so the gradient of a row is the sum over the ranks.
        gradient_ND = gradient_ND.contiguous().clone()
        distributed.all_reduce(gradient_ND)
        return gradient_ND.chunk(distributed.get_world_size())[distributed.get_rank()]


def gather(own_nD: torch.Tensor) -> torch.Tensor:
    """Return the rows of all ranks, rank after rank; their gradients flow back to the rank they came from.

    Args:
        own_nD: Embeddings of this rank; n is the same on every rank.

    Returns:
        [N, D], N = n * ranks. The gradient that comes back is the sum over the losses of all ranks.
    """
    if distributed.get_world_size() == 1 or not len(own_nD):
        return own_nD
    return _Gather.apply(own_nD)


def add_up(loss: torch.Tensor, wish: int, scores_n: torch.Tensor) -> tuple[float, int, np.ndarray]:
    """Return the sum over all ranks of a scalar, without gradient, and of what travels with it.

    Args:
        loss: A scalar.
        wish: A small number.
        scores_n: Of the same length on every rank; may be empty.

    Returns:
        The same three sums on every rank; that of the scores is exact where one rank alone has one that is not 0.
    """
    total = torch.cat([torch.stack([loss.detach(), loss.new_tensor(wish)]), scores_n.to(loss.dtype)])
    distributed.all_reduce(total)
    value, wishes = total[:2].tolist()
    return value, round(wishes), total[2:].cpu().numpy()
