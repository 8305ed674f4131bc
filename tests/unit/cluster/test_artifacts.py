"""Artifacts: receipts, the commit, races, resumption, corruption, collection."""

import pickle
from pathlib import Path

import pyarrow as pa
import pytest

from cluster.artifacts import ArtifactStore, ArtifactWriter, fingerprint
from cluster.errors import UserError

FP = "0" * 20
SCHEMA = pa.schema(
    [pa.field("doc", pa.int64(), nullable=False)],
    metadata={b"stope.table": b"documents", b"stope.version": b"3"},
)


def rows(*values: int) -> pa.Table:
    return pa.table({"doc": list(values)}, schema=SCHEMA)


def commit(writer: ArtifactWriter, num_shards: int = 2, **inputs: str):
    return writer.commit(
        stage_version=1,
        num_shards={"documents": num_shards},
        identity={"a": 1},
        inputs=inputs,
        counters={"late": 1},
    )


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(str(tmp_path))


def test_fingerprint_is_stable_and_ignores_order():
    assert fingerprint({"a": 1, "b": [1.5, None]}) == fingerprint({"b": [1.5, None], "a": 1})
    assert fingerprint({"a": 1}) == "015abd7f5cc57a2dd94b"
    assert fingerprint({"a": 1}) != fingerprint({"a": "1"})
    with pytest.raises(ValueError, match="JSON compliant"):
        fingerprint({"a": float("nan")})
    with pytest.raises(TypeError):
        fingerprint({"a": object()})


def test_what_was_committed_is_read_back(store):
    writer = store.open("ingest", "docs", FP)
    assert store.find("ingest", "docs", FP) is None
    worker = pickle.loads(pickle.dumps(writer))
    worker.write_shard("documents", 1, rows(7), counters={"empty": 2, "late": 1})
    assert writer.missing("documents", 2) == [0]
    writer.write_shard("documents", 0, rows(1, 2), counters={"empty": 1})
    made = commit(writer)
    found = store.find("ingest", "docs", FP)
    assert found is not None and found.manifest == made.manifest
    assert found.manifest.counters == {"empty": 3, "late": 2}
    assert found.manifest.tables["documents"].schema_version == 3
    assert found.first_rows("documents").tolist() == [0, 2, 3]
    assert found.num_rows("documents") == 3 and found.num_shards("documents") == 2
    assert found.read("documents").column("doc").to_pylist() == [1, 2, 7]
    assert found.read_shard("documents", 0).schema.equals(SCHEMA, check_metadata=True)
    assert [manifest.key for manifest in store.list()] == [f"ingest/docs-{FP}"]


def test_an_incomplete_table_is_refused(store):
    writer = store.open("ingest", "docs", FP)
    writer.write_shard("documents", 0, rows(1))
    with pytest.raises(UserError, match=r"1 of 3 shards; missing \[1, 2\]"):
        commit(writer, 3)
    assert store.find("ingest", "docs", FP) is None


def test_a_later_attempt_keeps_what_is_finished(store):
    first = store.open("ingest", "docs", FP)
    kept = first.write_shard("documents", 0, rows(1))
    second = store.open("ingest", "docs", FP)
    second.attempt = f"f{second.attempt[1:]}"
    assert second.missing("documents", 2) == [1]
    second.write_shard("documents", 0, rows(999))
    second.write_shard("documents", 1, rows(2))
    made = commit(second)
    assert made.manifest.tables["documents"].shards[0] == kept
    assert made.read("documents").column("doc").to_pylist() == [1, 2]


def test_the_loser_of_a_race_adopts_the_winner(store):
    winner, loser = store.open("ingest", "docs", FP), store.open("ingest", "docs", FP)
    for writer, value in ((winner, 1), (loser, 2)):
        writer.write_shard("documents", 0, rows(value))
    committed = []

    def create(key: str, content: bytes) -> bool:
        # The winner commits between the loser's look and its own commit.
        committed.append(commit(winner, 1))
        return type(loser.storage).create(loser.storage, key, content)

    loser.storage = pickle.loads(pickle.dumps(loser.storage))
    loser.storage.create = create
    adopted = commit(loser, 1)
    assert adopted.manifest == committed[0].manifest
    again = store.open("ingest", "docs", FP)
    assert commit(again, 1).manifest == adopted.manifest


def test_a_shard_without_a_receipt_is_not_finished(store):
    writer = store.open("ingest", "docs", FP)
    shard = writer.write_shard("documents", 0, rows(1))
    store.storage.delete(f"{writer.key}/{shard.path.replace('.parquet', '.json')}")
    assert writer.finished("documents") == {}
    writer.write_shard("documents", 0, rows(1))
    assert list(writer.finished("documents")) == [0]
    store.storage.delete(f"{writer.key}/{shard.path}")
    assert writer.finished("documents") == {}


