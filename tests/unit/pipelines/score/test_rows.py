"""The way of the pairs, without Ray: every pair meets its texts once, and is asked for once."""

import numpy as np
import pyarrow as pa
import pytest

from cluster.artifacts import ArtifactStore
from models.reranking.rendering import CHARACTERS_PER_TOKEN, make_rendering
from pipelines.score.gather import Gathering, ask, join
from pipelines.score.keys import from_arrow
from pipelines.score.layout import Layout
from pipelines.score.rows import Portion, settle, take_portion
from pipelines.score.store import ScoreStore
from tests.tiny_scoring import candidate_rows, data_step, over_step, texts
from tests.tiny_training import Silent, compute

RENDERING = make_rendering("cross_encoder", max_query_tokens=8, max_document_tokens=20)
LAYOUT = Layout(ranges=((0, 1), (1, 2)), groups=((0, 2), (2, 3)), num_partitions=3)


def judge(pair):
    query, document = pair
    return np.float32(hash_of(query) - hash_of(document) / 3)


def hash_of(text):
    return sum(ord(letter) * (place % 7 + 1) for place, letter in enumerate(text)) % 1009


class Bench:
    """Gathers one collection's pairs and scores them, portion by portion."""

    def __init__(self, root, data, depth):
        self.store = ArtifactStore(str(root))
        over = compute(over_step(data), self.store, None, Silent())
        artifact = compute(data, self.store, None, Silent())
        self.writer = self.store.open("score", data.label, f"{depth:020d}")
        self.gathering = Gathering(self.writer, artifact, over, RENDERING, LAYOUT, depth)
        self.scores = ScoreStore(self.store.storage, "teacher", "a" * 20)

    def gather(self):
        self.pairs = sum(ask(self.gathering, index) for index in range(2))
        finished = self.writer.finished("asked")
        joined = [join(self.gathering, g, [finished[LAYOUT.asked(i, g)] for i in range(2)]) for g in range(2)]
        assert sum(joined) == self.pairs
        pieces = self.writer.finished("joined")
        self.tokens = sum(piece.counters["tokens"] for piece in pieces.values())
        return [
            pa.concat_tables([self.writer.read_finished(pieces[LAYOUT.joined(g, p)]) for g in range(2)])
            for p in range(3)
        ]

    def score(self, cuts=2):
        deltas, asked, row = self.scores.deltas(), [], 0
        for partition in self.gather():
            for cut in range(cuts):
                portion, pairs = take_portion(partition, cut, cuts, self.scores, deltas)
                asked += pairs
                made = np.array([judge(pair) for pair in pairs], np.float32)
                settle(self.writer, self.scores, row, Portion.unpack(portion.pack()), made, deltas, 1, 0.0)
                row += 1
        return asked

    def result(self):
        tables = [self.writer.read_finished(shard) for shard in self.writer.finished("scored").values()]
        return {(r["query"], r["doc"]): r["score"] for table in tables for r in table.to_pylist()}


def expected(queries, documents, depth, seed=0):
    kept = [r for r in candidate_rows(seed) if 0 < r["rank"] <= depth or r["is_positive"]]
    cut = [(queries[r["query"]], documents[r["doc"]][: 20 * CHARACTERS_PER_TOKEN]) for r in kept]
    return {(r["query"], r["doc"]): judge(pair) for r, pair in zip(kept, cut, strict=True)}, set(cut)


@pytest.mark.parametrize("cuts", [1, 2, 9])
def test_every_pair_gets_the_score_of_its_texts_and_is_asked_once(tmp_path, cuts):
    bench = Bench(tmp_path, data_step(), 6)
    asked = bench.score(cuts)
    scores, unique = expected(*texts(), 6)
    assert bench.result() == scores and bench.pairs == len(scores)
    assert len(asked) == len(unique) < len(scores) and set(asked) == unique
    counts = [shard.counters for shard in bench.writer.finished("scored").values()]
    assert sum(c["pairs_scored"] for c in counts) == len(unique)
    assert sum(c["pairs_of_identical_texts"] for c in counts) == len(scores) - len(unique)


def test_a_deeper_run_asks_for_the_new_pairs_only(tmp_path):
    first = Bench(tmp_path, data_step(), 3).score()
    deep = Bench(tmp_path, data_step(), 6)
    asked = deep.score(cuts=1)
    scores, unique = expected(*texts(), 6)
    assert set(first) | set(asked) == unique and not set(first) & set(asked) and asked
    assert deep.result() == scores
    read = [deep.writer.read_finished(shard) for shard in deep.writer.finished("read").values()]
    told = pa.concat_tables(read).group_by("delta").aggregate([("pairs", "sum")]).to_pylist()
    assert sum(row["pairs_sum"] for row in told) == len(unique)
    assert {row["delta"] for row in told} == {delta.path for delta in deep.scores.deltas()}


def test_a_collection_ingested_anew_finds_what_it_shares(tmp_path):
    first = Bench(tmp_path, data_step(), 6).score()
    queries, documents = texts()
    changed = [text if i % 5 else f"{text} w0" for i, text in enumerate(documents)]
    other = Bench(tmp_path, data_step("other", queries, changed), 6)
    asked = other.score()
    scores, unique = expected(queries, changed, 6)
    assert other.result() == scores and set(asked) == unique - set(first) and 0 < len(asked) < len(unique)


def test_two_runs_at_once_agree(tmp_path):
    one, two = Bench(tmp_path, data_step(), 6), Bench(tmp_path, data_step(), 5)
    portions = {}
    for bench in (one, two):
        portions[bench] = [take_portion(part, 0, 1, bench.scores, []) for part in bench.gather()]
    for bench, made in portions.items():
        for row, (portion, pairs) in enumerate(made):
            scores = np.array([judge(pair) for pair in pairs], np.float32)
            settle(bench.writer, bench.scores, row, portion, scores, [], 1, 0.0)
    for bench, depth in ((one, 6), (two, 5)):
        assert bench.result() == expected(*texts(), depth)[0]
    third = Bench(tmp_path, data_step(), 4)
    assert third.score() == [] and third.result() == expected(*texts(), 4)[0]


def test_a_portion_names_a_pair_for_every_unknown(tmp_path):
    bench = Bench(tmp_path, data_step(), 6)
    queries, documents = texts()
    for partition in bench.gather():
        portion, pairs = take_portion(partition, 0, 1, bench.scores, [])
        for (query, doc), (asked, text) in zip(portion.names().tolist(), pairs, strict=True):
            assert queries[query] == asked and documents[doc].startswith(text)
        keys = from_arrow(partition.column("pair"))
        assert len(np.unique(keys)) == len(pairs)


def test_a_huge_document_travels_cut(tmp_path):
    bench = Bench(tmp_path, data_step(), 6)
    partitions = bench.gather()
    longest = max(len(t or "") for part in partitions for t in part.column("document_text").to_pylist())
    assert longest == 20 * CHARACTERS_PER_TOKEN
    assert bench.tokens <= bench.pairs * (8 + 20 + 4)
