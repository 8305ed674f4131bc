import json
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.errors import UserError
from pipelines.ingest import pipeline
from pipelines.ingest.config import TextColumns, TextsConfig
from pipelines.ingest.pipeline import ingest_step
from pipelines.ingest.seen import CONFLICTING, NEW, REPEATED, SeenIds
from pipelines.schemas import DOCUMENTS, QRELS, QUARANTINE, QUERIES


def config(path, **settings):
    return TextsConfig(kind="texts", name="corpus", path=str(path), **settings)


def write_shards(folder, num_files, rows_each):
    folder.mkdir()
    for number in range(num_files):
        ids = [f"d{number * rows_each + row}" for row in range(rows_each)]
        table = pa.table({"id": ids, "text": [f"text of {name}" for name in ids], "other": [1.5] * rows_each})
        pq.write_table(table, folder / f"part-{number}.parquet")
    return folder


def test_a_folder_of_parquet_files_becomes_documents_and_nothing_else(tmp_path, ingest):
    folder = write_shards(tmp_path / "shards", 3, 5)
    (folder / "_SUCCESS").write_text("")
    (folder / ".part-0.parquet").write_bytes(b"junk")
    artifact = ingest(config(folder, language="en", shard_tokens=30))
    documents = artifact.read("documents")
    assert documents.schema.equals(DOCUMENTS, check_metadata=False)
    assert documents["doc"].to_pylist() == list(range(15))
    assert documents["doc_id"].to_pylist() == [f"d{n}" for n in range(15)]
    assert documents["text"].to_pylist()[7] == "text of d7"
    assert artifact.num_shards("documents") > 1
    for table, schema in (("queries", QUERIES), ("qrels", QRELS), ("quarantine", QUARANTINE)):
        assert artifact.read(table).schema.equals(schema, check_metadata=False)
        assert artifact.num_rows(table) == 0
    assert artifact.manifest.summary["documents"] == 15 and artifact.manifest.summary["files"] == 3


@pytest.mark.parametrize("suffix", ["parquet", "jsonl", "csv", "tsv"])
def test_every_kind_of_file_gives_the_same_documents(tmp_path, ingest, suffix):
    rows = [{"id": str(n), "title": f"title {n}" if n % 2 else "", "text": f"text, of {n}"} for n in range(9)]
    path = tmp_path / f"corpus.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif suffix == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        quote, between = ('"', ",") if suffix == "csv" else ("", "\t")
        cells = [["id", "title", "text"], *(list(row.values()) for row in rows)]
        path.write_text(
            "".join(between.join(f"{quote}{cell}{quote}" for cell in row) + "\n" for row in cells)
        )
    documents = ingest(config(path)).read("documents").select(["doc_id", "title", "text"]).to_pylist()
    assert documents == [
        {"doc_id": row["id"], "title": row["title"] or None, "text": row["text"]} for row in rows
    ]


def test_bad_rows_are_counted_by_reason_and_none_is_lost(tmp_path, ingest):
    lines = [
        b'{"id": "a", "text": "first"}',
        b'{"id": "a", "text": "first"}',
        b'{"id": "a", "text": "other"}',
        b'{"id": "b", "text": "  "}',
        b'{"id": "b", "text": "the one with a text"}',
        b'{"id": "c"}',
        b'{"text": "nameless"}',
        b'{"id": "d", "text": "na\xefve"}',
        b'{"id": "e", "text": ',
        b'{"id": 7, "text": "a number for an id"}',
    ]
    path = tmp_path / "corpus.jsonl"
    path.write_bytes(b"\n".join(lines) + b"\n")
    artifact = ingest(config(path))
    assert artifact.read("documents")["doc_id"].to_pylist() == ["a", "b", "7"]
    assert artifact.manifest.counters == {
        "corpus.jsonl: repeated row": 1,
        "corpus.jsonl: duplicate id, other text": 1,
        "corpus.jsonl: empty text": 1,
        "corpus.jsonl: no text": 1,
        "corpus.jsonl: no id": 1,
        "corpus.jsonl: not UTF-8": 1,
        "corpus.jsonl: broken JSON": 1,
    }
    quarantine = artifact.read("quarantine").to_pylist()
    assert len(quarantine) + artifact.num_rows("documents") == len(lines)
    assert {row["row"]: row["reason"] for row in quarantine}[3] == "duplicate id, other text"


def test_duplicates_are_found_across_files_and_quarantine_is_cut_into_shards(tmp_path, ingest, monkeypatch):
    monkeypatch.setattr(pipeline, "QUARANTINE_ROWS", 4)
    folder = write_shards(tmp_path / "shards", 2, 6)
    (folder / "again").mkdir()
    pq.write_table(pq.read_table(folder / "part-0.parquet"), folder / "again" / "part-9.parquet")
    changed = pq.read_table(folder / "part-1.parquet").set_column(1, "text", pa.array(["other"] * 6))
    pq.write_table(changed, folder / "part-5.parquet")
    artifact = ingest(config(folder, shard_tokens=1))
    # In the order of the names: again/part-9, part-0, part-1, part-5.
    assert artifact.read("documents")["doc_id"].to_pylist() == [f"d{n}" for n in range(12)]
    assert artifact.manifest.counters == {"duplicate id, other text": 6, "repeated row": 6}
    assert Counter(artifact.read("quarantine")["source"].to_pylist()) == {
        "part-0.parquet": 6,
        "part-5.parquet": 6,
    }
    assert artifact.num_shards("quarantine") > 1


