"""What garbage collection must keep: what any run or release names."""

from cluster import releases
from cluster.artifacts import ArtifactStore
from cluster.runs import Run


def rooted_keys(store: ArtifactStore, keep_runs: int | None) -> set[str]:
    """Return the keys of the artifacts that runs and releases name.

    A run that failed or was interrupted is a root too: the same command resumes it.

    Args:
        store: Whose runs and releases are read.
        keep_runs: How many of the newest runs count; None for all.
    """
    runs = [run.record for run in Run.list(store.storage)[:keep_runs]]
    made = {stage.key for run in runs for stage in run.stages}
    made.update(key for run in runs for key in run.artifacts)
    return made.union(*(record.artifacts.values() for record in releases.listed(store)))