def test_tables_of_similar_names_do_not_mix(store):
    writer = store.open("ingest", "docs", FP)
    writer.write_shard("documents-long", 0, rows(1))
    assert writer.finished("documents") == {}
    writer.write_shard("documents", 0, rows(1))
    assert list(writer.finished("documents")) == [0] and list(writer.finished("documents-long")) == [0]


def test_nothing_but_the_committed_remains(store):
    writer = store.open("train", "m", FP)
    writer.write_shard("order", 0, rows(1))
    writer.write_shard("documents", 0, rows(1))
    store.storage.write(f"{writer.key}/scratch/checkpoint/x", b"1")
    assert writer.scratch_uri.endswith(f"train/m-{FP}/scratch")
    commit(writer, 1)
    names = [key.rsplit("/", 1)[1] for key in store.storage.list("train")]
    assert [name.split(".")[-1] for name in names] == ["parquet", "json"] and names[1] == "manifest.json"


@pytest.mark.parametrize("damage", [b"", b"PAR1 not what it was"])
def test_a_corrupt_shard_is_named_with_its_mend(store, damage):
    writer = store.open("ingest", "docs", FP)
    shard = writer.write_shard("documents", 0, rows(1))
    made = commit(writer, 1)
    store.storage.write(f"{writer.key}/{shard.path}", damage)
    with pytest.raises(UserError) as caught:
        made.read_shard("documents", 0)
    assert shard.path in str(caught.value) and f"delete {made.uri}" in str(caught.value)
    store.storage.delete(f"{writer.key}/{shard.path}")
    with pytest.raises(UserError, match="the file is gone"):
        made.read_shard("documents", 0)


def test_a_corrupt_manifest_is_named(store):
    store.storage.write(f"ingest/docs-{FP}/manifest.json", b"{}")
    with pytest.raises(UserError, match="the artifact's manifest cannot be read"):
        store.find("ingest", "docs", FP)


def test_files_and_folders(store, tmp_path):
    (tmp_path / "out" / "1_Pooling").mkdir(parents=True)
    (tmp_path / "out" / "config.json").write_text("{}")
    (tmp_path / "out" / "1_Pooling" / "config.json").write_text("{1}")
    stale = store.open("train", "m", FP)
    stale.put_directory("model", tmp_path / "out")
    writer = store.open("train", "m", FP)
    writer.write_shard("documents", 0, rows(1))
    pickle.loads(pickle.dumps(writer)).put_directory("model", tmp_path / "out")
    writer.put_file("notes.txt", tmp_path / "out" / "config.json")
    made = commit(writer, 1)
    folder = made.directory("model")
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()) == [
        "1_Pooling/config.json",
        "config.json",
    ]
    assert made.file("notes.txt").read_text() == "{}"
    with pytest.raises(UserError, match="no such file"):
        made.file("absent")
    (folder / "config.json").write_text("[]")
    fresh = store.find("train", "m", FP)
    assert fresh is not None
    with pytest.raises(UserError, match="differs from what the artifact recorded"):
        fresh.directory("model")


def test_collection_keeps_the_roots_and_their_inputs(store):
    for name, inputs in (("a", {}), ("b", {"corpus": f"ingest/a-{FP}"}), ("c", {})):
        writer = store.open("ingest", name, FP)
        writer.write_shard("documents", 0, rows(1))
        commit(writer, 1, **inputs)
    store.open("ingest", "half", FP).write_shard("documents", 0, rows(1))
    store.storage.write("runs/r1/run.json", b"{}")
    store.storage.write("releases/x/manifest.json", b"{}")
    doomed = [f"ingest/c-{FP}", f"ingest/half-{FP}"]
    assert store.collect({f"ingest/b-{FP}"}, dry_run=True) == doomed
    assert len(store.list()) == 3
    assert store.collect({f"ingest/b-{FP}"}, dry_run=False) == doomed
    assert [manifest.label for manifest in store.list()] == ["a", "b"]
    assert store.storage.exists("runs/r1/run.json") and store.storage.exists("releases/x/manifest.json")


def test_collection_leaves_what_is_nobodys_artifact(store):
    others = [
        "data/squad/corpus.jsonl",
        "projects/team/model/weights.bin",
        f"scores/pairs-{FP}/base-0.parquet",
    ]
    for key in others:
        store.storage.write(key, b"x")
    assert store.collect([], dry_run=False) == []
    assert all(map(store.storage.exists, others))