def test_rows_without_ids_are_numbered(tmp_path, ingest):
    folder = write_shards(tmp_path / "shards", 2, 3)
    artifact = ingest(config(folder / "*.parquet", columns=TextColumns(id=None, title=None)))
    expected = [f"part-{file}.parquet:{row}" for file in range(2) for row in range(1, 4)]
    assert artifact.read("documents")["doc_id"].to_pylist() == expected


def test_a_limit_keeps_the_first_and_counts_the_rest(tmp_path, ingest):
    folder = write_shards(tmp_path / "shards", 3, 5)
    artifact = ingest(config(folder, limit=7))
    assert artifact.read("documents")["doc_id"].to_pylist() == [f"d{n}" for n in range(7)]
    assert artifact.manifest.counters == {"left out: documents beyond limit": 8}


def test_the_fingerprint_follows_the_bytes_not_the_place(tmp_path):
    folder = write_shards(tmp_path / "shards", 2, 3)
    before = ingest_step(config(folder)).fingerprint
    assert ingest_step(config(folder / "part-*.parquet")).fingerprint == before
    moved = folder.rename(tmp_path / "moved")
    assert ingest_step(config(moved)).fingerprint == before
    pq.write_table(pq.read_table(moved / "part-0.parquet").slice(1), moved / "part-0.parquet")
    assert ingest_step(config(moved)).fingerprint != before


def test_what_cannot_be_read_is_refused_before_any_work(tmp_path, ingest):
    folder = write_shards(tmp_path / "shards", 1, 2)
    with pytest.raises(UserError, match="missing column body"):
        ingest_step(config(folder, columns=TextColumns(text="body")))
    with pytest.raises(UserError, match="no file of texts"):
        ingest_step(config(folder / "*.csv"))
    with pytest.raises(UserError, match="table of texts not found"):
        ingest_step(config(folder / "part-7.parquet"))
    (folder / "more.csv").write_text("id,text\n")
    with pytest.raises(UserError, match=r"several kinds\n.*\.csv \.parquet"):
        ingest_step(config(folder))
    with pytest.raises(UserError, match=r"no usable documents\n  got: no row"):
        ingest(config(folder / "more.csv"))


def test_a_run_cut_short_gives_the_same_shards(tmp_path, ingest, monkeypatch):
    folder = write_shards(tmp_path / "shards", 3, 5)
    step = ingest_step(config(folder, shard_tokens=20))
    from cluster.artifacts import ArtifactStore

    store = ArtifactStore(str(tmp_path / "workspace"))
    writer = store.open(step.stage, step.label, step.fingerprint)
    calm = ingest_step(config(folder, shard_tokens=20))
    first = pipeline._documents_table
    calls = []

    def failing(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return first(*arguments)

    monkeypatch.setattr(pipeline, "_documents_table", failing)
    with pytest.raises(KeyboardInterrupt):
        ingest(config(folder, shard_tokens=20))
    kept = {index: shard.sha256 for index, shard in writer.finished("documents").items()}
    assert len(kept) == 2
    monkeypatch.undo()
    artifact = ingest(config(folder, shard_tokens=20))
    assert {i: artifact.manifest.tables["documents"].shards[i].sha256 for i in kept} == kept
    assert artifact.read("documents")["doc"].to_pylist() == list(range(15))
    assert artifact.manifest.fingerprint == calm.fingerprint


def test_nothing_is_left_of_files_that_changed_after_they_were_planned(tmp_path, ingest):
    folder = write_shards(tmp_path / "shards", 2, 3)
    right = (folder / "part-1.parquet").read_bytes()
    step = ingest_step(config(folder, shard_tokens=1))
    (folder / "part-1.parquet").write_bytes((folder / "part-0.parquet").read_bytes())
    with pytest.raises(UserError, match="changed while it was read"):
        ingest(None, step)
    (folder / "part-1.parquet").write_bytes(right)
    assert ingest(None, step).read("documents")["doc_id"].to_pylist() == [f"d{n}" for n in range(6)]


def test_verdicts_equal_a_dict(monkeypatch):
    generator = np.random.default_rng(0)
    seen, first = SeenIds(), {}
    for _ in range(60):
        size = int(generator.integers(0, 50))
        ids = [f"id{n}" for n in generator.integers(0, 800, size)]
        texts = [f"text{n}" for n in generator.integers(0, 3, size)]
        expected = []
        for name, text in zip(ids, texts, strict=True):
            expected.append(NEW if name not in first else REPEATED if first[name] == text else CONFLICTING)
            first.setdefault(name, text)
        assert seen.judge(ids, texts).tolist() == expected
        assert len(seen) == len(first)
    assert len(first) > 600
    places = {name: place for place, name in enumerate(first)}
    asked = [f"id{n}" for n in generator.integers(0, 900, 300)]
    assert seen.find(asked).tolist() == [places.get(name, -1) for name in asked]
