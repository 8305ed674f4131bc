"""What the page on a run is made of, read from the store."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.artifacts import Artifact, ArtifactStore
from cluster.committed import find_committed
from cluster.errors import UserError
from cluster.runs import RunRecord
from pipelines.report.page import run_page
from pipelines.report.tables import SCHEMAS, Audit


@dataclass(frozen=True)
class Gathered:
    """A run and what its artifacts say.

    Args:
        record: The run.
        audits: Data set -> audits that the run took or made, by the number of the mining.
        dropped: Artifact key -> what its stage dropped, by reason; collected artifacts are left out.
    """

    record: RunRecord
    audits: Mapping[str, Mapping[str, Audit]]
    dropped: Mapping[str, Mapping[str, int]]


def gather_run(store: ArtifactStore, record: RunRecord) -> Gathered:
    """Read the audits and the counters of a run's artifacts, those that are still there."""
    audits: dict[str, list[Audit]] = {}
    dropped: dict[str, Mapping[str, int]] = {}
    for stage in record.stages:
        folder, _, name = stage.key.partition("/")
        label, _, fp = name.rpartition("-")
        artifact = store.find(folder, label, fp) if stage.state == "done" else None
        if artifact is None:
            continue
        dropped[stage.key] = artifact.manifest.counters
        for each in (artifact, *_mined_meanwhile(store, artifact)):
            if set(SCHEMAS) <= set(each.manifest.tables):
                audits.setdefault(each.manifest.label.removesuffix("-audit"), []).append(Audit.read(each))
    numbered = {
        dataset: {f"mining {number}": audit for number, audit in enumerate(found, start=1)}
        for dataset, found in audits.items()
    }
    return Gathered(record, numbered, dropped)


def _mined_meanwhile(store: ArtifactStore, trained: Artifact) -> list[Artifact]:
    """Return the audits that a training names, those that are still there."""
    keys: Any = trained.manifest.summary.get("audits", [])
    found = (find_committed(store.storage, key) for key in keys)
    return [artifact for artifact in found if artifact is not None]


def write_page(gathered: Gathered, path: Path) -> Path:
    """Write the page on a run and return its absolute path.

    Raises:
        UserError: The file cannot be written.
    """
    target = path.expanduser().absolute()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(run_page(gathered.record, gathered.audits, gathered.dropped), encoding="utf-8")
    except OSError as error:
        raise UserError(
            "cannot write the report", str(target), str(error), fix="choose another --output"
        ) from error
    return target
