"""Rank 0's line to the driver, and what all ranks agree to do after a step."""

import time
from collections.abc import Sequence
from enum import IntEnum
from typing import Any

import ray

from pipelines.train.board import BadLoss, Evaluation, StepRecord


class Wish(IntEnum):
    """What rank 0 wants done at the end of a step; it travels to all ranks with the loss."""

    NOTHING = 0
    SAVE = 1
    """Write a checkpoint."""
    STOP = 2
    """Write a checkpoint and end."""


class Messenger:
    """Posts every step, and hears with the answer to the last post whether the driver wants an end.

    Args:
        board: The actor.
        checkpoint_every_minutes: Ask for a checkpoint so long after the last one. None: never.
    """

    def __init__(self, board: Any, checkpoint_every_minutes: float | None) -> None:
        self._board = board
        self._every_s = None if checkpoint_every_minutes is None else 60 * checkpoint_every_minutes
        self._saved = time.monotonic()
        self._posted: Any = None

    def begin(self, peak_tokens_per_s: float) -> None:
        """Say what the ranks could do at most."""
        self._board.begin.remote(peak_tokens_per_s)

    def post(
        self,
        record: StepRecord,
        seconds: float,
        failure: BadLoss | None,
        evaluations: Sequence[Evaluation] = (),
    ) -> None:
        """Send a step; waited for only where the driver must have it before this process ends."""
        self._posted = self._board.post.remote(record, seconds, failure, evaluations)
        if failure:
            ray.get(self._posted)

    def wish(self) -> Wish:
        """Return what is wanted now, without waiting for the driver."""
        if self._posted is not None and ray.wait([self._posted], timeout=0)[0] and ray.get(self._posted):
            return Wish.STOP
        if self._every_s is not None and time.monotonic() - self._saved >= self._every_s:
            return Wish.SAVE
        return Wish.NOTHING

    def saved(self) -> None:
        """Count the minutes from now."""
        self._saved = time.monotonic()
