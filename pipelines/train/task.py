"""What the driver hands to every rank; imports no torch, so that the driver starts no second copy of it."""

from dataclasses import dataclass
from typing import Any

from cluster.artifacts import Artifact, ArtifactWriter
from pipelines.model import LocatedModel
from pipelines.train.config import TrainConfig


@dataclass(frozen=True)
class TrainTask:
    """What a rank is told.

    Args:
        plan: Artifact with the order and the tokens.
        data: Ingest artifact, for the texts that the export is checked with.
        writer: Takes the trained model and the table of the steps.
        model: To start from; its dtype is that of matrix products.
        config: Of the training.
        num_threads: Of one rank.
        board: Actor that shows the driver how far the training is.
    """

    plan: Artifact
    data: Artifact
    writer: ArtifactWriter
    model: LocatedModel
    config: TrainConfig
    num_threads: int
    board: Any


def run_task(task: TrainTask) -> None:
    """Train on one rank, in a process group with the others."""
    from cluster.process_group import join_process_group
    from pipelines.train.worker import train_worker

    join_process_group("nccl" if task.model.device == "cuda" else "gloo")
    train_worker(task)
