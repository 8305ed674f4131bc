import json
from collections import Counter

import numpy as np
import pyarrow.parquet as pq
import pytest

from cluster.errors import UserError
from cluster.runs import Run
from pipelines.exchange import groups, lookup
from pipelines.exchange.config import ExportConfig
from pipelines.exchange.exports import artifacts_of, export_run
from pipelines.exchange.lookup import Lookup
from tests.unit.pipelines.exchange.conftest import (
    DOCUMENTS,
    GROUPS,
    QRELS,
    QUERIES,
    TEACHERS,
    commit,
    make_run,
    rendered,
)

KEYS = {"query", "pos", "neg", "pos_scores", "neg_scores", "prompt", "type"}
"""What FlagEmbedding reads of a row."""


def naive(shape, scores, num_negatives, teacher=None):
    """The rows that an export must hold, made one by one; and how many are missing a score."""
    rows, unscored = [], 0
    for query, (positives, negatives) in GROUPS.items():
        anchor, kept = QUERIES[query][1], negatives[:num_negatives]
        supplier = next((t for _, _, t in negatives if t >= 0), 0)
        of = TEACHERS.index(teacher) if teacher else supplier

        def score(entry, t):
            return None if t < 0 else entry[1][TEACHERS.index(teacher) if teacher else t]

        for positive in positives:
            if shape == "n-tuple":
                sets = [kept] if len(kept) == num_negatives else []
            else:
                sets = [[negative] for negative in kept]
            for chosen in sets:
                numbers = [positive[1][of], *(score(n, 0 if teacher else n[2]) for n in chosen)]
                if scores and None in numbers:
                    unscored += 1
                    continue
                texts = [anchor, rendered(positive[0]), *(rendered(n[0]) for n in chosen)]
                rows.append((*texts, numbers) if scores else tuple(texts))
    return rows, unscored


@pytest.mark.parametrize("teacher", [None, "dense", "words"])
@pytest.mark.parametrize("scores", [True, False])
@pytest.mark.parametrize("num_negatives", [1, 2])
@pytest.mark.parametrize("shape", ["triplet", "n-tuple"])
def test_tuples_equal_a_loop(export, shape, num_negatives, scores, teacher):
    settings = {"shape": shape, "num_negatives": num_negatives, "scores": scores, "teacher": teacher}
    path, made = export("sentence-transformers", "out.parquet", **settings)
    rows, unscored = naive(shape, scores, num_negatives, teacher)
    table = pq.read_table(path)
    assert [tuple(row.values()) for row in table.to_pylist()] == rows
    names = ["negative"] if shape == "triplet" else [f"negative_{n + 1}" for n in range(num_negatives)]
    assert table.column_names == ["anchor", "positive", *names, *(["scores"] if scores else [])]
    assert made.left_out["rows with a missing score (--no-scores keeps them)"] == unscored
    if shape == "n-tuple":
        short = sum(len(pos) for pos, neg in GROUPS.values() if len(neg) < num_negatives)
        assert made.left_out["rows with fewer negatives than the n-tuple has"] == short


def test_an_n_tuple_is_as_wide_as_the_largest_group_and_scored(export):
    path, made = export("sentence-transformers", "out.parquet")
    assert pq.read_schema(path).names == ["anchor", "positive", "negative_1", "negative_2", "scores"]
    assert made.notes == {"groups with scores of several teachers (--teacher takes one)": 1}


