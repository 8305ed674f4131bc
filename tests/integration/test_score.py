"""Scoring on a real local session: equal to one pair at a time, and every pair judged once, ever."""

import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from cluster.artifacts import ArtifactStore
from models.reranker import load_reranker
from pipelines import schemas
from pipelines.score.config import RerankerConfig, ScoreConfig
from pipelines.score.pipeline import score_step
from pipelines.score.reranker import Reranker
from pipelines.score.store import ScoreStore
from stope import mistake_in
from tests.graphs_here import graphs_here
from tests.tiny_rerankers import make_cross_encoder
from tests.tiny_scoring import candidate_rows, data_step, naive_rerank, over_step, texts
from tests.tiny_training import Silent, compute

# Several ranges, groups, partitions and rows, as of a large collection.
SMALL = {"group_pairs": 30, "row_tokens": 300}


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return make_cross_encoder(tmp_path_factory.mktemp("model") / "judge")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return ArtifactStore(str(tmp_path_factory.mktemp("store")))


@pytest.fixture(scope="module")
def shallow(store, session, teacher):
    """The candidates of depth 3, scored by an undisturbed run on an empty store."""
    return run(store, session, teacher, data_step(), 3)


@pytest.fixture(scope="module")
def teacher(directory, session):
    return resolve(directory, session)


def resolve(directory, session):
    config = RerankerConfig(
        source=str(directory), max_query_tokens=8, max_document_tokens=40, dtype="float32", token_budget=512
    )
    return Reranker.resolve(config, session)


def run(store, session, teacher, data, depth, progress=None):
    step = score_step(data, over_step(data), teacher, "train", ScoreConfig(depth=depth, **SMALL))
    return compute(step, store, session, progress or Silent())


def naive(directory, teacher, queries, documents, depth):
    """Rank by scores of one pair at a time."""
    judge = load_reranker(directory, teacher.config.rendering)
    memory = {}

    def score(query, doc):
        pair = (queries[query], documents[doc])
        if pair not in memory:
            memory[pair] = float(judge.score([pair], 512)[0])
        return memory[pair]

    return naive_rerank(candidate_rows(), depth, score), memory


def assert_equal(artifact, expected):
    table = artifact.read("candidates")
    assert table.schema.equals(schemas.CANDIDATES, check_metadata=True)
    got = [tuple(row.values()) for row in table.to_pylist()]
    scores = {(query, doc): score for query, doc, _, score, _ in got}
    assert [row[:3] + row[4:] for row in sorted(got)] == [row[:3] + row[4:] for row in sorted(expected)]
    for query, doc, _, score, _ in expected:
        assert scores[query, doc] == pytest.approx(score, abs=3e-6)


def digests(artifact):
    return [shard.sha256 for shard in artifact.manifest.tables["candidates"].shards]


def test_every_pair_is_scored_once_ever(store, session, teacher, directory, shallow):
    data = data_step()
    queries, documents = texts()
    expected, first = naive(directory, teacher, queries, documents, 3)
    assert_equal(shallow, expected)
    over = store.find("search", "tiny", over_step(data).fingerprint)
    for shard in range(2):
        mine, theirs = (set(a.read_shard("candidates", shard)["query"].to_pylist()) for a in (shallow, over))
        assert mine == theirs
    counters = shallow.manifest.counters
    assert counters["pairs_scored"] == len(first) and counters["pairs_from_store"] == 0

    deeper = run(store, session, teacher, data, 6)
    expected, both = naive(directory, teacher, queries, documents, 6)
    assert_equal(deeper, expected)
    counters = deeper.manifest.counters
    assert counters["pairs_scored"] == len(both) - len(first) > 0
    assert counters["pairs_from_store"] == len(first)
    assert counters["pairs_of_identical_texts"] == len(expected) - len(both) > 0
    told = deeper.read("deltas").to_pydict()
    known = ScoreStore(store.storage, teacher.label, teacher.fingerprint).deltas()
    assert set(told["delta"]) == {delta.path for delta in known} and sum(told["pairs"]) == len(both)

    # The same once more, the artifact gone: nothing is left to score, and the bytes are the same.
    store.storage.delete(deeper.key)
    with graphs_here():
        again = run(store, session, teacher, data, 6)
    assert again.manifest.counters["pairs_scored"] == 0 and digests(again) == digests(deeper)

    changed = [text if i % 4 else f"{text} w0" for i, text in enumerate(documents)]
    with graphs_here():
        other = run(store, session, teacher, data_step("other", queries, changed), 6)
    expected, third = naive(directory, teacher, queries, changed, 6)
    assert_equal(other, expected)
    assert other.manifest.counters["pairs_scored"] == len(set(third) - set(both)) > 0
    assert other.manifest.counters["pairs_from_store"] == len(set(third) & set(both)) > 0


class Interrupting(Silent):
    """Ends the run as Ctrl-C would, after a few rows."""

    def advance(self, amount=1, note=""):
        super().advance(amount, note)
        if len(self.seen) == 2:
            raise KeyboardInterrupt


def test_an_interrupted_run_goes_on_and_ends_in_the_same_bytes(session, teacher, shallow, tmp_path):
    store = ArtifactStore(str(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        run(store, session, teacher, data_step(), 3, Interrupting())
    known = ScoreStore(store.storage, teacher.label, teacher.fingerprint).deltas()
    assert len(known) >= 2
    progress = Silent()
    # On the cluster again: what was under way when the run was interrupted ends before this one begins.
    rough = run(store, session, teacher, data_step(), 3, progress)
    assert digests(rough) == digests(shallow)
    # What was finished counts from the start; on a slow machine that may be all of it.
    assert progress.done == rough.manifest.summary["pairs"] == shallow.num_rows("candidates")
    assert sum(rough.read("deltas")["pairs"].to_pylist()) == shallow.manifest.counters["pairs_scored"]


def test_a_teacher_that_returns_nan_is_told_and_stores_nothing(session, here, directory, tmp_path):
    store = ArtifactStore(str(tmp_path / "store"))
    broken = shutil.copytree(directory, tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    name = next(each for each in weights if each.endswith("classifier.weight"))
    weights[name][:] = np.nan
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    teacher = resolve(broken, session)
    with pytest.raises(Exception, match="not finite") as caught:
        run(store, session, teacher, data_step(), 3)
    mistake = mistake_in(caught.value)
    assert mistake is not None and "for query " in str(mistake) and "dtype: float32" in str(mistake)
    assert ScoreStore(store.storage, teacher.label, teacher.fingerprint).deltas() == []
