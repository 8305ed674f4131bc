"""The trained model as files of the artifact: the weights that count, whole, in the layout of their kind."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import distributed

from cluster.artifacts import ArtifactWriter
from models.adapters import Lora, merge_lora, save_adapter
from models.encoder import Encoder
from models.moe.upcycle import upcycle
from models.sentence_modules import LATENT_ATTENTION_FOLDER
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
            write_adapter(encoder, adapted, lora, Path(directory), base=task.model.location)
            writer.put_directory("adapter", Path(directory))
    if task.config.dev:
        _write(writer, "training_metrics", history.evaluations, schemas.TRAINING_METRICS)
    _write(writer, "training_steps", history.steps, schemas.TRAINING_STEPS)


def write_adapter(
    encoder: Any, adapted: Mapping[str, torch.Tensor], lora: Lora, directory: Path, base: str
) -> None:
    """Write an adapter alone, and the pooler that was trained beside it, if it has weights, in a folder of its own.

    Args:
        encoder: The trained model, merged.
        adapted: The weights of the model with adapters, by name, whole.
        lora: As they were made.
        directory: Made if absent.
        base: The source of the model that the adapter belongs to.
    """
    save_adapter(adapted, lora, directory, base)
    assert isinstance(encoder, Encoder)
    if encoder.latent_attention is not None:
        encoder.latent_attention.save(directory / LATENT_ATTENTION_FOLDER)


def _write(writer: ArtifactWriter, table: str, records: Sequence[Any], schema: pa.Schema) -> None:
    rows = pa.Table.from_pylist([asdict(record) for record in records], schema=schema)
    writer.write_shard(table, 0, schemas.conform(rows, schema))
