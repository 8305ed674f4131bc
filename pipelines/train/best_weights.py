"""The weights of the best evaluation, in the scratch folder until the training ends."""

import tempfile
from pathlib import Path

import torch
from torch import distributed

from cluster.artifacts import ArtifactWriter
from pipelines.train.engine import Trainable, whole_weights

_NAME = "best-weights"


def keep(trainable: Trainable, writer: ArtifactWriter, steps: int) -> None:
    """Store the trained weights as they are; every rank must call it, rank 0 writes.

    Args:
        trainable: Whose weights.
        writer: Of the training's artifact.
        steps: How many they have behind them.
    """
    from safetensors.torch import save_file

    weights = whole_weights(trainable, trained_only=True)
    if distributed.get_rank() == 0:
        with tempfile.TemporaryDirectory(prefix="stope-best-") as directory:
            path = Path(directory) / _NAME
            save_file(weights, str(path))
            writer.storage.put_file(_key(writer, steps), path)


def load(writer: ArtifactWriter, steps: int) -> dict[str, torch.Tensor]:
    """Return the weights that were kept after so many steps."""
    from safetensors.torch import load_file

    weights: dict[str, torch.Tensor] = load_file(str(writer.storage.get_file(_key(writer, steps))))
    return weights


def forget_others(writer: ArtifactWriter, needed: set[int | None]) -> None:
    """Remove what was kept after other numbers of steps than ``needed``; None stands for nothing."""
    wanted = {_key(writer, steps) for steps in needed if steps is not None}
    for key in writer.storage.list(f"{writer.key}/scratch/{_NAME}"):
        if key not in wanted:
            writer.storage.delete(key)


def _key(writer: ArtifactWriter, steps: int) -> str:
    return f"{writer.key}/scratch/{_NAME}/{steps}.safetensors"
