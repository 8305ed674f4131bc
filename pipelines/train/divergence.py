"""When a training is to stop because its loss is no longer one to learn from."""

from collections.abc import Sequence

import numpy as np

from pipelines.train.board import BadLoss, StepRecord
from pipelines.train.config import TrainConfig

WINDOW = 50
"""Steps whose mean a loss is compared with, at most."""


def comparable(history: Sequence[StepRecord], stages: np.ndarray, refresh: int) -> Sequence[StepRecord]:
    """Return the last steps whose losses tell of each other: of one stage, on what was mined at once.

    Args:
        history: Of all steps so far.
        stages: int64 [steps], the stage of each step of the training, not falling.
        refresh: Steps after which negatives are mined anew; 0 for never.
    """
    last = len(history) - 1
    of_stage = int(np.searchsorted(stages, stages[last]))
    return history[max(of_stage, last // refresh * refresh if refresh else 0) :]


def bad_loss(history: Sequence[StepRecord], queries: np.ndarray, config: TrainConfig) -> BadLoss | None:
    """Say whether the last step must be the last of all; equal on all ranks, because their records are.

    Args:
        history: Of all comparable steps so far.
        queries: Ordinals of the last step's global batch.
        config: Bounds the loss.
    """
    if not history[-1].is_finite:
        return BadLoss(history[-1], queries.tolist())
    if config.max_loss_ratio is None:
        return None
    losses = [record.loss for record in history[-WINDOW - config.max_loss_steps :]]
    limit = exceeded_limit(losses, config.max_loss_ratio, config.max_loss_steps)
    return None if limit is None else BadLoss(history[-1], queries.tolist(), limit)


def exceeded_limit(losses: Sequence[float], ratio: float, steps: int) -> float | None:
    """Return ``ratio`` times the mean of the losses before the last ``steps``, if each of those exceeds it.

    Returns:
        None where one does not, or where fewer than ``steps`` came before them: the first ones are no measure.
    """
    before, last = losses[:-steps][-WINDOW:], losses[-steps:]
    if len(before) < steps:
        return None
    limit = ratio * sum(before) / len(before)
    return limit if min(last) > limit else None
