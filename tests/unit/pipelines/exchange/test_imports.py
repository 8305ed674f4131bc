import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from cluster.errors import UserError
from pipelines.exchange.config import ImportConfig
from pipelines.exchange.dataset import DataSet, text_id
from pipelines.exchange.imports import source_file
from pipelines.exchange.rows import ParquetRows


def test_ids_are_made_of_texts_and_equal_texts_are_one(bring, lines, table, tmp_path):
    rows = [
        {"query": "a b", "positive": "x\ny"},
        {"query": "a  b", "positive": "x y"},
        {"query": "c", "positive": "x y", "negative": "z"},
    ]
    made = bring("sentence-transformers", lines("a.jsonl", rows[:2]))
    assert table("corpus") == [(text_id("d", "\nx y"), "", "x\ny")]
    assert table("queries") == [(text_id("q", "a b"), "a b")]
    assert made.merged == {"pair judged before": 1} and not made.set_aside
    assert not (tmp_path / "data/negatives.parquet").exists()
    assert not (tmp_path / "data/quarantine.parquet").exists()
    bring("sentence-transformers", lines("b.jsonl", rows[2:]))
    assert text_id("d", "\nx y") in [row[0] for row in table("corpus")], "the same id in every import"


def test_columns_count_by_their_order_as_in_the_trainer(bring, lines, pairs):
    row = {
        "question": "q",
        "answer": "p",
        "distractor": "n1",
        "other": "n2",
        "scores": [0.9, 0.5, 0.25],
        "split": "val",
    }
    bring("sentence-transformers", lines("a.jsonl", [row]))
    assert set(pairs()("qrels/dev")) == {("q", "p")}
    assert pairs()("negatives") == {("q", "n1"): 0.5, ("q", "n2"): 0.25}
    columns = {"query": "other", "positive": "distractor"}
    bring("sentence-transformers", lines("a.jsonl", [{**row, "scores": None}]), columns=columns)
    assert set(pairs()("qrels/dev")) == {("n2", "n1")}
    assert pairs()("negatives") == {("n2", "q"): None, ("n2", "p"): None}


def test_ids_are_no_texts_and_a_broken_first_line_does_not_decide(bring, lines, pairs):
    rows = [b"{broken", {"id": 7, "q": "q", "d": ["x", "y"], "labels": [1, 0], "row_idx": 3}]
    made = bring("sentence-transformers", lines("a.jsonl", rows))
    assert pairs()("qrels/train") == {("q", "x"): 1.0} and pairs()("negatives") == {("q", "y"): None}
    assert made.set_aside == {"a.jsonl: broken JSON": 1}
    assert made.notes[1] == "columns of ids are no texts: id, row_idx"


def test_graded_labels_and_scores(bring, lines, pairs):
    rows = [{"a": "q", "d": ["x", "y", "z"], "labels": [3, 1, 0]}]
    bring("sentence-transformers", lines("a.jsonl", rows))
    assert pairs()("qrels/train") == {("q", "x"): 3.0, ("q", "y"): 1.0}
    assert pairs()("negatives") == {("q", "z"): None}
    rows = [{"a": "q", "d": text, "score": score} for text, score in (("x", 0.75), ("y", 0.5), ("z", 0.25))]
    path = lines("b.jsonl", rows)
    with pytest.raises(UserError, match="scores do not say which pairs are positives"):
        bring("sentence-transformers", path)
    bring("sentence-transformers", path, min_score=0.5)
    assert pairs()("qrels/train") == {("q", "x"): 1.0, ("q", "y"): 1.0}
    assert pairs()("negatives") == {("q", "z"): 0.25}


def test_rows_that_cannot_be_used_are_counted_and_kept(bring, lines, table, tmp_path):
    rows = [
        {"query": "one", "pos": ["a", " ", 7], "neg": ["b", None], "neg_scores": [0.5, 0.25]},
        b'{"query": "two", "pos": ["c"]',
        b'{"query": "na\xefve", "pos": ["c"]}',
        b"[]",
        {"query": "", "pos": ["c"]},
        {"pos": ["c"]},
        {"query": "three", "pos": []},
        {"query": "four", "pos": "c"},
        {"query": "five", "pos": ["c"], "neg": ["d"], "neg_scores": [1, 2]},
        {"query": "six", "pos": ["c"], "neg": ["d"], "neg_scores": ["high"]},
        {"query": "seven", "pos": ["a"], "split": "later"},
        {"query": "half", "pos": ["\ud800"]},
    ]
    made = bring("flagembedding", lines("a.jsonl", rows))
    reasons = [(row[1], row[2]) for row in table("quarantine")]
    assert reasons == [
        (1, "empty pos"),
        (1, "pos is not a string"),
        (1, "no neg"),
        (2, "broken JSON"),
        (3, "not UTF-8"),
        (4, "not a JSON object"),
        (5, "empty query"),
        (6, "no query"),
        (7, "no usable text in pos"),
        (8, "pos is not a list"),
        (9, "neg_scores has another length than neg"),
        (10, "neg_scores is not a number"),
        (11, "unknown split"),
        (12, "broken JSON"),
    ]
    assert sum(made.set_aside.values()) == len(reasons) and made.set_aside["a.jsonl: not UTF-8"] == 1
    assert [text for _, text in table("queries")] == ["one"]
    assert made.rows["negatives"] == 1


