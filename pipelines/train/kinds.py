"""The kinds of models that are trained: how a batch of each is cut and scored, and how it is written; the rest is one.

Plan, order, checkpoints, GradCache, dropout, adapters and the loop itself know of no difference.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.train.batches import RankBatch, rank_batch
from pipelines.train.cross_encoder import LocatedCrossEncoder
from pipelines.train.order import Order
from pipelines.train.pair_batches import PairBatch, pair_batch
from pipelines.train.saving import save_cross_encoder_model, save_embedding_model
from pipelines.train.task import TrainTask
from pipelines.train.tokens import TokenStore

Batch = RankBatch | PairBatch
"""A rank's share of a global batch: inputs of the model, and the loss of what it makes of them."""
Cutter = Callable[[Order, int, int, int], Batch]
"""The order, a step, a rank and the number of ranks -> the rank's share of the step's batch."""


@dataclass(frozen=True)
class Kind:
    """What one kind of model does its own way.

    Args:
        cutter: Reads the plan's tokens, and returns what cuts its batches.
        save: Writes a trained model, float32 and whole, into a directory, with a card, and proves that other libraries
            load it as it is.
    """

    cutter: Callable[[TrainTask], Cutter]
    save: Callable[[Any, TrainTask, Path], None]


def _text_batches(task: TrainTask) -> Cutter:
    queries, documents = _stores(task)
    shown = TokenStore.load(task.plan.directory("shown_queries")) if task.config.few_shot else None

    def cut(order: Order, step: int, rank: int, world: int) -> Batch:
        chunk = task.config.gradcache_chunk
        return rank_batch(order, step, rank, world, queries, documents, chunk, shown)

    return cut


def _pair_batches(task: TrainTask) -> Cutter:
    assert isinstance(task.model, LocatedCrossEncoder)
    queries, documents = _stores(task)
    tokenizer = task.model.pairs()

    def cut(order: Order, step: int, rank: int, world: int) -> Batch:
        chunk = task.config.gradcache_chunk
        return pair_batch(order, step, rank, world, queries, documents, tokenizer, chunk)

    return cut


def _stores(task: TrainTask) -> tuple[TokenStore, TokenStore]:
    return TokenStore.load(task.plan.directory("queries")), TokenStore.load(task.plan.directory("documents"))


KINDS: dict[str, Kind] = {
    "embedding": Kind(_text_batches, save_embedding_model),
    "cross_encoder": Kind(_pair_batches, save_cross_encoder_model),
}
"""TrainConfig.kind -> what it does its own way."""
