"""The trained model as a directory that sentence-transformers and transformers load."""

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from torch import distributed

from models.adapters import merge_lora, save_adapter
from models.checkpoint import resolve_model, save_encoder, verify_export
from models.moe.files import is_own_modelling_file
from models.moe.upcycle import upcycle
from pipelines import schemas
from pipelines.train import best_weights
from pipelines.train.board import History
from pipelines.train.card import model_card
from pipelines.train.dev_metric import best
from pipelines.train.engine import Trainable, lora_of, whole_weights
from pipelines.train.task import TrainTask
from pipelines.train.tokens import TokenStore, read_texts

NUM_CHECKED_TEXTS = 100


TRAINING_METRICS = pa.schema(
    [
        pa.field("steps", pa.int64(), nullable=False),
        pa.field("metric", pa.string(), nullable=False),
        pa.field("value", pa.float64(), nullable=False),
    ],
    metadata={b"stope.table": b"training_metrics", b"stope.version": b"1"},
)
"""Retrieval on the dev cut after so many steps."""


def export(trainable: Trainable, history: History, task: TrainTask) -> None:
    """Write the float32 weights, adapters merged in, and the tables of the steps and of the evaluations.

    The weights are the last ones, or those of the best evaluation where the recipe says so.

    Every rank must call it, rank 0 writes.

    Raises:
        ModelError: sentence-transformers embeds with it differently; nothing is written.
    """
    weights = whole_weights(trainable)
    if distributed.get_rank() != 0:
        return
    chosen = best(history.evaluations)
    if chosen and task.config.dev and task.config.dev.keep == "best":
        weights |= best_weights.load(task.writer, chosen.steps)
    lora = lora_of(task.config)
    adapted, weights = weights, merge_lora(weights, lora) if lora else weights
    source = resolve_model(task.model.location)
    encoder = replace(task.model.whole(), device="cpu").encoder()
    if task.config.moe:
        upcycle(encoder, task.config.moe.upcycling, task.config.seed)
    # Not strict: of weights that are tied to each other the names hold one.
    assert not encoder.load_state_dict(weights, strict=False).unexpected_keys
    ordinals = TokenStore.load(task.plan.directory("queries")).ordinals
    # Those beyond are of further data sets.
    queries = ordinals[ordinals < task.data.num_rows("queries")][:NUM_CHECKED_TEXTS]
    texts = [text for _, found in read_texts(task.data, "query", np.asarray(queries)) for text in found]
    with tempfile.TemporaryDirectory(prefix="stope-export-") as directory:
        save_encoder(encoder, directory, source, task.model.prompts, task.model.max_document_tokens)
        for task_name in ("", *(name for name, _ in task.model.prompts.tasks)):
            verify_export(directory, texts, task_name)
        card = model_card(task, encoder.dimension, is_own_modelling_file(Path(directory)))
        (Path(directory) / "README.md").write_text(card)
        task.writer.put_directory("model", Path(directory))
    if lora and task.config.lora and task.config.lora.keep_adapter:
        with tempfile.TemporaryDirectory(prefix="stope-adapter-") as directory:
            save_adapter(adapted, lora, directory, base=task.model.location)
            task.writer.put_directory("adapter", Path(directory))
    if task.config.dev:
        _write(task, "training_metrics", history.evaluations, TRAINING_METRICS)
    _write(task, "training_steps", history.steps, schemas.TRAINING_STEPS)


def _write(task: TrainTask, table: str, records: Sequence[Any], schema: pa.Schema) -> None:
    rows = pa.Table.from_pylist([asdict(record) for record in records], schema=schema)
    task.writer.write_shard(table, 0, schemas.conform(rows, schema))
