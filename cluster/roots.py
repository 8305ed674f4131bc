"""What garbage collection must keep: what any run or release names, and all that was read to make it."""

import json

from cluster.artifacts import ArtifactStore
from cluster.runs import Run


def rooted_keys(store: ArtifactStore) -> set[str]:
    """Return the keys of the artifacts that runs and releases need, inputs of inputs included.

    A run that ended as failed or interrupted is a root too: the same command resumes it.
    """
    wanted = [stage.key for run in Run.list(store.storage) for stage in run.record.stages]
    for key in store.storage.list("releases"):
        wanted += json.loads(store.storage.read(key))["artifacts"].values()
    inputs = {manifest.key: list(manifest.inputs.values()) for manifest in store.list()}
    kept: set[str] = set()
    while wanted:
        key = wanted.pop()
        if key not in kept:
            kept.add(key)
            wanted += inputs.get(key, [])
    return kept
