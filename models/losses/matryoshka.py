"""Matryoshka: the first components of an embedding are an embedding of their own.

Shapes: D dimensions.
"""

from collections.abc import Callable, Sequence

import torch

from models.losses.batch import LossBatch


def matryoshka(
    batch: LossBatch,
    *,
    loss: Callable[[LossBatch], torch.Tensor],
    dimensions: Sequence[int],
    weights: Sequence[float] | None = None,
) -> torch.Tensor:
    """Add up a loss over normalised prefixes of the dimensions.

    ``L = sum_d w_d loss(prefix_d)`` (arXiv 2205.13147, eq. 1). Averages over what ``loss`` averages over.

    Args:
        batch: Of whole embeddings.
        loss: Any other loss, its settings filled in.
        dimensions: Lengths of the prefixes, D among them if the whole embedding is to count.
        weights: Of each prefix. None: 1 each.

    Returns:
        A scalar.
    """
    weights = weights or [1.0] * len(dimensions)
    parts = [weight * loss(batch.prefix(d)) for d, weight in zip(dimensions, weights, strict=True)]
    return torch.stack(parts).sum()
