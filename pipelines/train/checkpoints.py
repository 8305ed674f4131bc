"""Checkpoints: every rank writes its shards, Ray Train puts them together and keeps the last two."""

import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray.train
from torch import distributed

from pipelines.train.board import StepRecord

_TAG = "state"
_HISTORY = "steps.json"


def write(engine: Any, history: list[StepRecord], directory: Path) -> None:
    """Write this rank's part of weights and optimizer state; rank 0 writes the steps so far as well.

    The files of all ranks have different names and together make the checkpoint.
    """
    engine.save_checkpoint(str(directory), tag=_TAG, save_latest=False)
    if distributed.get_rank() == 0:
        (directory / _HISTORY).write_text(json.dumps([asdict(record) for record in history]))


def read(engine: Any, directory: Path) -> list[StepRecord]:
    """Restore a checkpoint that as many ranks wrote, and return the steps it has behind it."""
    engine.load_checkpoint(str(directory), tag=_TAG)
    return [StepRecord(**record) for record in json.loads((directory / _HISTORY).read_text())]


def save(engine: Any, history: list[StepRecord]) -> None:
    """Report a checkpoint to Ray Train; a barrier for all ranks."""
    with tempfile.TemporaryDirectory(prefix="stope-checkpoint-") as directory:
        write(engine, history, Path(directory))
        checkpoint = ray.train.Checkpoint.from_directory(directory)
        ray.train.report({"step": history[-1].step}, checkpoint=checkpoint)


def load(engine: Any) -> list[StepRecord]:
    """Restore the last checkpoint that was reported, if any, and return the steps it has behind it."""
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return []
    with checkpoint.as_directory() as directory:
        return read(engine, Path(directory))