def test_structure_is_refused_with_file_and_line(bring, lines, tmp_path):
    path = lines("a.jsonl", [b"", b"{broken", {"question": "q", "pos": ["p"]}])
    with pytest.raises(UserError, match=r"a.jsonl, line 3: missing column query\n  got: question, pos"):
        bring("flagembedding", path)
    bring("flagembedding", path, columns={"query": "question"})
    with pytest.raises(UserError, match=r"b.jsonl, line 1: no row can be read\n  got: broken JSON"):
        bring("flagembedding", lines("b.jsonl", [b"{broken"]))
    pq.write_table(pa.table({"text": ["x"]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a.parquet: missing column positive"):
        bring("sentence-transformers", tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"did you mean --column query=question"):
        bring("flagembedding", path, columns={"quarry": "question"})
    with pytest.raises(UserError, match=r"did you mean .*a\.jsonl"):
        bring("flagembedding", tmp_path / "aa.jsonl")
    with pytest.raises(UserError, match="did you mean --from tevatron"):
        bring("tevatrn", path)
    with pytest.raises(UserError, match="flagembedding does not read --corpus"):
        bring("flagembedding", path, corpus=path)
    assert (tmp_path / "data/corpus.parquet").exists(), "what a refused import would replace stays"


def test_a_saved_data_set_needs_its_package(bring, tmp_path):
    try:
        import datasets  # noqa: F401
    except ImportError:
        (tmp_path / "saved").mkdir()
        with pytest.raises(UserError, match="pip install datasets"):
            bring("sentence-transformers", tmp_path / "saved")
    else:
        from datasets import Dataset, DatasetDict

        rows = Dataset.from_dict({"anchor": ["q"], "positive": ["p"]})
        DatasetDict({"train": rows, "validation": rows}).save_to_disk(tmp_path / "saved")
        made = bring("sentence-transformers", tmp_path / "saved")
        assert made.rows["judgments, train"] == made.rows["judgments, dev"] == 1


def test_tevatron_with_passages(bring, lines, table):
    rows = [
        {
            "query_id": 7, "query": "q", "positive_passages": [{"docid": "a", "title": "T", "text": "x"}],
            "negative_passages": [{"docid": "b", "text": "y"}, {"docid": "a", "title": "T", "text": "x"}, "z"],
        },
        {"query_id": 8, "query": "r", "positive_passages": [{"docid": "a", "title": "T", "text": "other"}]},
    ]  # fmt: skip
    made = bring("tevatron", lines("a.jsonl", rows))
    assert table("corpus") == [("a", "T", "x"), ("b", "", "y")]
    assert table("qrels/train") == [("7", "a", 1.0)] and table("negatives") == [("7", "b", None)]
    assert made.set_aside == {"a.jsonl: passage is not an object": 1, "a.jsonl: duplicate id, other text": 1}
    assert made.merged == {"negative that is a positive of the query": 1}


def test_tevatron_ids_need_a_corpus_that_has_them(bring, lines, table):
    row = {
        "query_id": "1",
        "query_text": "q",
        "positive_document_ids": ["a", "gone"],
        "negative_document_ids": [3],
    }
    path = lines("a.jsonl", [row, {**row, "query_id": "2", "positive_document_ids": ["gone"]}])
    with pytest.raises(UserError, match="--corpus"):
        bring("tevatron", path)
    corpus = lines(
        "c.jsonl", [{"docid": "a", "text": "x"}, {"docid": 3, "text": "y"}, {"docid": 3, "text": "y"}]
    )
    made = bring("tevatron", path, corpus=corpus)
    assert table("qrels/train") == [("1", "a", 1.0)] and table("negatives") == [("1", "3", None)]
    assert made.set_aside == {"a.jsonl: unknown document": 2, "a.jsonl: no known positive": 1}
    assert made.merged == {"document id seen before": 1}


def test_beir_judged_not_relevant_is_a_negative(bring, lines, table, tmp_path):
    folder = tmp_path / "set"
    (folder / "qrels").mkdir(parents=True)
    (folder / "corpus.jsonl").write_bytes(
        b'{"_id": "a", "title": "T", "text": "x"}\n{"_id": "b", "text": "y"}\n{"_id": "b", "text": "z"}\n'
    )
    (folder / "queries.jsonl").write_bytes(b'{"_id": "q", "text": "?"}\n')
    rows = ["q\ta\t2", "q\tb\t0", "q\tc\t1", "r\ta\t1", "q\tb\tmuch", "q\ta\t1", "q\ta"]
    (folder / "qrels/validation.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *rows]) + "\n")
    made = bring("beir", folder)
    assert table("qrels/dev") == [("q", "a", 2.0)] and table("negatives") == [("q", "b", None)]
    assert made.set_aside == {
        "corpus.jsonl: duplicate id, other text": 1,
        "qrels/validation.tsv: unknown document": 1,
        "qrels/validation.tsv: unknown query": 1,
        "qrels/validation.tsv: score is not a number": 1,
        "qrels/validation.tsv: broken quoting or wrong number of cells": 1,
    }
    assert made.merged == {"document id seen before": 1, "pair judged before": 1}
    with pytest.raises(UserError, match="names its splits itself"):
        bring("beir", f"train={folder}")
    with pytest.raises(UserError, match="names are fixed"):
        bring("beir", folder, columns={"query": "x"})


def test_trec_wants_four_fields_and_texts(bring, lines, table, tmp_path):
    texts = {
        "corpus": lines("c.jsonl", [{"id": "a", "contents": "x"}, {"id": "b", "contents": "y"}]),
        "queries": lines("q.jsonl", [{"qid": 1, "query": "?"}]),
    }
    path = tmp_path / "qrels.txt"
    path.write_bytes(b"\n1 0 a 1\n1 0 b 0\n1 0 b\n1 0 \xff 1\n1 0 b x\n2 0 b 1\n1 0 c 1\n")
    made = bring("trec", path, **texts)
    assert table("qrels/train") == [("1", "a", 1.0)] and table("negatives") == [("1", "b", None)]
    assert made.set_aside == {
        f"qrels.txt: {reason}": 1
        for reason in (
            "wrong number of fields", "not UTF-8", "relevance is not a number", "unknown query", "unknown document",
        )
    }  # fmt: skip
    with pytest.raises(UserError, match="--queries"):
        bring("trec", path, corpus=texts["corpus"])
    path.write_text("1\ta\n")
    with pytest.raises(UserError, match=r"qrels.txt, line 1: 2 fields in a line\n  got: 1 a"):
        bring("trec", path, **texts)
    with pytest.raises(UserError, match=r"missing column _id\n(.|\n)*header line"):
        headerless = tmp_path / "q.tsv"
        headerless.write_text("1\t?\n")
        bring("trec", path, corpus=texts["corpus"], queries=headerless)


def test_nothing_to_judge_by_is_refused(bring, lines, tmp_path):
    with pytest.raises(UserError, match=r"no usable judgment\n  got: a.jsonl: empty query \(1\)"):
        bring("flagembedding", lines("a.jsonl", [{"query": " ", "pos": ["x"]}]))
    assert not (tmp_path / "data").exists()


def test_splits_are_drawn_by_the_query_alone(tmp_path):
    splits = []
    for order in (range(2000), reversed(range(2000))):
        data = DataSet(tmp_path / str(len(splits)), (0.5, 0.3, 0.2))
        splits.append({number: data._drawn(f"q{number}") for number in order})
    assert splits[0] == splits[1]
    found = list(splits[0].values())
    for split, share in (("train", 0.5), ("dev", 0.3), ("test", 0.2)):
        assert found.count(split) / 2000 == pytest.approx(share, abs=0.04)
    with pytest.raises(ValidationError, match="sum to 1"):
        ImportConfig(files=(source_file("x"),), ratios=(0.5, 0.3, 0.1))


def test_a_file_is_named_with_or_without_its_split(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert source_file("dev=a.jsonl").split == "dev" and str(source_file("dev=a.jsonl").path) == "a.jsonl"
    assert source_file("a=b.jsonl").split is None
    (tmp_path / "dev=a.jsonl").write_text("")
    assert str(source_file("dev=a.jsonl").path) == "dev=a.jsonl"


def test_rows_are_flushed_by_number_and_by_size(tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.exchange.rows._MAX_ROWS", 3)
    monkeypatch.setattr("pipelines.exchange.rows._MAX_CHARACTERS", 10)
    rows = ParquetRows(tmp_path / "a.parquet", pa.schema([("text", pa.string())]))
    texts = ["a", "b", "c", "long enough", "d"]
    for text in texts:
        rows.add(text)
        assert len(rows._pending) < 3
    rows.close()
    assert pq.read_table(tmp_path / "a.parquet")["text"].to_pylist() == texts
    assert pq.ParquetFile(tmp_path / "a.parquet").num_row_groups == 3


def test_memory_does_not_hold_texts(tmp_path, monkeypatch):
    data = DataSet(tmp_path / "data")
    monkeypatch.setattr("pipelines.exchange.rows._MAX_CHARACTERS", 200_000)
    text = "word " * 10_000
    for number in range(40):
        query_id = data.query(("f", number), f"{number}")
        data.positive(query_id, data.document(("f", number), f"{number} {text}"), 1.0, None)
        assert sum(len(row[2]) for row in data.corpus._pending) < 200_000
    data.close(lambda _: None)
    assert pq.read_metadata(tmp_path / "data/corpus.parquet").num_rows == 40
