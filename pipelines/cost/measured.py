"""What steps took, from the artifacts that they left, to stand beside what was predicted."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from cluster.artifacts import Artifact, ArtifactStore
from cluster.runs import Run
from pipelines.cost.estimate import Estimate, Measured
from pipelines.cost.works import PlannedStep
from pipelines.steps import Step


def with_measured(estimate: Estimate, measured: Mapping[str, Measured]) -> Estimate:
    """Return the estimate with what the steps took."""
    steps = tuple(replace(step, measured=measured.get(step.step)) for step in estimate.steps)
    return replace(estimate, steps=steps)


def measure_steps(
    planned: Sequence[PlannedStep], steps: Mapping[str, Step], store: ArtifactStore, run: Run | None = None
) -> dict[str, Measured]:
    """Return what the planned steps took whose artifacts are there.

    Args:
        planned: The steps of the cost model.
        steps: The steps of ``pipelines.run.plan``.
        store: Where the artifacts are.
        run: Whose times count, where it computed a step itself; None: those in the manifests.
    """
    seconds = {stage.key: stage.seconds for stage in run.record.stages if not stage.cached} if run else {}
    found: dict[str, Measured] = {}
    for name, step in matched(planned, steps).items():
        artifact = store.find(step.stage, step.label, step.fingerprint)
        if artifact is not None:
            found[name] = measured_of(artifact, seconds.get(step.key))
    return found


def measured_of(artifact: Artifact, seconds: float | None = None) -> Measured:
    """Return what an artifact took to make.

    Args:
        artifact: Committed.
        seconds: Of the run that is looked at; None: of the one that committed.
    """
    manifest = artifact.manifest
    shards = [shard for table in manifest.tables.values() for shard in table.shards]
    tokens = manifest.summary.get("tokens", 0)
    return Measured(
        seconds=manifest.seconds if seconds is None else seconds,
        rows=sum(shard.rows for shard in shards),
        storage_bytes=sum(shard.num_bytes for shard in shards)
        + sum(file.num_bytes for file in manifest.files),
        tokens=tokens if isinstance(tokens, int) else 0,
        key=artifact.key,
    )


def matched(planned: Sequence[PlannedStep], steps: Mapping[str, Step]) -> dict[str, Step]:
    """Return the step of a run that each planned step stands for.

    By name; the steps of a stage that the two name differently are matched in order, if they are equally many.
    """
    by_name = {step.name: steps[step.name] for step in planned if step.name in steps}
    distinct = {step.key: step for step in steps.values()}
    taken = {step.key for step in by_name.values()}
    for stage in {step.stage for step in planned}:
        open_planned = [step.name for step in planned if step.stage == stage and step.name not in by_name]
        open_steps = [step for step in distinct.values() if step.stage == stage and step.key not in taken]
        if len(open_planned) == len(open_steps):
            by_name |= dict(zip(open_planned, open_steps, strict=True))
    return by_name
