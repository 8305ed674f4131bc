"""GradCache: the gradient of a batch too large for memory, from passes one by one (arXiv 2101.06983).

First every pass without a graph; then the loss on the embeddings alone, and its gradient on each of them; then
every pass once more, with a graph, into which that gradient is injected. The memory of activations is that of one
pass. Equal to the big batch, dropout included: its masks hang on the text, not on when it is embedded.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from pipelines.train.balance import Balance
    from pipelines.train.dealing import Inputs


@dataclass(frozen=True)
class Cache:
    """The passes of a batch, embedded without a graph.

    Args:
        inputs: Padded tensors, pass by pass.
        seeds: Of each pass's dropout.
        embedded: Leaves [B, D] that take the loss's gradient, one a pass.
    """

    inputs: "list[Inputs]"
    seeds: Sequence[int]
    embedded: list[torch.Tensor]


def embed_passes(engine: Any, inputs: "list[Inputs]", seeds: Sequence[int]) -> Cache:
    """Embed pass by pass, without a graph. Every rank must have the same number of passes."""
    embedded: list[torch.Tensor] = []
    for each, seed in zip(inputs, seeds, strict=True):
        with torch.no_grad():
            embedded += engine([each], [seed])
    return Cache(inputs, seeds, [emb_BD.requires_grad_() for emb_BD in embedded])


def backward_passes(engine: Any, cache: Cache, loss: torch.Tensor, balance: "Balance | None" = None) -> None:
    """Let the gradient of ``loss`` flow through every pass into the weights, as one backward pass would.

    Args:
        engine: DeepSpeed's; gradients add up over the passes and are reduced over the ranks with the last one
            (ZeRO 1) or with each (ZeRO 2 and 3, which keep a share of the gradients).
        cache: Whose embeddings ``loss`` depends on.
        loss: A scalar.
        balance: Has counted the passes of ``cache``; each adds its part. None: the model has no experts.
    """
    gradients = torch.autograd.grad(loss, cache.embedded, allow_unused=True, materialize_grads=True)
    last = len(cache.inputs) - 1
    for place, (inputs, seed, gradient_BD) in enumerate(
        zip(cache.inputs, cache.seeds, gradients, strict=True)
    ):
        engine.set_gradient_accumulation_boundary(place == last)
        with balance.watching() if balance else nullcontext():
            (emb_BD,) = engine([inputs], [seed])
        # Its gradient on the embeddings is the injected one.
        engine.backward((emb_BD * gradient_BD).sum() + (balance.loss(place) if balance else 0.0))
