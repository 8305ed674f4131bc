"""The record of a run."""

import pytest

from cluster.errors import UserError
from cluster.runs import Run
from cluster.storage import open_storage


def test_a_run_is_what_was_recorded(tmp_path):
    storage = open_storage(str(tmp_path))
    with pytest.raises(UserError, match="there are no runs yet"):
        Run.find(storage, "latest")
    run = Run.create(storage, {"mine": {"depth": 5}}, {"name": "local"}, "demo run")
    run.record_stage("ingest/a-1", "ingest", "running")
    run.record_stage("encode/a-2", "encode", "running")
    run.record_stage("ingest/a-1", "ingest", "done", rows=7, seconds=1.5, cached=True)
    run.event("started")
    run.set_metrics([{"metric": "ndcg", "k": 10, "value": 0.5}])
    run.finish("interrupted")
    found = Run.find(storage, "latest")
    assert found.record == run.record and found.id == run.id
    assert [(stage.stage, stage.state, stage.rows, stage.cached) for stage in found.record.stages] == [
        ("ingest", "done", 7, True),
        ("encode", "interrupted", 0, False),
    ]
    assert found.record.metrics[0]["value"] == 0.5 and found.record.events[0].text == "started"
    assert found.record.finished_at is not None and "demo-run" in run.id


def test_runs_are_found_by_id_and_listed(tmp_path):
    storage = open_storage(str(tmp_path))
    runs = [Run.create(storage, {}, {}, name) for name in ("a", "b")]
    assert [run.id for run in Run.list(storage)] == sorted((run.id for run in runs), reverse=True)
    assert Run.find(storage, runs[0].id).record.name == "a"
    with pytest.raises(UserError, match="no such run"):
        Run.find(storage, "nope")
    storage.write(f"runs/{runs[0].id}/run.json", b"{")
    with pytest.raises(UserError, match="the record of the run cannot be read"):
        Run.find(storage, runs[0].id)
