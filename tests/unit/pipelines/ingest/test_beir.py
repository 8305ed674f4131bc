from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.errors import UserError
from pipelines.ingest.config import BeirConfig, BeirFiles
from pipelines.ingest.pipeline import ingest_step
from pipelines.schemas import DOCUMENTS, QRELS, QUARANTINE, QUERIES
from pipelines.search.queries import labelled_pairs


def config(folder, **fields):
    return BeirConfig(kind="beir", name="small", path=str(folder), **fields)


def document(number, text=None, **fields):
    return {"_id": f"d{number}", "title": "", "text": text or f"text of {number}"} | fields


def query(number, text=None):
    return {"_id": f"q{number}", "text": text or f"question {number}"}


def reasons(artifact):
    rows = artifact.read("quarantine").to_pylist()
    return Counter((row["source"], row["reason"]) for row in rows)


def test_tables_are_dense_in_file_order(beir, ingest):
    folder = beir(
        [document(2, title=" A title "), document(1)],
        [query(5), query(3)],
        test=[("q3", "d2", 1)],
        train=[("q5", "d1", 2), ("q5", "d2", 1)],
    )
    artifact = ingest(config(folder, language="en"))
    for table, schema in (("documents", DOCUMENTS), ("queries", QUERIES), ("qrels", QRELS)):
        assert artifact.read(table).schema.equals(schema, check_metadata=False)
    assert artifact.read("documents").to_pylist()[0] == {
        "doc": 0,
        "doc_id": "d2",
        "title": "A title",
        "text": "text of 2",
        "dataset": "small",
        "language": "en",
    }
    assert artifact.read("documents")["title"].to_pylist() == ["A title", None]
    assert artifact.read("queries")["query_id"].to_pylist() == ["q5", "q3"]
    assert [tuple(row.values()) for row in artifact.read("qrels").to_pylist()] == [
        (0, 0, 1.0, "train"),
        (0, 1, 2.0, "train"),
        (1, 0, 1.0, "test"),
    ]
    assert artifact.manifest.summary["splits"]["dev"] == {"queries": 0, "judgments": 0}
    assert artifact.manifest.summary["notes"] == [
        "no query in dev",
        "1 documents are positives in train and in test",
    ]


def test_bad_rows_are_set_aside_with_a_reason_and_none_is_lost(beir, ingest):
    documents = [
        document(0),
        document(1),
        b'{"_id": "broken", "text": ',
        b"[1, 2]",
        b'{"_id": "latin", "text": "na\xefve"}',
        b'{"_id": "half", "text": "\\ud800"}',
        document(2, text="   "),
        {"_id": "d3"},
        {"text": "nameless"},
        {"_id": "line\nbreak", "text": "some text"},
        document(0),
        document(1, text="another text"),
        {"_id": 17, "text": "a number for an id"},
        {"_id": "list", "text": ["a"]},
    ]
    queries = [query(0), query(1), query(1), query(2), query(3, text=" \t")]
    qrels = [
        ("q0", "d0", 1),
        ("q0", "d0", 1),
        ("q0", "17", 2.5),
        ("q1", "nowhere", 1),
        ("nobody", "d1", 1),
        ("q1", "d1", "nan"),
        ("q1", "d1", "much"),
        ("q1", "d0", 0),
        ("q1", "d1", 1),
        ("q1", "d1"),
    ]
    artifact = ingest(config(beir(documents, queries, train=qrels)))
    assert reasons(artifact) == {
        ("corpus.jsonl", "broken JSON"): 1,
        ("corpus.jsonl", "not a JSON object"): 1,
        ("corpus.jsonl", "not UTF-8"): 1,
        ("corpus.jsonl", "empty text"): 1,
        ("corpus.jsonl", "no text"): 1,
        ("corpus.jsonl", "no _id"): 1,
        ("corpus.jsonl", "_id holds a line break, tab or null character"): 1,
        ("corpus.jsonl", "repeated row"): 1,
        ("corpus.jsonl", "duplicate id, other text"): 1,
        ("corpus.jsonl", "text is not a string"): 1,
        ("queries.jsonl", "repeated row"): 1,
        ("queries.jsonl", "empty text"): 1,
        ("queries.jsonl", "no positive in any split"): 1,
        ("qrels/train.tsv", "repeated judgment"): 1,
        ("qrels/train.tsv", "unknown document"): 1,
        ("qrels/train.tsv", "unknown query"): 1,
        ("qrels/train.tsv", "score is not a finite number"): 1,
        ("qrels/train.tsv", "score is not a number"): 1,
        ("qrels/train.tsv", "judged not relevant"): 1,
        ("qrels/train.tsv", "broken quoting or wrong number of cells"): 1,
    } | {("corpus.jsonl", "broken JSON"): 2}
    assert artifact.read("documents")["doc_id"].to_pylist() == ["d0", "d1", "17"]
    set_aside = Counter(row["source"] for row in artifact.read("quarantine").to_pylist())
    assert artifact.num_rows("documents") + set_aside["corpus.jsonl"] == len(documents)
    assert artifact.num_rows("queries") + set_aside["queries.jsonl"] == len(queries)
    assert artifact.num_rows("qrels") + set_aside["qrels/train.tsv"] == len(qrels)
    assert sum(artifact.manifest.counters.values()) == sum(set_aside.values())
    assert artifact.read("quarantine").schema.equals(QUARANTINE, check_metadata=False)
    latin = next(row for row in artifact.read("quarantine").to_pylist() if row["reason"] == "not UTF-8")
    assert (latin["row"], latin["excerpt"].strip()) == (5, '{"_id": "latin", "text": "na\\xefve"}')


