"""The training loop of one rank, top to bottom."""

import math
import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import ray
import torch
from torch import distributed

from pipelines.train import checkpoints
from pipelines.train.balance import Balance
from pipelines.train.board import StepRecord
from pipelines.train.config import TrainConfig
from pipelines.train.dev_watch import DevWatch
from pipelines.train.divergence import bad_loss, comparable
from pipelines.train.dropout import pass_seed
from pipelines.train.engine import Trainable, make_trainable
from pipelines.train.export import export
from pipelines.train.gather import add_up
from pipelines.train.gradcache import backward_passes, embed_passes
from pipelines.train.kinds import KINDS, Batch
from pipelines.train.messenger import Messenger, Wish
from pipelines.train.order import Order
from pipelines.train.peak import peak_tokens_per_s
from pipelines.train.schedule import learning_rates
from pipelines.train.task import TrainTask
from pipelines.train.turns import begin_turns


def train_worker(task: TrainTask) -> None:
    """Train on one rank, from the last checkpoint if there is one, and export the result.

    Ends early, without a result, where the loss is bad and where the driver asks for an end; with a result where
    the dev metric gains no more.
    """
    torch.set_num_threads(task.num_threads)
    config = task.config
    rank, world = distributed.get_rank(), distributed.get_world_size()
    order = Order.from_table(task.plan.read("order"), task.teachers)
    cut = KINDS[config.kind].cutter(task)
    trainable, history = checkpoints.resume_or_begin(task.owner, partial(_make, task))
    dynamic = config.dynamic_negatives
    turns = history.turns = history.turns or (begin_turns(order) if dynamic else None)
    saver = checkpoints.Saver(trainable.engine, history, task.owner)
    messenger = Messenger(task.board, config.checkpoint_every_minutes)
    dev = DevWatch(trainable, ray.get(task.cut), config.dev, task.writer, history) if config.dev else None
    peak = peak_tokens_per_s(trainable.encoder, task.model.dtype)
    if rank == 0:
        messenger.begin(peak)
    first = Order.from_table(task.first_plan.read("order")) if task.first_plan else order
    rates = learning_rates(
        first.stages.tolist(), config.peaks, config.warmup_ratio, config.warmup_steps, config.schedule
    )
    num_steps = min(order.num_steps, first.num_steps)
    end = min(num_steps, task.until or num_steps)
    fresh = dev.measure_if_due(num_steps) if dev else []
    for step in range(len(history.steps), end):
        if dev and dev.ends():
            break
        started = time.monotonic()
        own = turns.taken(order, step) if turns else order
        batch = cut(own, step, rank, world)
        wish = messenger.wish() if rank == 0 else Wish.NOTHING
        note = partial(turns.note, order, step, dynamic) if turns and dynamic else None
        record, agreed = take_step(trainable, batch, step, rates[step], config, wish, note)
        seconds = time.monotonic() - started
        history.steps.append(record)
        steps = comparable(history.steps, first.stages, config.refresh_every_steps)
        failure = bad_loss(steps, batch.queries, config)
        if dev and not failure:
            fresh += dev.measure_if_due(num_steps)
        if rank == 0:
            messenger.post(record, seconds, failure, fresh)
        if failure:
            return
        fresh = []
        is_last = step + 1 == end or bool(dev and dev.ends())
        if agreed or is_last or (step + 1) % config.checkpoint_every_steps == 0:
            saver.save()
            messenger.saved()
            if dev:
                dev.saved()
        if agreed is Wish.STOP and not is_last:
            return
    export(trainable, history, task)


def _make(task: TrainTask, reads_universal: bool) -> Trainable:
    encoder = task.model.whole().encoder()
    return make_trainable(encoder, task.config, task.model.dtype, reads_universal)


def take_step(
    trainable: Trainable,
    batch: Batch,
    step: int,
    rate: float,
    config: TrainConfig,
    wish: Wish = Wish.NOTHING,
    note: Callable[[np.ndarray], int] | None = None,
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
        note: Takes the mean score of each row's own negatives, and returns how many of them give way to others. None:
            none does.

    Returns:
        The same record, and the wish of rank 0, on every rank. If the loss is not finite, the weights are left as
        they were.
    """
    engine, world = trainable.engine, distributed.get_world_size()
    seeds = dropout_seeds(config.seed, step, batch.num_passes)
    balance = Balance(trainable.encoder, config.moe.load_balancing_loss if config.moe else 0.0)
    with balance.watching():
        cache = embed_passes(engine, batch.inputs, seeds) if config.gradcache_chunk else None
        embedded = cache.embedded if cache else engine(batch.inputs, seeds)
    balance.count(batch.inputs, batch.real)
    loss, scores_n = batch.loss(embedded, config)
    mean, wishes, scores = add_up(loss, wish, scores_n)
    if not math.isfinite(mean):
        return StepRecord(step, mean, rate, math.nan, batch.num_tokens, balance.largest_share), Wish(wishes)
    for group in engine.optimizer.param_groups:
        group["lr"] = rate
    if cache:
        backward_passes(engine, cache, loss * world, balance)
    else:
        engine.backward(loss * world + balance.loss())
    engine.step()
    norm = float(engine.get_global_grad_norm())
    replaced = note(scores) if note else None
    return StepRecord(step, mean, rate, norm, batch.num_tokens, balance.largest_share, replaced), Wish(wishes)


def dropout_seeds(seed: int, step: int, num_passes: Sequence[int]) -> list[int]:
    """Return the seed of every pass: a text that is query and document in one step is dropped in two ways."""
    return [pass_seed(seed, step, kind) for kind, count in enumerate(num_passes) for _ in range(count)]
