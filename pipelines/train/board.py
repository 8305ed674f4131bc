"""What the ranks tell the driver while they train."""

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
class NonFiniteLoss:
    """Why the ranks stopped.

    Args:
        record: Of the step at which they stopped.
        queries: Ordinals of its global batch.
    """

    record: StepRecord
    queries: list[int]


class Board:
    """An actor that needs no core: rank 0 posts the newest step, the driver reads it."""

    def __init__(self) -> None:
        self._record: StepRecord | None = None
        self._tokens_per_s = 0.0
        self._failure: NonFiniteLoss | Exception | None = None

    def post(self, record: StepRecord, seconds: float, failure: NonFiniteLoss | None) -> None:
        """Take the newest step, how long it took, and why it is the last one, if it is."""
        rate = record.tokens / seconds
        self._tokens_per_s = 0.8 * self._tokens_per_s + 0.2 * rate if self._record else rate
        self._record, self._failure = record, failure

    def fail(self, error: Exception) -> None:
        """Take an error that training again would not mend; the first one counts."""
        self._failure = self._failure or error

    def read(self) -> tuple[StepRecord | None, float]:
        """Return the newest step, if any, and a running mean of tokens/s."""
        return self._record, self._tokens_per_s

    def failure(self) -> NonFiniteLoss | Exception | None:
        """Return why the training came to an early end, if it did."""
        return self._failure