@pytest.mark.parametrize("task", ["nli", "sts"])
def test_tasks_whose_negatives_are_judged_keep_them(beir, ingest, task):
    documents, queries = [document(n) for n in range(4)], [query(n) for n in range(3)]
    qrels = [("q0", "d0", 1), ("q0", "d1", 0), ("q1", "d2", 1), ("q1", "d3", -1), ("q2", "d3", 0)]
    folder = beir(documents, queries, train=qrels)
    artifact = ingest(config(folder, task=task))
    judged = artifact.read("qrels").select(["query", "doc", "relevance"]).to_pylist()
    assert [tuple(row.values()) for row in judged] == [(0, 0, 1), (0, 1, 0), (1, 2, 1), (1, 3, -1)]
    assert set(artifact.read("queries")["task"].to_pylist()) == {task}
    assert reasons(artifact) == {("queries.jsonl", "no positive in any split"): 1}
    assert artifact.manifest.counters["left out: judgments of queries without a positive"] == 1
    assert [pairs.tolist() for pairs in labelled_pairs(artifact, "train")] == [[0, 1], [0, 2]]
    assert ingest(config(folder)).num_rows("qrels") == 2


def test_parquet_and_json_lines_give_the_same_tables(beir, ingest, tmp_path):
    documents, queries = [document(n) for n in range(5)], [query(n) for n in range(3)]
    qrels = [(f"q{n}", f"d{n}", 1) for n in range(3)]
    from_lines = ingest(config(beir(documents, queries, dev=qrels)))
    folder = tmp_path / "parquet"
    (folder / "qrels").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(documents), folder / "corpus.parquet")
    pq.write_table(pa.Table.from_pylist(queries), folder / "queries.parquet")
    columns = zip(("query-id", "corpus-id", "score"), zip(*qrels, strict=True), strict=True)
    pq.write_table(
        pa.table({name: list(values) for name, values in columns}), folder / "qrels/validation.parquet"
    )
    from_parquet = ingest(config(folder))
    for table in ("documents", "queries", "qrels"):
        assert from_lines.read(table).equals(from_parquet.read(table))


def test_files_by_name_and_where_they_lie_does_not_matter(beir, tmp_path):
    folder = beir([document(0)], [query(0)], test=[("q0", "d0", 1)])
    files = BeirFiles(
        corpus=str(folder / "corpus.jsonl"),
        queries=str(folder / "queries.jsonl"),
        qrels={"test": str(folder / "qrels/test.tsv")},
    )
    by_name = ingest_step(BeirConfig(kind="beir", name="small", path=files))
    assert by_name.fingerprint == ingest_step(config(folder)).fingerprint
    moved = folder.rename(tmp_path / "moved")
    assert by_name.fingerprint == ingest_step(config(moved)).fingerprint
    with (moved / "corpus.jsonl").open("a") as file:
        file.write('{"_id": "more", "text": "more"}\n')
    assert by_name.fingerprint != ingest_step(config(moved)).fingerprint


def test_shards_are_cut_by_tokens(beir, ingest):
    documents = [document(n, text="word " * 100) for n in range(10)]
    artifact = ingest(
        config(beir(documents, [query(0)], test=[("q0", "d0", 1)]), shard_tokens=300, query_shard_tokens=1)
    )
    assert artifact.first_rows("documents").tolist() == [0, 3, 6, 9, 10]
    assert artifact.read("documents")["doc"].to_pylist() == list(range(10))


