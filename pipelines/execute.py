"""Run the steps that are needed, in order, and keep the run's record."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import monotonic

from cluster.artifacts import Artifact, ArtifactStore
from cluster.runs import Run
from cluster.session import Session
from pipelines.progress import Progress
from pipelines.steps import Step, make


@dataclass(frozen=True)
class Done:
    """What became of one step.

    Args:
        step: The step.
        artifact: Its artifact; None where nothing that is still to be done reads it.
        cached: Whether it was there already.
        seconds: What it took, 0 where it was cached.
    """

    step: Step
    artifact: Artifact | None
    cached: bool
    seconds: float

    @property
    def rows(self) -> int:
        """Rows of all tables of the artifact."""
        if self.artifact is None:
            return 0
        return sum(self.artifact.num_rows(table) for table in self.artifact.manifest.tables)


def made(done: Done) -> Artifact:
    """Return the artifact of a step that was a target: it is there."""
    assert done.artifact is not None
    return done.artifact


def line_of(done: Done) -> str:
    """Return one line on a step that is through."""
    computed = f"{done.seconds:.1f} s"
    state = "not needed" if done.artifact is None else "cached" if done.cached else computed
    rows = f"{done.rows:,} rows" if done.rows else ""
    return f"  [green]{done.step.stage:<9}[/]{rows:>15} {state:>10}  [dim]{done.step.label}[/]"


def survey(steps: Mapping[str, Step], targets: Sequence[str], store: ArtifactStore) -> dict[str, str]:
    """Say of every step that the targets depend on what a run would do with it.

    Returns:
        Step name -> ``"cached"``, ``"partial (5 of 9 shards)"``, ``"to run"`` or ``"not needed"``.
    """
    states: dict[str, str] = {}
    told: set[str] = set()
    for name, step, needed in _in_order(steps, targets, store):
        if step.key in told:  # under another name
            continue
        told.add(step.key)
        if store.find(step.stage, step.label, step.fingerprint):
            states[name] = "cached"
        elif needed:
            states[name] = _progress_of(step, store)
        else:
            states[name] = "not needed"
    return states


def _progress_of(step: Step, store: ArtifactStore) -> str:
    finished = store.open(step.stage, step.label, step.fingerprint).num_finished()
    if not finished:
        return "to run"
    inputs = {name: store.find(of.stage, of.label, of.fingerprint) for name, of in step.inputs.items()}
    present = {name: artifact for name, artifact in inputs.items() if artifact is not None}
    if step.count_shards is None or len(present) < len(inputs):
        return f"partial ({finished} shards)"
    return f"partial ({finished} of {step.count_shards(present)} shards)"


def execute(
    steps: Mapping[str, Step],
    targets: Sequence[str],
    store: ArtifactStore,
    session: Session,
    progress: Progress,
    run: Run,
) -> dict[str, Done]:
    """Compute what the targets need and is not there yet.

    Args:
        steps: All steps by name, each after its inputs.
        targets: Names of the steps wanted.
        store: Where artifacts are found and made.
        session: The cluster; started by the first step that needs it.
        progress: The live line.
        run: The record; told of every step as it ends.
    """
    done: dict[str, Done] = {}
    by_key: dict[str, Done] = {}
    for name, step, needed in _in_order(steps, targets, store):
        if step.key in by_key:
            done[name] = by_key[step.key]
            continue
        artifact = store.find(step.stage, step.label, step.fingerprint)
        cached, started = artifact is not None, monotonic()
        if artifact is None and needed:
            run.record_stage(step.key, step.stage, "running")
            artifact = _compute(step, by_key, store, session, progress, run)
        done[name] = by_key[step.key] = Done(step, artifact, cached, 0.0 if cached else monotonic() - started)
        if artifact is not None:
            run.record_stage(step.key, step.stage, "done", done[name].rows, done[name].seconds, cached)
        progress.log(line_of(done[name]))
    return done


def _compute(
    step: Step,
    by_key: Mapping[str, Done],
    store: ArtifactStore,
    session: Session,
    progress: Progress,
    run: Run,
) -> Artifact:
    inputs = {name: by_key[source.key].artifact for name, source in step.inputs.items()}
    present = {name: artifact for name, artifact in inputs.items() if artifact is not None}
    try:
        return make(step, present, store.storage, session, progress, run)
    finally:
        progress.end()


def _in_order(
    steps: Mapping[str, Step], targets: Sequence[str], store: ArtifactStore
) -> list[tuple[str, Step, bool]]:
    """Return the targets' steps in order, each with whether a run without cache hits downstream would read it."""
    reachable: set[str] = set()
    needed: set[str] = set()

    def visit(step: Step, wanted: bool) -> None:
        if step.key in needed or (step.key in reachable and not wanted):
            return
        reachable.add(step.key)
        absent = wanted and store.find(step.stage, step.label, step.fingerprint) is None
        if absent:
            needed.add(step.key)
        for source in step.inputs.values():
            visit(source, absent)

    for target in targets:
        visit(steps[target], True)
    return [(name, step, step.key in needed) for name, step in steps.items() if step.key in reachable]
