import json

import pytest
from rich.console import Console

from cluster.artifacts import ArtifactStore
from pipelines.ingest.pipeline import ingest_step
from pipelines.progress import Progress
from pipelines.steps import Work


@pytest.fixture
def ingest(tmp_path):
    """Run the step of a config, or one that was planned before, and return its artifact."""

    def run(config, step=None):
        step = step or ingest_step(config)
        store = ArtifactStore(str(tmp_path / "workspace"))
        writer = store.open(step.stage, step.label, step.fingerprint)
        return step.run(Work(step, {}, writer, None, Progress(Console(quiet=True))))

    return run


@pytest.fixture
def beir(tmp_path):
    """Write a data set in BEIR's layout and return its folder."""

    def write(documents, queries, **qrels):
        folder = tmp_path / "set"
        (folder / "qrels").mkdir(parents=True, exist_ok=True)
        for name, rows in (("corpus", documents), ("queries", queries)):
            lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
            (folder / f"{name}.jsonl").write_bytes(b"\n".join(lines) + b"\n")
        for split, rows in qrels.items():
            lines = ["query-id\tcorpus-id\tscore", *("\t".join(map(str, row)) for row in rows)]
            (folder / "qrels" / f"{split}.tsv").write_text("\n".join(lines) + "\n")
        return folder

    return write
