"""What is measured between the steps of a training, and what follows from it on every rank alike."""

from collections import deque

from torch import distributed

from cluster.artifacts import ArtifactWriter
from pipelines.train import best_weights
from pipelines.train.board import Evaluation, History
from pipelines.train.dev_config import DevConfig
from pipelines.train.dev_cut import DevCut
from pipelines.train.dev_metric import DevMetric, best, is_due, is_exhausted
from pipelines.train.engine import Trainable


class DevWatch:
    """Adds evaluations to a training's history, keeps the best weights and says when to stop.

    Args:
        trainable: Encoder and engine.
        cut: What to measure on.
        config: How often, and what follows.
        writer: Of the training's artifact; the best weights wait in its scratch.
        history: Of the training; added to.
    """

    def __init__(
        self, trainable: Trainable, cut: DevCut, config: DevConfig, writer: ArtifactWriter, history: History
    ) -> None:
        self._trainable, self._writer, self._config, self._history = trainable, writer, config, history
        self._metric = DevMetric(trainable, cut, config.metric)
        # Of the last three checkpoints; the newest may be on its way, and the one before not yet noted down.
        self._in_checkpoints = deque([self._best_steps()], maxlen=3)

    def measure_if_due(self, num_steps: int) -> list[Evaluation]:
        """Measure, and keep the weights if they are the best; return what was measured.

        Args:
            num_steps: Of the whole training.
        """
        steps, done = len(self._history.steps), self._history.evaluations
        measured = bool(done) and done[-1].steps == steps
        if measured or not is_due(steps, num_steps, self._config.every_steps):
            return []
        done.append(self._metric.measure(steps))
        if self._config.keep == "best" and best(done) is done[-1]:
            best_weights.keep(self._trainable, self._writer, steps)
        return done[-1:]

    def ends(self) -> bool:
        """Say whether the training is to end without the steps that are left."""
        return is_exhausted(self._history.evaluations, self._config.patience)

    def saved(self) -> None:
        """Forget weights that none of the last checkpoints needs."""
        self._in_checkpoints.append(self._best_steps())
        if distributed.get_rank() == 0 and self._config.keep == "best":
            best_weights.forget_others(self._writer, set(self._in_checkpoints))

    def _best_steps(self) -> int | None:
        found = best(self._history.evaluations)
        return found.steps if found else None
