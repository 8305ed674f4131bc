"""What garbage collection must keep: what any run or release names, and all that was read to make it."""

from cluster import releases
from cluster.artifacts import ArtifactStore
from cluster.runs import Run


def rooted_keys(store: ArtifactStore) -> set[str]:
    """Return the keys of the artifacts that runs and releases need, inputs of inputs included.

    A run that ended as failed or interrupted is a root too: the same command resumes it.
    """
    wanted = [stage.key for run in Run.list(store.storage) for stage in run.record.stages]
    wanted += [key for record in releases.listed(store) for key in record.artifacts.values()]
    inputs = {manifest.key: list(manifest.inputs.values()) for manifest in store.list()}
    kept: set[str] = set()
    while wanted:
        key = wanted.pop()
        if key not in kept:
            kept.add(key)
            wanted += inputs.get(key, [])
    return kept
