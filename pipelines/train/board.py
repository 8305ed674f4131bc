"""What the ranks and the driver tell each other while the ranks train."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class StepRecord:
    """One row of the table `training_steps`.

    Args:
        step: From 0.
        loss: Mean over the rows of the global batch.
        learning_rate: With which the weights were updated.
        gradient_norm: Before clipping, over all weights.
        tokens: Of the global batch, padding not counted.
    """

    step: int
    loss: float
    learning_rate: float
    gradient_norm: float
    tokens: int

    @property
    def is_finite(self) -> bool:
        """Whether training may go on."""
        return math.isfinite(self.loss) and math.isfinite(self.gradient_norm)


@dataclass(frozen=True)
class Reading:
    """A step and how fast it went.

    Args:
        record: Of the step.
        tokens_per_s: Running mean.
    """

    record: StepRecord
    tokens_per_s: float


@dataclass(frozen=True)
class BadLoss:
    """Why the ranks stopped.

    Args:
        record: Of the step at which they stopped.
        queries: Ordinals of its global batch.
        limit: What the loss exceeded for too many steps. None: loss or gradient is not finite.
    """

    record: StepRecord
    queries: list[int]
    limit: float | None = None


class Board:
    """An actor that needs no core: rank 0 posts every step, the driver reads them and may ask for an end."""

    def __init__(self) -> None:
        self._unread: list[Reading] = []
        self._tokens_per_s: float | None = None
        self._failure: BadLoss | Exception | None = None
        self._stop = False

    def post(self, record: StepRecord, seconds: float, failure: BadLoss | None) -> bool:
        """Take the newest step, how long it took, and why it is the last one, if it is.

        Returns:
            Whether the driver asks for an end.
        """
        rate, before = record.tokens / seconds, self._tokens_per_s
        self._tokens_per_s = rate if before is None else 0.8 * before + 0.2 * rate
        self._unread.append(Reading(record, self._tokens_per_s))
        self._failure = self._failure or failure
        return self._stop

    def fail(self, error: Exception) -> None:
        """Take an error that training again would not mend; the first one counts."""
        self._failure = self._failure or error

    def stop(self) -> None:
        """Ask the ranks to write a checkpoint and end."""
        self._stop = True

    def read(self) -> list[Reading]:
        """Return the steps that were not read before."""
        unread, self._unread = self._unread, []
        return unread

    def failure(self) -> BadLoss | Exception | None:
        """Return why the training came to an early end, if it did."""
        return self._failure
