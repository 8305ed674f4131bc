"""The documentation of real packages, split so that training never sees a test document or its twin."""

from collections import Counter, defaultdict

import pytest
import regex
from rich.console import Console

from cluster.artifacts import ArtifactStore
from pipelines.ingest.config import DocstringsConfig
from pipelines.ingest.pipeline import ingest_step
from pipelines.progress import Progress
from pipelines.steps import Work


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    step = ingest_step(DocstringsConfig())
    store = ArtifactStore(str(tmp_path_factory.mktemp("workspace")))
    writer = store.open(step.stage, step.label, step.fingerprint)
    return step.run(Work(step, {}, writer, None, Progress(Console(quiet=True))))


def shingles(text):
    words = regex.findall(r"[\p{L}\p{M}\p{N}]+", text.lower())
    return frozenset(tuple(words[i : i + 5]) for i in range(max(1, len(words) - 4)))


def test_counts(data):
    assert 1800 <= data.num_rows("documents") <= 2600
    assert 1700 <= data.num_rows("queries") <= 2500
    assert data.num_rows("quarantine") == 0
    splits = data.manifest.summary["splits"]
    for split, ratio in (("train", 0.7), ("dev", 0.1), ("test", 0.2)):
        assert splits[split]["queries"] == pytest.approx(ratio * data.num_rows("queries"), rel=0.02)
    assert data.manifest.summary["largest_components"][0] < 0.05 * data.num_rows("queries")
    assert data.manifest.summary["notes"] == []
    assert "pandas.DataFrame.merge" in data.read("documents")["doc_id"].to_pylist()


def test_no_test_positive_has_a_near_twin_among_the_training_positives(data):
    texts = data.read("documents")["text"].to_pylist()
    positives = {"train": set(), "test": set()}
    for row in data.read("qrels").to_pylist():
        if row["split"] in positives:
            positives[row["split"]].add(row["doc"])
    assert not positives["train"] & positives["test"]
    sets = {doc: shingles(texts[doc]) for docs in positives.values() for doc in docs}
    having = defaultdict(list)
    for seen in positives["train"]:
        for shingle in sets[seen]:
            having[shingle].append(seen)
    compared = 0
    for held_out in positives["test"]:
        for seen, common in Counter(
            doc for shingle in sets[held_out] for doc in having.get(shingle, ())
        ).items():
            compared += 1
            union = len(sets[held_out]) + len(sets[seen]) - common
            assert common < 0.5 * union, (held_out, seen)
    assert compared > 1000


def test_no_query_is_asked_in_two_splits(data):
    splits = {}
    for row in data.read("qrels").to_pylist():
        splits.setdefault(row["query"], set()).add(row["split"])
    assert all(len(found) == 1 for found in splits.values())
    texts = [text.lower() for text in data.read("queries")["text"].to_pylist()]
    assert len(set(texts)) > 0.99 * len(texts)
