"""What the driver hands to every rank."""

from dataclasses import dataclass
from typing import Any

from cluster.artifacts import Artifact, ArtifactWriter
from pipelines.train.config import UNFELT, TrainConfig
from pipelines.train.cross_encoder import LocatedTrained
from pipelines.train.owner import Owner


@dataclass(frozen=True)
class TrainTask:
    """What a rank is told.

    Args:
        plan: Artifact with the order and the tokens.
        data: Ingest artifact, for the texts that the export is checked with.
        writer: Of the whole training: whose checkpoints and best weights these are.
        model: To start from; its dtype is that of matrix products.
        config: Of the training.
        num_threads: Of one rank.
        board: Actor that shows the driver how far the training is.
        cut: Reference to the DevCut in Ray's object store; None where nothing is measured.
        first_plan: That the training began with, where it is another one; learning rates follow its steps.
        until: Steps to end after. None: all.
        result: Takes the trained model and the table of the steps. None: `writer`.
    """

    plan: Artifact
    data: Artifact
    writer: ArtifactWriter
    model: LocatedTrained
    config: TrainConfig
    num_threads: int
    board: Any
    cut: Any = None
    first_plan: Artifact | None = None
    until: int | None = None
    result: ArtifactWriter | None = None

    @property
    def owner(self) -> Owner:
        """What checkpoints are marked with."""
        return Owner(self.writer.fingerprint, self.config.model_dump(mode="json", exclude=UNFELT))

    @property
    def teachers(self) -> tuple[str, ...]:
        """Names of the teachers whose scores the plan holds, in their order."""
        names = self.plan.manifest.summary["teachers"]
        assert isinstance(names, list)
        return tuple(map(str, names))
