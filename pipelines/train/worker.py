"""The training loop of one rank, top to bottom.

Shapes: B rows, n documents and a answered queries of this rank, D dimensions.
"""

import math
import time
from dataclasses import replace

import torch
from torch import distributed

from pipelines.train import checkpoints
from pipelines.train.batches import RankBatch, rank_batch
from pipelines.train.board import StepRecord
from pipelines.train.config import TrainConfig
from pipelines.train.divergence import bad_loss
from pipelines.train.engine import Trainable, make_trainable
from pipelines.train.export import export
from pipelines.train.gather import add_up, gather
from pipelines.train.gradcache import backward_passes, embed_passes
from pipelines.train.messenger import Messenger, Wish
from pipelines.train.objective import objective
from pipelines.train.order import Order
from pipelines.train.schedule import learning_rate, num_warmup_steps
from pipelines.train.task import TrainTask
from pipelines.train.tokens import TokenStore


def train_worker(task: TrainTask) -> None:
    """Train on one rank, from the last checkpoint if there is one, and export the result.

    Ends early, without a result, where the loss is bad and where the driver asks for an end.
    """
    torch.set_num_threads(task.num_threads)
    config = task.config
    rank, world = distributed.get_rank(), distributed.get_world_size()
    order = Order.from_table(task.plan.read("order"), task.teachers)
    queries, documents = (TokenStore.load(task.plan.directory(kind)) for kind in ("queries", "documents"))
    encoder = replace(task.model, dtype="float32").encoder()
    trainable = make_trainable(encoder, config, task.model.dtype)
    history = checkpoints.load(trainable.engine)
    messenger = Messenger(task.board, config.checkpoint_every_minutes)
    warmup = num_warmup_steps(order.num_steps, config.warmup_ratio, config.warmup_steps)
    for step in range(len(history), order.num_steps):
        started = time.monotonic()
        batch = rank_batch(order, step, rank, world, queries, documents, config.gradcache_chunk)
        rate = learning_rate(step, order.num_steps, config.learning_rate, warmup, config.schedule)
        wish = messenger.wish() if rank == 0 else Wish.NOTHING
        record, agreed = take_step(trainable, batch, step, rate, config, wish)
        history.append(record)
        failure = bad_loss(history, batch.queries, config)
        if rank == 0:
            messenger.post(record, time.monotonic() - started, failure)
        if failure:
            return
        is_last = step + 1 == order.num_steps
        if agreed or is_last or (step + 1) % config.checkpoint_every_steps == 0:
            checkpoints.save(trainable.engine, history)
            messenger.saved()
        if agreed is Wish.STOP and not is_last:
            return
    export(trainable, history, task)


def take_step(
    trainable: Trainable,
    batch: RankBatch,
    step: int,
    rate: float,
    config: TrainConfig,
    wish: Wish = Wish.NOTHING,
) -> tuple[StepRecord, Wish]:
    """Compute one global batch together with the other ranks and update the weights.

    A rank's loss is the sum over its own rows, divided by the rows of the GLOBAL batch; DeepSpeed averages
    gradients over the ranks, so it is multiplied by their number, and N ranks have the gradient of one.

    Args:
        trainable: The encoder and its engine.
        batch: This rank's share.
        step: From 0.
        rate: The learning rate.
        config: Of the training.
        wish: Of rank 0; that of the other ranks is NOTHING.

    Returns:
        The same record, and the wish of rank 0, on every rank. If the loss is not finite, the weights are left as
        they were.
    """
    engine, world = trainable.engine, distributed.get_world_size()
    seed_dropout(config, step)
    cache = embed_passes(engine, batch.inputs, trainable.encoder.device) if config.gradcache_chunk else None
    q_BD, own_nD, own_aD = batch.split(cache.embedded if cache else engine(batch.inputs))
    rows = batch.with_embeddings(q_BD, gather(q_BD), gather(own_nD), gather(own_aD))
    loss = objective(rows, batch.teacher_BGK.to(q_BD.device), batch.teachers, config)
    mean, wishes = add_up(loss, wish)
    if not math.isfinite(mean):
        return StepRecord(step, mean, rate, math.nan, batch.num_tokens), Wish(wishes)
    for group in engine.optimizer.param_groups:
        group["lr"] = rate
    if cache:
        backward_passes(engine, cache, loss * world)
    else:
        engine.backward(loss * world)
    engine.step()
    norm = float(engine.get_global_grad_norm())
    return StepRecord(step, mean, rate, norm, batch.num_tokens), Wish(wishes)


def seed_dropout(config: TrainConfig, step: int) -> None:
    """Seed torch's global generator, the only one that dropout draws from, for this step and rank."""
    if config.draws_dropout:
        torch.manual_seed(hash((config.seed, step, distributed.get_rank())))
