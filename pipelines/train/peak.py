"""What the ranks could do if they did nothing but multiply matrices, in tokens a second."""

import time

import torch
from torch import distributed, nn

from pipelines.train.engine import Network

PROBE_S = 0.15
"""The fastest product within this time counts: other work can only slow one down."""


def flops_per_token(encoder: Network) -> int:
    """Return the FLOPs that training on one token takes, in linear layers alone.

    Two a weight forward, two for the gradient of a layer's input, two for that of a weight which is trained. What is
    computed twice (GradCache, gradient checkpointing) counts once, attention's products not at all.
    """
    layers = [
        module
        for name, module in encoder.backbone.named_modules()
        if isinstance(module, nn.Linear) and not name.startswith("pooler")
    ]
    return sum(
        layer.in_features * layer.out_features * (6 if layer.weight.requires_grad else 4) for layer in layers
    )


def matrix_flops_s(dtype: torch.dtype, device: torch.device) -> float:
    """Measure the FLOP/s of plain products in ``dtype`` with the threads that this process has."""
    size = 1024 if device.type == "cpu" else 8192
    left = torch.ones(size, size, dtype=dtype, device=device)
    seconds: list[float] = []
    end = time.monotonic() + PROBE_S
    while len(seconds) < 3 or time.monotonic() < end:
        started = time.monotonic()
        torch.mm(left, left)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.monotonic() - started)
    return 2.0 * size**3 / min(seconds)


def peak_tokens_per_s(encoder: Network, dtype: str) -> float:
    """Return the peak of all ranks together; every rank must call it.

    Args:
        encoder: As it is trained: what is frozen costs less.
        dtype: Of matrix products.
    """
    rate = torch.tensor(matrix_flops_s(getattr(torch, dtype), encoder.device), device=encoder.device)
    distributed.all_reduce(rate)
    return float(rate) / max(1, flops_per_token(encoder))
