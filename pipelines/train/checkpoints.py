"""Checkpoints: every rank writes its shards, Ray Train puts them together and keeps the last two."""

import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray.train.v2.api.report_config import CheckpointUploadMode
from torch import distributed

from pipelines.train.board import Evaluation, History, StepRecord
from pipelines.train.engine import Trainable
from pipelines.train.owner import Owner, check_owner
from pipelines.train.turns import Turns
from pipelines.train.universal import converted

_TAG = "state"
_NOTE = "training.json"
_TURNS = "turns.npz"
POLL_S = 0.02


def write(engine: Any, history: History, owner: Owner, directory: Path) -> None:
    """Write this rank's part of weights and optimizer state; rank 0 writes what is behind them as well.

    The files of all ranks have different names and together make the checkpoint.
    """
    engine.save_checkpoint(str(directory), tag=_TAG, save_latest=False)
    if distributed.get_rank() == 0:
        # Turns are arrays and have a file of their own.
        records = asdict(replace(history, turns=None))
        note = {"ranks": distributed.get_world_size(), "owner": asdict(owner), "history": records}
        (directory / _NOTE).write_text(json.dumps(note))
        if history.turns:
            history.turns.save(directory / _TURNS)


def restore(
    directory: Path, owner: Owner, make: Callable[[bool], Trainable], node: str
) -> tuple[Trainable, History]:
    """Build the engine that a checkpoint needs, and load it; every rank must take part.

    Args:
        directory: Of the checkpoint; however many ranks wrote it.
        owner: The training that is to go on.
        make: Builds the engine, told whether it is to read a universal checkpoint.
        node: Names this rank's node.

    Raises:
        UserError: The checkpoint belongs to another training.
    """
    note = json.loads((directory / _NOTE).read_text())
    check_owner(Owner(**note["owner"]), owner, str(directory))
    records = note["history"]
    history = History(
        [StepRecord(**record) for record in records["steps"]],
        [Evaluation(**record) for record in records["evaluations"]],
        Turns.load(directory / _TURNS) if (directory / _TURNS).is_file() else None,
    )
    other = note["ranks"] != distributed.get_world_size()
    trainable = make(other)
    source: AbstractContextManager[Path] = (
        converted(directory, _TAG, node) if other else nullcontext(directory)
    )
    with source as folder:
        _load(trainable.engine, folder)
    return trainable, history


def _load(engine: Any, directory: Path) -> None:
    groups = engine.optimizer.param_groups
    decays = [group["weight_decay"] for group in groups]
    engine.load_checkpoint(str(directory), tag=_TAG)
    # Of a universal checkpoint DeepSpeed 0.19's stage 3 gives every group the settings of the first, and all groups
    # one tensor that counts the steps, which each of them would raise.
    for group, decay in zip(engine.optimizer.param_groups, decays, strict=True):
        group["weight_decay"] = decay
    for state in engine.optimizer.optimizer.state.values():
        if isinstance(state.get("step"), torch.Tensor):
            state["step"] = state["step"].clone()


class Saver:
    """Writes checkpoints to this node's disk; Ray Train carries each to the storage while the training goes on.

    Args:
        engine: DeepSpeed's.
        history: Of the training, which adds to it.
        owner: The training.
    """

    def __init__(self, engine: Any, history: History, owner: Owner) -> None:
        self._engine, self._history, self._owner = engine, history, owner
        self._leaving: Path | None = None

    def save(self) -> None:
        """Write a checkpoint, once the one before is in the storage; a barrier for all ranks.

        It counts when Ray Train has all ranks' parts: a rank that is lost before that resumes from the one before.
        """
        self._wait()
        directory = Path(tempfile.mkdtemp(prefix="stope-checkpoint-"))
        write(self._engine, self._history, self._owner, directory)
        ray.train.report(
            {"step": self._history.steps[-1].step},
            checkpoint=ray.train.Checkpoint.from_directory(str(directory)),
            checkpoint_upload_mode=CheckpointUploadMode.ASYNC,
        )
        self._leaving = directory

    def _wait(self) -> None:
        # Ray Train removes the folder when it has stored it; where it cannot, it ends this process.
        while self._leaving and self._leaving.exists():
            time.sleep(POLL_S)


@contextmanager
def latest() -> Iterator[Path | None]:
    """Yield the folder of the last checkpoint that was reported, if any."""
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        yield None
        return
    with checkpoint.as_directory() as directory:
        yield Path(directory)


def resume_or_begin(owner: Owner, make: Callable[[bool], Trainable]) -> tuple[Trainable, History]:
    """Return the training as its last checkpoint left it, else at its beginning; see restore."""
    with latest() as directory:
        if directory is None:
            return make(False), History()
        return restore(directory, owner, make, ray.get_runtime_context().get_node_id())
