"""What is exported and imported again is the same pairs."""

import filecmp

import pyarrow.parquet as pq
import pytest

from pipelines.ingest.config import BeirConfig
from pipelines.ingest.pipeline import ingest_step
from tests.unit.pipelines.exchange.conftest import DOCUMENTS, GROUPS, QRELS, QUERIES, rendered

POSITIVES = {(QUERIES[q][1], rendered(d)) for q, (pos, _) in GROUPS.items() for d, _ in pos}
NEGATIVES = {(QUERIES[q][1], rendered(d)) for q, (_, neg) in GROUPS.items() for d, *_ in neg}


@pytest.mark.parametrize("shape", ["triplet", "labeled-pair", "labeled-list"])
def test_sentence_transformers(export, bring, pairs, shape):
    path, made = export("sentence-transformers", "out.parquet", shape=shape, scores=False)
    assert sum(made.rows.values()) == pq.read_metadata(path).num_rows
    bring("sentence-transformers", path)
    texts = pairs()
    assert set(texts("qrels/train")) == POSITIVES
    assert set(texts("negatives")) == NEGATIVES


def test_flagembedding(export, bring, pairs):
    path, _ = export("flagembedding", "out.jsonl", scores=False)
    made = bring("flagembedding", path)
    texts = pairs()
    assert set(texts("qrels/train")) == POSITIVES and set(texts("negatives")) == NEGATIVES
    assert not made.set_aside and "'normal' on 4 rows" in made.notes[0]


def test_flagembedding_scores(export, bring, pairs):
    path, made = export("flagembedding", "out.jsonl", teacher="dense")
    assert made.left_out == {"groups with a missing score (--no-scores keeps them)": 1}
    merged = bring("flagembedding", path).merged
    assert merged == {"teacher score of a positive": 4}
    scores = {
        (QUERIES[q][1], rendered(d)): s[0] for q, (_, neg) in GROUPS.items() for d, s, _ in neg if q != 2
    }
    assert pairs()("negatives") == scores


def test_tevatron(export, bring, table):
    path, made = export("tevatron")
    assert made.rows == {"train.jsonl": 4, "corpus.jsonl": 7}
    bring("tevatron", path / "train.jsonl", corpus=path / "corpus.jsonl")
    assert table("corpus") == [(key, "", rendered(n)) for n, (key, _, _) in enumerate(DOCUMENTS)]
    assert {row[:2] for row in table("qrels/train")} == {(f"q{q}", f"d{d}") for q, d, _, _ in QRELS}
    negatives = {(f"q{q}", f"d{d}") for q, (_, neg) in GROUPS.items() for d, *_ in neg}
    assert {row[:2] for row in table("negatives")} == negatives


@pytest.mark.parametrize("parquet", [False, True])
def test_beir(export, bring, table, parquet):
    path, made = export("beir", parquet=parquet)
    assert made.rows["qrels/train.parquet" if parquet else "qrels/train.tsv"] == 4
    bring("beir", path)
    assert table("corpus") == [(key, title or "", text) for key, title, text in DOCUMENTS]
    assert table("queries") == QUERIES
    for split in ("train", "dev"):
        wanted = [(f"q{q}", f"d{d}", relevance) for q, d, relevance, s in QRELS if s == split]
        assert table(f"qrels/{split}") == wanted


def test_trec(export, bring, table):
    texts, _ = export("beir", "texts")
    path, made = export("trec", "trec")
    assert made.rows == {
        "qrels/train.txt": 4, "qrels/dev.txt": 1, "runs/search-tiny.train.txt": 3, "runs/search-tiny.dev.txt": 2,
    }  # fmt: skip
    assert (path / "runs/search-tiny.dev.txt").read_text().splitlines() == [
        "q3 Q0 d3 1 1 search-tiny", "q3 Q0 d6 2 0.00001 search-tiny",
    ]  # fmt: skip
    files = {"corpus": texts / "corpus.jsonl", "queries": texts / "queries.jsonl"}
    run = path / "runs/search-tiny.train.txt"
    made = bring("trec", f"train={path}/qrels/train.txt", f"dev={path}/qrels/dev.txt", ranking=run, **files)
    assert table("qrels/train") == [(f"q{q}", f"d{d}", r) for q, d, r, split in QRELS if split == "train"]
    assert table("qrels/dev") == [("q3", "d3", 1.0)]
    assert table("negatives") == [("q0", "d2", pytest.approx(0.9000001, abs=1e-7))]
    assert made.merged == {"negative that is a positive of the query": 2}


@pytest.mark.parametrize(
    ("name", "file"), [("sentence-transformers", "a.parquet"), ("flagembedding", "a.jsonl"), ("trec", "a")]
)
def test_the_same_run_gives_the_same_bytes(export, name, file):
    first, made = export(name, file)
    second, _ = export(name, f"again-{file}")
    for part in [""] if first.is_file() else made.rows:
        assert filecmp.cmp(first / part if part else first, second / part if part else second, shallow=False)


def test_what_is_imported_is_ingested_whole(export, bring, ingested, tmp_path):
    path, _ = export("sentence-transformers", "out.parquet", shape="triplet")
    made = bring("sentence-transformers", path, ratios=(0.5, 0.25, 0.25))
    artifact = ingested(ingest_step(BeirConfig(kind="beir", name="back", path=str(tmp_path / "data"))))
    assert artifact.num_rows("documents") == made.rows["documents"]
    assert artifact.num_rows("qrels") == sum(
        n for name, n in made.rows.items() if name.startswith("judgments")
    )
    assert artifact.num_rows("quarantine") == 0
