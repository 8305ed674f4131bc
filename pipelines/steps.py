"""A step: what one stage will compute, known by fingerprint before anything runs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from time import monotonic
from typing import TYPE_CHECKING

from cluster.artifacts import Artifact, ArtifactWriter, fingerprint
from cluster.committed import find_committed
from cluster.errors import UserError
from cluster.storage import Storage

if TYPE_CHECKING:
    from cluster.runs import Run
    from cluster.session import Session
    from pipelines.progress import Progress


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


@dataclass(frozen=True)
class Step:
    """One stage with its resolved config and inputs; equal fingerprints mean equal results.

    Args:
        stage: Name of the stage's folder.
        label: What a person recognises in a listing, such as the data set or the model.
        stage_version: Raised by a stage whenever its output would change.
        identity: Everything besides the inputs that the result depends on: resolved config, digests of model
            bytes, dtype, device kind. JSON values only.
        libraries: Installed distributions whose version can change the numbers.
        inputs: The steps whose artifacts this one reads.
        run: Computes the artifact; must end with ``work.commit``.
        count_shards: Says from the inputs how many shards a complete artifact is made of, for stages that resume
            in the middle.
    """

    stage: str
    label: str
    stage_version: int
    identity: Mapping[str, object]
    libraries: tuple[str, ...]
    inputs: Mapping[str, "Step"]
    run: "Callable[[Work], Artifact]"
    count_shards: Callable[[Mapping[str, Artifact]], int] | None = None

    @cached_property
    def full_identity(self) -> dict[str, object]:
        """All that the fingerprint hashes, as the manifest records it."""
        return {
            "stage": self.stage,
            "stage_version": self.stage_version,
            "config": dict(self.identity),
            "libraries": {name: _installed(name) for name in self.libraries},
            "inputs": {name: step.fingerprint for name, step in sorted(self.inputs.items())},
        }

    @cached_property
    def fingerprint(self) -> str:
        """20 hex digits."""
        return fingerprint(self.full_identity)

    @property
    def key(self) -> str:
        """Where the artifact lives under the storage root."""
        return f"{self.stage}/{self.label}-{self.fingerprint}"


@dataclass
class Work:
    """What a running step is given.

    Args:
        step: What is computed.
        inputs: Its inputs.
        writer: The open artifact.
        session: The cluster.
        progress: The live line.
        run: The record of the run. None: nobody keeps one.
        started: When it began, as ``monotonic`` says it.
    """

    step: Step
    inputs: Mapping[str, Artifact]
    writer: ArtifactWriter
    session: "Session"
    progress: "Progress"
    run: "Run | None" = None
    started: float = field(default_factory=monotonic)

    def commit(
        self,
        num_shards: Mapping[str, int],
        summary: Mapping[str, object] | None = None,
        counters: Mapping[str, int] | None = None,
    ) -> Artifact:
        """Write the manifest: from here on the artifact exists.

        Args:
            num_shards: Table name -> how many shards a complete table has.
            summary: Small JSON facts for reports.
            counters: What was dropped, by reason, beyond the shards' own counters.
        """
        return self.writer.commit(
            stage_version=self.step.stage_version,
            num_shards=num_shards,
            identity=self.step.full_identity,
            inputs={name: step.key for name, step in self.step.inputs.items()},
            summary=summary or {},
            counters=counters or {},
            seconds=monotonic() - self.started,
        )

    def compute(self, step: Step) -> Artifact:
        """Return the artifact of a step that this one finds it needs, made now where the storage has it not.

        Its inputs are made as well. The run's record names them all, so that collection leaves them to it.
        """
        if self.run is not None:
            self.run.record_artifact(step.key)
        found = find_committed(self.writer.storage, step.key)
        if found is not None:
            return found
        inputs = {name: self.compute(source) for name, source in step.inputs.items()}
        try:
            return make(step, inputs, self.writer.storage, self.session, self.progress, self.run)
        finally:
            self.progress.begin(self.step.stage)


def make(
    step: Step,
    inputs: Mapping[str, Artifact],
    storage: Storage,
    session: "Session",
    progress: "Progress",
    run: "Run | None" = None,
) -> Artifact:
    """Return the artifact of a step that was not there; of two runs at once the one that commits first makes it.

    Args:
        step: The step.
        inputs: Artifacts of its inputs, by name.
        storage: Where it is made.
        session: The cluster.
        progress: The live line, which this opens.
        run: The record of the run, if one is kept.
    """
    writer = ArtifactWriter(storage, step.stage, step.label, step.fingerprint)
    progress.begin(step.stage)
    try:
        return step.run(Work(step, inputs, writer, session, progress, run))
    except Exception:
        # The faster run sweeps the other's shards away: its result is ours too.
        winner = find_committed(storage, step.key)
        if winner is None:
            raise
        return winner


def label_of(text: str) -> str:
    """Return ``text`` as a path-safe label of at most 40 characters.

    Raises:
        UserError: Nothing of the text can stand in a path.
    """
    label = "".join(c if c.isascii() and (c.isalnum() or c in "._") else "_" for c in text).strip("._")[:40]
    if not label:
        raise UserError("a name needs at least one letter or digit", got=repr(text))
    return label