@pytest.mark.parametrize("scores", [True, False])
def test_labeled_rows_equal_a_loop(export, scores):
    wanted, unscored, lists = [], 0, []
    for query, (positives, negatives) in GROUPS.items():
        supplier = next((t for _, _, t in negatives if t >= 0), 0)
        group = [(d, s[supplier], 1) for d, s in positives]
        group += [(d, s[t] if t >= 0 else None, 0) for d, s, t in negatives]
        unscored += sum(number is None for _, number, _ in group)
        kept = [
            (rendered(d), number if scores else label)
            for d, number, label in group
            if number is not None or not scores
        ]
        wanted += [(QUERIES[query][1], *row) for row in kept]
        if len(kept) == len(group):
            lists.append((QUERIES[query][1], [text for text, _ in kept], [number for _, number in kept]))
    path, made = export("sentence-transformers", "pairs.parquet", shape="labeled-pair", scores=scores or None)
    assert [tuple(row.values()) for row in pq.read_table(path).to_pylist()] == wanted
    assert pq.read_schema(path).names[2] == ("score" if scores else "label")
    assert made.left_out.total() == (unscored if scores else 0)
    path, made = export("sentence-transformers", "lists.parquet", shape="labeled-list", scores=scores or None)
    assert [tuple(row.values()) for row in pq.read_table(path).to_pylist()] == lists
    assert pq.read_schema(path).names[2] == ("scores" if scores else "labels")


@pytest.mark.parametrize("split", [None, "train", "dev"])
def test_pairs_are_the_judgments(export, split):
    path, _ = export("sentence-transformers", "out.parquet", shape="pair", split=split)
    wanted = [(QUERIES[q][1], rendered(d)) for q, d, _, s in QRELS if split in (None, s)]
    assert [tuple(row.values()) for row in pq.read_table(path).to_pylist()] == wanted


def test_a_split_takes_its_own_groups(export):
    path, _ = export("flagembedding", "out.jsonl", split="dev", prompt="find: ")
    (line,) = map(json.loads, path.read_text().splitlines())
    assert set(line) == KEYS
    assert line["query"] == "what is heavy" and line["prompt"] == "find: " and line["type"] == "normal"
    assert (line["pos_scores"], line["neg_scores"]) == ([0.5], [0.375])
    with pytest.raises(UserError, match=r"no group to export\n  got: 4 groups"):
        export("flagembedding", "none.jsonl", split="test")


def test_flagembedding_rows_have_the_keys_that_it_reads(export):
    path, _ = export("flagembedding", "out.jsonl")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert all(set(row) == KEYS - {"prompt"} for row in rows), "an empty prompt would hide the trainer's own"
    for row in rows:
        assert len(row["pos"]) == len(row["pos_scores"]) and len(row["neg"]) == len(row["neg_scores"]) > 0
        assert all(isinstance(score, float) for score in row["pos_scores"] + row["neg_scores"])
    assert rows[0]["pos"] == ["copper conducts", "Tin tin melts early"]


def test_batches_of_any_size_give_the_same(export, monkeypatch):
    whole, _ = export("sentence-transformers", "whole.parquet", shape="triplet")
    monkeypatch.setattr(groups, "BATCH_TEXTS", 1)
    cut, _ = export("sentence-transformers", "cut.parquet", shape="triplet")
    assert pq.ParquetFile(cut).num_row_groups > pq.ParquetFile(whole).num_row_groups
    assert pq.read_table(cut).equals(pq.read_table(whole))


def test_batches_stay_bounded_and_lose_nothing(mined, monkeypatch):
    for most in (1, 4, 5, 9, 100):
        monkeypatch.setattr(groups, "BATCH_TEXTS", most)
        read = groups.MinedGroups(mined.data, mined.groups)
        batches = list(read.batches(lambda _: None))
        assert [query for batch in batches for query in batch.query_G] == list(GROUPS)
        for batch in batches:
            texts = (batch.positives.counts_G * (1 + batch.negatives.counts_G)).sum()
            assert texts <= most or len(batch.query_G) == 1
        docs = np.concatenate([batch.negatives.docs_P for batch in batches])
        assert docs.tolist() == [doc for _, negatives in GROUPS.values() for doc, _, _ in negatives]


