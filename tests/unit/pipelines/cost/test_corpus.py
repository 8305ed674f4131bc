"""Sizes from files, from artifacts and as planned."""

import json

import pytest

from cluster.artifacts import ArtifactStore
from cluster.errors import UserError
from pipelines.cost import quick_look
from pipelines.cost.corpus import planned_corpus, read_corpus
from pipelines.cost.quick_look import look_at
from pipelines.cost.texts import Sample, measure_texts
from pipelines.ingest.config import BeirConfig, PairsConfig


def test_a_folder_is_counted_before_it_is_ingested(beir, tmp_path):
    store = ArtifactStore(str(tmp_path / "store"))
    corpus = read_corpus(BeirConfig(kind="beir", name="x", path=str(beir)), store)
    assert corpus.num_documents == 40
    assert corpus.num_queries == {"train": 10, "test": 4}
    assert corpus.asked("train", "test", "train") == 14
    assert corpus.positives == pytest.approx(24 / 14)
    assert len(corpus.documents.texts) == 40 and corpus.documents.texts[0] == "the mine is"


def test_limits_of_the_recipe_count(beir, tmp_path):
    config = BeirConfig(kind="beir", name="x", path=str(beir), limit=30, max_queries={"train": 3})
    corpus = read_corpus(config, ArtifactStore(str(tmp_path / "store")))
    assert corpus.num_documents == 30 and corpus.num_queries == {"train": 3, "test": 4}


def test_equal_texts_of_pairs_are_counted_once(tmp_path):
    path = tmp_path / "pairs.jsonl"
    rows = [{"query": f"q {i}", "document": f"text {i // 2}"} for i in range(20)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    corpus = read_corpus(
        PairsConfig(kind="pairs", name="x", path=str(path)), ArtifactStore(str(tmp_path / "s"))
    )
    assert corpus.num_documents == 10
    assert corpus.num_queries == {"train": 14, "dev": 2, "test": 4}


def test_a_large_file_is_counted_from_places_all_over_it(tmp_path, monkeypatch):
    path = tmp_path / "corpus.jsonl"
    lengths = [20 + 180 * (i > 2500) for i in range(5000)]
    path.write_text("".join(json.dumps({"text": "x" * length}) + "\n" for length in lengths))
    exact = look_at(path, ("text",))
    monkeypatch.setattr(quick_look, "WHOLE_BYTES", 1000)
    look = look_at(path, ("text",))
    assert exact.is_exact and exact.count == 5000
    assert not look.is_exact
    # Half of the rows hold 85% of the bytes, and both counts must hold: of rows, and of short ones among them.
    assert look.count == pytest.approx(5000, rel=0.1)
    short = sum(len(row["text"]) == 20 for row in look.rows) / len(look.rows)
    assert short == pytest.approx(0.5, abs=0.1)


def test_a_planned_corpus_keeps_the_texts_of_the_known_one(beir, tmp_path):
    known = read_corpus(
        BeirConfig(kind="beir", name="x", path=str(beir)), ArtifactStore(str(tmp_path / "store"))
    )
    planned = planned_corpus(known, 10**10, None, "train")
    assert planned.num_documents == 10**10
    assert planned.num_queries == known.num_queries and planned.documents == known.documents


def test_without_files_both_sizes_must_be_said(tmp_path):
    with pytest.raises(UserError, match="--queries"):
        planned_corpus(None, 10**10, None, "train")
    planned = planned_corpus(None, 10**10, 10**6, "train")
    assert planned.asked("train") == 10**6
    texts = measure_texts(planned.num_documents, planned.documents, tmp_path, "", 192)
    assert texts.tokens == 192 * 10**10


def test_lengths_are_cut_at_the_limit_and_squared_one_by_one(tmp_path):
    sample = Sample(("x" * 40, "x" * 400, "x" * 4000))
    texts = measure_texts(3000, sample, tmp_path, "", 102)
    lengths = [min(102, size // 4 + 2) for size in (40, 400, 4000)]
    assert texts.mean_tokens == pytest.approx(sum(lengths) / 3)
    assert texts.mean_square_tokens == pytest.approx(sum(n * n for n in lengths) / 3)
    assert texts.mean_bytes == pytest.approx(4440 / 3)


def test_the_models_own_tokenizer_counts(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    texts = measure_texts(2, Sample(("a b c", "a b c d e")), tmp_path, "query: ", 100)
    assert texts.mean_tokens == 6
