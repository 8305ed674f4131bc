"""GradCache: the gradient of a batch too large for memory, from passes one by one (arXiv 2101.06983).

First every pass without a graph; then the loss on the embeddings alone, and its gradient on each of them; then
every pass once more, with a graph, into which that gradient is injected. The memory of activations is that of one
pass. Equal to the big batch, dropout included: the second time a pass draws the random numbers of the first.
"""

from dataclasses import dataclass
from typing import Any

import torch

from pipelines.train.dealing import Inputs


@dataclass(frozen=True)
class RandomState:
    """Where torch's generators stood, the only ones that dropout draws from."""

    processor: torch.Tensor
    device: torch.Tensor | None

    @classmethod
    def now(cls, device: torch.device) -> "RandomState":
        """Note where they stand."""
        return cls(torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None)

    def restore(self, device: torch.device) -> None:
        """Set them back."""
        torch.set_rng_state(self.processor)
        if self.device is not None:
            torch.cuda.set_rng_state(self.device, device)


@dataclass(frozen=True)
class Cache:
    """The passes of a batch, embedded without a graph.

    Args:
        inputs: Padded tensors, pass by pass.
        states: Random state before each pass.
        embedded: Leaves [B, D] that take the loss's gradient, one a pass.
        device: Where the model is.
    """

    inputs: list[Inputs]
    states: list[RandomState]
    embedded: list[torch.Tensor]
    device: torch.device


def embed_passes(engine: Any, inputs: list[Inputs], device: torch.device) -> Cache:
    """Embed pass by pass, without a graph. Every rank must have the same number of passes."""
    states, embedded = [], []
    for each in inputs:
        states.append(RandomState.now(device))
        with torch.no_grad():
            embedded += engine([each])
    return Cache(inputs, states, [emb_BD.requires_grad_() for emb_BD in embedded], device)


def backward_passes(engine: Any, cache: Cache, loss: torch.Tensor) -> None:
    """Let the gradient of ``loss`` flow through every pass into the weights, as one backward pass would.

    Args:
        engine: DeepSpeed's; gradients add up over the passes and are reduced over the ranks with the last one
            (ZeRO 1) or with each (ZeRO 2 and 3, which keep a share of the gradients).
        cache: Whose embeddings ``loss`` depends on.
        loss: A scalar.
    """
    gradients = torch.autograd.grad(loss, cache.embedded, allow_unused=True, materialize_grads=True)
    after = RandomState.now(cache.device)
    last = len(cache.inputs) - 1
    for place, (inputs, state, gradient_BD) in enumerate(
        zip(cache.inputs, cache.states, gradients, strict=True)
    ):
        engine.set_gradient_accumulation_boundary(place == last)
        state.restore(cache.device)
        (emb_BD,) = engine([inputs])
        # Its gradient on the embeddings is the injected one.
        engine.backward((emb_BD * gradient_BD).sum())
    after.restore(cache.device)
