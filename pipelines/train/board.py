"""What the ranks and the driver tell each other while the ranks train."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipelines.train.turns import Turns


@dataclass(frozen=True)
class StepRecord:
    """One row of the table `training_steps`.

    Args:
        step: From 0.
        loss: Mean over the rows of the global batch.
        learning_rate: With which the weights were updated.
        gradient_norm: Before clipping, over all weights.
        tokens: Of the global batch, padding not counted.
        largest_expert_share: Of its tokens, that one expert of one layer got; None without experts.
        replaced_negatives: Mined negatives of its rows that give way to others from the next epoch on; None where
            they are not dynamic.
    """

    step: int
    loss: float
    learning_rate: float
    gradient_norm: float
    tokens: int
    largest_expert_share: float | None = None
    replaced_negatives: int | None = None

    @property
    def is_finite(self) -> bool:
        """Whether training may go on."""
        return math.isfinite(self.loss) and math.isfinite(self.gradient_norm)


@dataclass(frozen=True)
class Evaluation:
    """One row of the table `training_metrics`: retrieval on the dev cut.

    Args:
        steps: How many the weights have behind them; 0 for those that the training began with.
        metric: Name and rank, `ndcg@10`.
        value: Mean over the queries; NaN where the embeddings are not finite.
    """

    steps: int
    metric: str
    value: float


@dataclass
class History:
    """What a training has behind it.

    Args:
        steps: One record a step.
        evaluations: In their order.
        turns: Which of its mined negatives each group takes; None where they are not dynamic.
    """

    steps: list[StepRecord] = field(default_factory=list)
    evaluations: list[Evaluation] = field(default_factory=list)
    turns: "Turns | None" = None


@dataclass(frozen=True)
class Reading:
    """A step and how fast it went.

    Args:
        record: Of the step.
        tokens_per_s: Running mean.
        peak_share: Of the rate of plain matrix products on all ranks, 0 to 1. None: it was not measured.
        evaluations: Made since the step before.
    """

    record: StepRecord
    tokens_per_s: float
    peak_share: float | None = None
    evaluations: tuple[Evaluation, ...] = ()


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
        self._peak_tokens_per_s: float | None = None
        self._failure: BadLoss | Exception | None = None
        self._num_failed = 0
        self._stop = False

    def begin(self, peak_tokens_per_s: float) -> None:
        """Take how many tokens the ranks would train on, if they did nothing but multiply matrices."""
        self._peak_tokens_per_s = peak_tokens_per_s

    def post(
        self,
        record: StepRecord,
        seconds: float,
        failure: BadLoss | None,
        evaluations: Sequence[Evaluation] = (),
    ) -> bool:
        """Take the newest step.

        Args:
            record: Of the step.
            seconds: It took.
            failure: Why it is the last one, if it is.
            evaluations: Made since the step before.

        Returns:
            Whether the driver asks for an end.
        """
        rate, before = record.tokens / seconds, self._tokens_per_s
        self._tokens_per_s = rate if before is None else 0.8 * before + 0.2 * rate
        share = self._tokens_per_s / self._peak_tokens_per_s if self._peak_tokens_per_s else None
        self._unread.append(Reading(record, self._tokens_per_s, share, tuple(evaluations)))
        self._failure = self._failure or failure
        return self._stop

    def fail(self, error: Exception) -> None:
        """Take a rank's error that training again would not mend; the first one counts."""
        self._failure = self._failure or error
        self._num_failed += 1

    def num_failed(self) -> int:
        """Return how many ranks have failed so."""
        return self._num_failed

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