def test_texts_are_found_by_ordinal_with_a_small_cache(mined, monkeypatch):
    texts = Lookup(mined.data, "documents", "text", cache_bytes=1)
    read = Counter()
    monkeypatch.setattr(
        texts, "_read", lambda index, inner=texts._read: (read.update([index]), inner(index))[1]
    )
    ordinals = np.array([6, 0, 6, 3, 2, 1])
    assert texts.take(ordinals).to_pylist() == [rendered(doc) for doc in ordinals]
    assert read == {0: 1, 1: 1, 2: 1} and len(texts._kept) == 1
    assert texts.take(np.array([], np.int64)).to_pylist() == []
    assert lookup.CACHE_BYTES > 1


def test_what_exists_stays(export, tmp_path, mined):
    path, _ = export("flagembedding", "out.jsonl")
    with pytest.raises(UserError, match=r"exists already\n  fix: .*--overwrite"):
        export("flagembedding", "out.jsonl")
    path.write_text("old")
    export_run(mined, "flagembedding", ExportConfig(), path, True, lambda _: None)
    assert path.read_text().startswith("{")
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match=r"other files(.|\n)*thesis.txt"):
        export_run(mined, "beir", ExportConfig(), folder, True, lambda _: None)
    assert (folder / "thesis.txt").exists()


def test_a_failed_export_leaves_nothing(export, tmp_path):
    before = set(tmp_path.iterdir())
    with pytest.raises(UserError, match="no group"):
        export("tevatron", split="test")
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("name", "file", "settings", "words"),
    [
        ("flagembeding", "a.jsonl", {}, "did you mean --format flagembedding"),
        ("flagembedding", "a.parquet", {}, r"got: .parquet\n  expected: a .jsonl file"),
        ("beir", "a", {"scores": True}, "beir does not read --scores"),
        ("tevatron", "a", {"prompt": "x"}, "tevatron does not read --prompt"),
        ("sentence-transformers", "a.parquet", {"teacher": "judge"}, "got: judge\n  expected: dense, words"),
        ("sentence-transformers", "a.parquet", {"shape": "pair", "scores": True}, "a pair has no scores"),
    ],
)
def test_settings_that_do_not_fit_are_refused(export, name, file, settings, words):
    with pytest.raises(UserError, match=words):
        export(name, file, **settings)


@pytest.mark.parametrize(
    ("documents", "queries"),
    [([("d 0", None, "x"), *DOCUMENTS[1:]], QUERIES), (DOCUMENTS, [("q\u00a00", "y"), *QUERIES[1:]])],
)
def test_trec_refuses_ids_that_it_cannot_hold(tmp_path, documents, queries):
    store = make_run(tmp_path / "spaced", documents, queries)
    mined = artifacts_of(store, Run.find(store.storage, "latest"))
    with pytest.raises(UserError, match="white space"):
        export_run(mined, "trec", ExportConfig(), tmp_path / "out", False, lambda _: None)


def test_a_run_without_groups_says_so(mined, tmp_path):
    bare = type(mined)(mined.data, None, {})
    with pytest.raises(UserError, match="mined no groups"):
        export_run(bare, "tevatron", ExportConfig(), tmp_path / "out", False, lambda _: None)


def test_the_main_data_set_is_exported_unless_another_is_named(tmp_path):
    store = make_run(tmp_path / "two")
    run = Run.find(store.storage, "latest")
    main = artifacts_of(store, run)
    data = commit(store, "ingest", {"documents": [main.data.read("documents")]}, label="second")
    inputs = {"data": data.key}
    groups = commit(store, "select", {"groups": [main.groups.read("groups")]}, inputs=inputs, label="second")
    for artifact in (data, groups):
        run.record_stage(artifact.key, artifact.manifest.stage, "done")
    again = artifacts_of(store, run)
    assert (again.data.key, again.groups.key) == (main.data.key, main.groups.key)
    assert list(again.candidates) == list(main.candidates)
    second = artifacts_of(store, run, "second")
    assert (second.data.key, second.groups.key, second.candidates) == (data.key, groups.key, {})
    with pytest.raises(UserError, match=r"got: third\n  expected: tiny or second"):
        artifacts_of(store, run, "third")
