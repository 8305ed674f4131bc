import csv
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import TypeAdapter, ValidationError

from cluster.errors import UserError
from pipelines.ingest.config import DataConfig, PairColumns, PairsConfig
from pipelines.ingest.pipeline import ingest_step

WORDS = ["copper", "tin", "zinc", "lead", "iron", "silver", "gold", "nickel", "cobalt", "tungsten"]


def config(path, **fields):
    return PairsConfig(kind="pairs", name="clicks", path=str(path), **fields)


def write_csv(path, header, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def test_equal_texts_are_joined(tmp_path, ingest):
    rows = [
        ("a b", "x\ny", 2, "train"),
        ("a  b", "z", "", "train"),
        ("c", "x y", 1, "val"),
        ("a b", "z", 1, "train"),
    ]
    artifact = ingest(config(write_csv(tmp_path / "p.csv", ["query", "document", "score", "split"], rows)))
    assert artifact.read("queries")["text"].to_pylist() == ["a b", "c"]
    assert artifact.read("documents")["text"].to_pylist() == ["x\ny", "z"]
    judged = [tuple(row.values()) for row in artifact.read("qrels").to_pylist()]
    assert judged == [(0, 0, 2.0, "train"), (0, 1, 1.0, "train"), (1, 0, 1.0, "dev")]
    assert artifact.manifest.counters == {"p.csv: repeated judgment": 1}


def test_csv_jsonl_and_parquet_agree_and_columns_have_other_names(tmp_path, ingest):
    rows = [(f"how is {word} mined", f'the answer, "{word}",\nis deep') for word in WORDS]
    table = {"q": [q for q, _ in rows], "d": [d for _, d in rows]}
    write_csv(tmp_path / "p.csv", ["q", "d"], rows)
    pq.write_table(pa.table(table), tmp_path / "p.parquet")
    (tmp_path / "p.jsonl").write_text("".join(json.dumps({"q": q, "d": d}) + "\n" for q, d in rows))
    columns = PairColumns(query="q", document="d")
    found = [ingest(config(tmp_path / f"p.{kind}", columns=columns)) for kind in ("csv", "parquet", "jsonl")]
    for table_name in ("documents", "queries", "qrels"):
        assert found[0].read(table_name).equals(found[1].read(table_name))
        assert found[0].read(table_name).equals(found[2].read(table_name))
    assert found[0].num_rows("queries") == len(WORDS)


def test_every_row_is_accounted_for(tmp_path, ingest):
    path = tmp_path / "p.csv"
    path.write_bytes(
        b"\xef\xbb\xbfquery,document,score,split\n"
        b"one,first,1,train\n"
        b"two,sec\xffond,1,train\n"
        b"three,,1,train\n"
        b"four,fourth,-1,train\n"
        b"five,fifth,inf,train\n"
        b"six,sixth,1,later\n"
        b"seven,seventh\n"
        b"eight,eighth,1,\n"
        b'nine,"nine"th,1,train\n'
        b"ten,tenth,1,test\n"
    )
    artifact = ingest(config(path))
    rows = [(row["row"], row["reason"]) for row in artifact.read("quarantine").to_pylist()]
    assert rows == [
        (3, "not UTF-8"),
        (4, "empty document"),
        (5, "judged not relevant"),
        (6, "score is not a finite number"),
        (7, "unknown split"),
        (8, "broken quoting or wrong number of cells"),
        (9, "no split, unlike other rows"),
        (10, "broken quoting or wrong number of cells"),
    ]
    assert artifact.num_rows("qrels") + len(rows) == 10
    assert artifact.read("queries")["text"].to_pylist() == ["one", "ten"]


def test_long_cells_and_open_quotes(tmp_path, ingest):
    path = write_csv(tmp_path / "p.csv", ["query", "document", "split"], [("a", "word " * 50_000, "test")])
    assert len(ingest(config(path)).read("documents")["text"][0].as_py()) == 249_999
    path.write_text('query,document,split\na,b,test\nc,"never closed,test\nd,e,test\n')
    with pytest.raises(UserError, match=r"line 3: a quote is opened and never closed"):
        ingest(config(path))


def test_missing_columns_and_files_are_refused(tmp_path):
    path = write_csv(tmp_path / "pairs.csv", ["question", "document"], [])
    with pytest.raises(UserError, match=r"missing column query\n  got: question, document"):
        ingest_step(config(path))
    with pytest.raises(UserError, match=r"did you mean .*pairs\.csv"):
        ingest_step(config(tmp_path / "pair.csv"))
    (tmp_path / "pairs.txt").write_text("")
    with pytest.raises(UserError, match="unknown kind of file"):
        ingest_step(config(tmp_path / "pairs.txt"))


def test_config_is_told_apart_by_kind():
    adapter = TypeAdapter(DataConfig)
    assert adapter.validate_python({"kind": "docstrings"}).packages == ("pandas", "sklearn", "scipy")
    with pytest.raises(ValidationError, match=r"train 0\.7 \+ dev 0\.1 \+ test 0\.5 = 1\.3"):
        adapter.validate_python({"kind": "docstrings", "splits": {"test": 0.5}})
    with pytest.raises(ValidationError, match="extra"):
        adapter.validate_python({"kind": "beir", "name": "x", "path": "y", "packages": []})
