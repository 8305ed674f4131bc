"""The trained model as files of the artifact: the weights that count, whole, in the layout of their kind."""

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
from torch import distributed

from cluster.artifacts import ArtifactWriter
from models.adapters import merge_lora, save_adapter
from models.encoder import Encoder
from models.moe.upcycle import upcycle
from pipelines import schemas
from pipelines.train import best_weights
from pipelines.train.board import History
from pipelines.train.dev_metric import best
from pipelines.train.engine import Trainable, lora_of, whole_weights
from pipelines.train.kinds import KINDS
from pipelines.train.task import TrainTask


def export(trainable: Trainable, history: History, task: TrainTask) -> None:
    """Write the float32 weights, adapters merged in, and the tables of the steps and of the evaluations.

    The weights are the last ones, or those of the best evaluation where the recipe says so.

    Every rank must call it, rank 0 writes.

    Raises:
        ModelError: Another library makes something else of it; nothing is written.
    """
    weights = whole_weights(trainable)
    if distributed.get_rank() != 0:
        return
    writer = task.result or task.writer
    chosen = best(history.evaluations)
    # In between what counts is the model as it is.
    if chosen and task.config.dev and task.config.dev.keep == "best" and task.until is None:
        weights |= best_weights.load(task.writer, chosen.steps)
    lora = lora_of(task.config)
    adapted, weights = weights, merge_lora(weights, lora) if lora else weights
    encoder = replace(task.model.whole(), device="cpu").encoder()
    if task.config.moe:
        assert isinstance(encoder, Encoder)
        upcycle(encoder, task.config.moe.upcycling, task.config.seed)
    # Not strict: of weights that are tied to each other the names hold one.
    assert not encoder.load_state_dict(weights, strict=False).unexpected_keys
    with tempfile.TemporaryDirectory(prefix="stope-export-") as directory:
        KINDS[task.config.kind].save(encoder, task, Path(directory))
        writer.put_directory("model", Path(directory))
    if lora and task.config.lora and task.config.lora.keep_adapter:
        with tempfile.TemporaryDirectory(prefix="stope-adapter-") as directory:
            save_adapter(adapted, lora, directory, base=task.model.location)
            writer.put_directory("adapter", Path(directory))
    if task.config.dev:
        _write(writer, "training_metrics", history.evaluations, schemas.TRAINING_METRICS)
    _write(writer, "training_steps", history.steps, schemas.TRAINING_STEPS)


def _write(writer: ArtifactWriter, table: str, records: Sequence[Any], schema: pa.Schema) -> None:
    rows = pa.Table.from_pylist([asdict(record) for record in records], schema=schema)
    writer.write_shard(table, 0, schemas.conform(rows, schema))