def test_limits_keep_every_positive_of_the_queries_kept(beir, ingest):
    documents, queries = [document(n) for n in range(100)], [query(n) for n in range(40)]
    qrels = [(f"q{n}", f"d{2 * n + side}", 1) for n in range(40) for side in (0, 1)]
    folder = beir(documents, queries, train=qrels[:60], test=qrels[60:])
    artifact = ingest(config(folder, limit=50, max_queries={"train": 10}))
    ids = {
        table: artifact.read(table)[
            f"{table[:-1].replace('ument', '').replace('querie', 'query')}_id"
        ].to_pylist()
        for table in ("documents", "queries")
    }
    judged = artifact.read("qrels").to_pylist()
    kept = {(ids["queries"][row["query"]], ids["documents"][row["doc"]]) for row in judged}
    assert kept == {(q, d) for q, d, _ in qrels if q in ids["queries"]}
    assert len(ids["documents"]) == 50
    assert artifact.manifest.summary["splits"]["train"]["queries"] == 10
    assert artifact.manifest.summary["splits"]["test"]["queries"] == 10
    left_out = artifact.manifest.summary["left_out"]
    assert left_out["left out: queries beyond max_queries"] == 20
    assert left_out["left out: documents beyond limit"] == 50
    smaller = ingest(config(folder, limit=10)).read("queries")["query_id"].to_pylist()
    assert set(smaller) <= set(ingest(config(folder, limit=20)).read("queries")["query_id"].to_pylist())
    with pytest.raises(UserError, match="no query is left"):
        ingest(config(folder, limit=1))


def test_a_missing_file_names_the_nearest(beir, tmp_path):
    folder = beir([document(0)], [query(0)], test=[("q0", "d0", 1)])
    with pytest.raises(UserError, match=f"did you mean {folder}"):
        ingest_step(config(tmp_path / "sets"))
    (folder / "queries.jsonl").rename(folder / "query.jsonl")
    with pytest.raises(UserError, match=r"queries not found\n.*\n.*did you mean .*query\.jsonl"):
        ingest_step(config(folder))


def test_whole_files_are_refused_before_any_work(beir):
    folder = beir([document(0)], [query(0)], test=[("q0", "d0", 1)])
    (folder / "qrels/test.tsv").write_text("query\tdocument\nq0\td0\n")
    with pytest.raises(UserError, match="missing column query-id, corpus-id, score"):
        ingest_step(config(folder))
    (folder / "qrels/test.tsv").rename(folder / "qrels/all.tsv")
    with pytest.raises(UserError, match="unknown split"):
        ingest_step(config(folder))
    (folder / "qrels/all.tsv").unlink()
    with pytest.raises(UserError, match="no judgments"):
        ingest_step(config(folder))
    (folder / "corpus.parquet").write_bytes(b"not parquet")
    with pytest.raises(UserError, match=r"both corpus.jsonl and corpus.parquet"):
        ingest_step(config(folder))
    (folder / "corpus.jsonl").unlink()
    (folder / "qrels/test.tsv").write_text("query-id\tcorpus-id\tscore\n")
    with pytest.raises(UserError, match="not a Parquet file"):
        ingest_step(config(folder))


def test_nothing_usable_is_refused(beir, ingest):
    with pytest.raises(UserError, match=r"no usable documents\n  got: corpus.jsonl: empty text \(1 rows\)"):
        ingest(config(beir([document(0, text=" ")], [query(0)], test=[("q0", "d0", 1)])))
    with pytest.raises(UserError, match=r"no usable queries\n  got: .*broken JSON"):
        ingest(config(beir([document(0)], [b"{"], test=[("q0", "d0", 1)])))
    with pytest.raises(UserError, match=r"no usable judgment\n.*unknown query.*'x\\td0\\t1'"):
        ingest(config(beir([document(0)], [query(0)], test=[("x", "d0", 1)])))
    with pytest.raises(UserError, match=r"no usable judgment\n  got: an empty file"):
        ingest(config(beir([document(0)], [query(0)], test=[])))


def test_nothing_is_left_of_a_file_that_changed_after_it_was_planned(beir, ingest):
    rows = [document(1), document(2)], [query(5)]
    folder = beir(*rows, test=[("q5", "d1", 1)])
    step = ingest_step(config(folder))
    beir([document(1, "other"), document(2)], [query(5)], test=[("q5", "d1", 1)])
    with pytest.raises(UserError, match="changed while it was read"):
        ingest(None, step)
    beir(*rows, test=[("q5", "d1", 1)])
    right = ingest(None, step)
    assert right.read("documents")["text"].to_pylist() == ["text of 1", "text of 2"]
    # What another run committed meanwhile stays.
    beir([document(1, "other"), document(2)], [query(5)], test=[("q5", "d1", 1)])
    with pytest.raises(UserError, match="changed while it was read"):
        ingest(None, step)
    assert right.read("documents")["text"].to_pylist() == ["text of 1", "text of 2"]
