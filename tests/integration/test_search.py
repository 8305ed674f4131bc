"""Teachers on a real cluster: their candidates equal brute force, and shard i of each holds the same queries."""

from pathlib import Path

import numpy as np
import pytest

from cluster.errors import UserError
from models.lexical import Bm25
from pipelines.ranges import query_ranges
from pipelines.search.by_range import fused_step, random_step
from pipelines.search.config import IvfConfig, SearchConfig
from pipelines.search.lexical import lexical_index_step, lexical_step
from pipelines.search.pipeline import search_step
from tests.graphs_here import graphs_here, waves_here
from tests.integration.search_cases import Mine, rows_of, tied_embeddings

DEPTH = 12
CONFIG = SearchConfig(retrieval_depth=DEPTH, max_retrieval_depth=30, range_queries=17, tile_queries=5)


@pytest.fixture(scope="module")
def mine(session, tmp_path_factory):
    return Mine(tmp_path_factory.mktemp("store"), session, *tied_embeddings(200, 60))


@pytest.fixture
def small_groups(monkeypatch):
    """Cut the documents into groups of 90, as a corpus larger than memory would be."""
    monkeypatch.setattr("pipelines.search.pipeline._group_rows", lambda embeddings, config: 90)


@pytest.fixture(scope="module")
def teachers(mine):
    dense = search_step(mine.data, mine.embeddings, "train", CONFIG)
    words = lexical_step(mine.data, "train", DEPTH, CONFIG.range_queries)
    chance = random_step(mine.data, "train", DEPTH, 3, CONFIG.range_queries)
    both = fused_step(mine.data, {"dense": dense, "words": words}, DEPTH)

    def run(**steps):
        return {name: (step, mine.run(step)) for name, step in steps.items()}

    there = run(dense=dense, words=words)
    with graphs_here():
        return there | run(chance=chance, both=both)


def test_shard_i_of_every_teacher_holds_the_same_queries(mine, teachers):
    data = mine.run(mine.data)
    ranges = query_ranges(data, CONFIG.range_queries)
    starts = data.first_rows("queries")
    assert ranges == ((0, 2), (2, 4), (4, 6), (6, 8))
    for index, (start, stop) in enumerate(ranges):
        expected = [query for query in mine.queries_of("train") if starts[start] <= query < starts[stop]]
        for name, (_, artifact) in teachers.items():
            assert artifact.num_shards("candidates") == len(ranges)
            found = artifact.read_shard("candidates", index).column("query").unique().to_pylist()
            assert found == expected, name


@pytest.mark.parametrize("backend", ["faiss", "torch"])
def test_dense_search_equals_brute_force_for_every_grid(
    mine, teachers, backend, here, small_groups, tmp_path, session
):
    config = CONFIG.model_copy(update={"backend": backend, "tile_queries": 7})
    elsewhere = Mine(tmp_path, session, *tied_embeddings(200, 60))
    step = search_step(elsewhere.data, elsewhere.embeddings, "train", config)
    found = elsewhere.run(step)
    assert found.manifest.summary["num_tiles"] == 3 * 8
    assert rows_of(found) == mine.ranked("train", DEPTH)
    whole = teachers["dense"][1]
    shards = [[shard.sha256 for shard in a.manifest.tables["candidates"].shards] for a in (found, whole)]
    assert shards[0] == shards[1] and found.key == whole.key


def test_documents_in_chunks_are_ranked_by_their_best_row(session, tmp_path, here, small_groups):
    doc_ND, q_QD = tied_embeddings(300, 24)
    row_docs = np.repeat(np.arange(150), np.random.default_rng(0).permutation([1, 2, 3] * 50))
    chunked = Mine(tmp_path, session, doc_ND, q_QD, row_docs)
    found = chunked.run(search_step(chunked.data, chunked.embeddings, "train", CONFIG))
    assert rows_of(found) == chunked.ranked("train", DEPTH)
    scores = {query: chunked.scores(query) for query in chunked.queries_of("train")}
    for row in found.read("candidates").to_pylist():
        assert row["score"] == scores[row["query"]][row["doc"]]


def test_lexical_candidates_are_those_of_the_index_and_positives_are_scored(mine, teachers):
    index = Bm25(mine.texts)
    table = teachers["words"][1].read("candidates").to_pylist()
    by_query = {}
    for row in table:
        by_query.setdefault(row["query"], []).append(row)
    num_beyond = 0
    for query in mine.queries_of("train"):
        every_score, every_doc = (x[0] for x in index.search([mine.questions[query]], 200))
        rows = [row for row in by_query[query] if row["rank"]]
        assert [row["doc"] for row in rows] == every_doc[: len(rows)].tolist()
        assert len(rows) == min(DEPTH, int((every_doc >= 0).sum()))
        score_of = dict(zip(every_doc.tolist(), every_score.tolist(), strict=True))
        for row in by_query[query]:
            assert row["score"] == pytest.approx(score_of.get(row["doc"], 0.0))
        positives = {doc for asked, doc in mine.pairs if asked == query}
        assert {row["doc"] for row in by_query[query] if row["is_positive"]} == positives
        num_beyond += len(by_query[query]) - len(rows)
    assert num_beyond > 10
    assert mine.store.find("lexical", "small", lexical_index_step(mine.data).fingerprint)


def test_random_candidates_pass_every_filter(mine, teachers, here):
    table = teachers["chance"][1].read("candidates")
    for row in table.to_pylist():
        assert row["score"] == float(row["is_positive"]) == float((row["query"], row["doc"]) in mine.pairs)
    deeper = mine.run(random_step(mine.data, "train", 40, 3, CONFIG.range_queries)).read("candidates")
    first = {(row["query"], row["rank"]): row["doc"] for row in deeper.to_pylist() if row["rank"]}
    assert all(first[row["query"], row["rank"]] == row["doc"] for row in table.to_pylist() if row["rank"])
    assert len({(query, doc) for (query, _), doc in first.items()}) == len(first) == 40 * 40


def test_fused_candidates_equal_a_naive_sum(mine, teachers):
    lists = [teachers[name][1].read("candidates").to_pylist() for name in ("dense", "words")]
    for query in mine.queries_of("train"):
        score, positives = {}, set()
        for rows in lists:
            for row in rows:
                if row["query"] == query:
                    share = 1 / (60 + row["rank"]) if row["rank"] else 0.0
                    score[row["doc"]] = score.get(row["doc"], 0.0) + share
                    positives |= {row["doc"]} if row["is_positive"] else set()
        ranked = sorted((doc for doc in score if score[doc]), key=lambda doc: (-np.float32(score[doc]), doc))
        expected = [(doc, rank) for rank, doc in enumerate(ranked[:DEPTH], 1)]
        expected += [(doc, 0) for doc in sorted(positives - set(ranked[:DEPTH]))]
        rows = [row for row in teachers["both"][1].read("candidates").to_pylist() if row["query"] == query]
        assert [(row["doc"], row["rank"]) for row in rows] == expected
        assert all(row["score"] == np.float32(score[row["doc"]]) for row in rows)
        assert {row["doc"] for row in rows if row["is_positive"]} == positives


def test_starved_queries_alone_are_searched_deeper(mine, teachers, here):
    starved = mine.starved([[], [17, 20], [], [58]])
    steps = [
        search_step(mine.data, mine.embeddings, "train", CONFIG, only=starved),
        lexical_step(mine.data, "train", 30, CONFIG.range_queries, only=starved),
        random_step(mine.data, "train", 30, 3, CONFIG.range_queries, only=starved),
    ]
    dense, words, chance = (mine.run(step) for step in steps)
    for artifact in (dense, words, chance):
        rows = [shard.rows for shard in artifact.manifest.tables["candidates"].shards]
        assert rows[0] == rows[2] == 0 and rows[1] and rows[3]
    assert rows_of(dense) == mine.ranked("train", 30, [17, 20, 58])
    shallow = {row: 1 for row in rows_of(teachers["chance"][1]) if row[0] in (17, 20, 58) and row[2]}
    assert shallow.keys() <= set(rows_of(chance))
    fused = mine.run(fused_step(mine.data, {"dense": steps[0], "words": steps[1]}, 30))
    assert fused.read("candidates").column("query").unique().to_pylist() == [17, 20, 58]


def test_inverted_lists_with_all_probes_are_exact_and_state_their_recall(mine, here, small_groups):
    recalls = []
    for probes in (12, 2):
        ivf = IvfConfig(num_lists=12, num_probes=probes)
        config = CONFIG.model_copy(update={"index": "ivf", "ivf": ivf, "recall_sample": 15})
        found = mine.run(search_step(mine.data, mine.embeddings, "train", config))
        assert found.manifest.summary["recall_queries"] == 15
        recalls.append(found.manifest.summary["recall"])
        assert list(found.manifest.tables) == ["candidates"]
        if probes == 12:
            assert rows_of(found) == mine.ranked("train", DEPTH)
        scores = {query: mine.scores(query) for query in mine.queries_of("train")}
        for row in found.read("candidates").to_pylist():
            assert row["score"] == scores[row["query"]][row["doc"]]
    assert recalls[0] == 1.0 and 0.2 < recalls[1] < 1.0


def test_a_shard_of_other_bytes_is_named(session, tmp_path, here):
    broken = Mine(tmp_path, session, *tied_embeddings(100, 12))
    shard = broken.run(broken.embeddings).manifest.tables["documents"].shards[1]
    path = Path(broken.store.storage.locate(f"{broken.embeddings.key}/{shard.path}"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="differs from what the artifact recorded") as caught:
        broken.run(search_step(broken.data, broken.embeddings, "train", CONFIG))
    assert shard.path in str(caught.value)


def test_nobody_starved_needs_no_cluster(tmp_path):
    alone = Mine(tmp_path, None, *tied_embeddings(60, 20), queries_a_shard=5)
    starved = alone.starved([[]])
    off = CONFIG.model_copy(update={"max_retrieval_depth": DEPTH, "range_queries": 20})
    steps = [
        search_step(
            alone.data, alone.embeddings, "train", off.model_copy(update={"max_retrieval_depth": 50}), starved
        ),
        search_step(alone.data, alone.embeddings, "train", off, alone.starved([[1, 2]])),
        lexical_step(alone.data, "train", 50, 20, starved),
        random_step(alone.data, "train", 50, 0, 20, starved),
    ]
    for step in [*steps, fused_step(alone.data, {"dense": steps[0], "words": steps[2]}, 50)]:
        found = alone.run(step)
        assert found.num_shards("candidates") == 1 and found.num_rows("candidates") == 0
    with pytest.raises(UserError, match="other ranges"):
        alone.run(lexical_step(alone.data, "train", 50, 5, starved))


def test_a_search_goes_on_where_it_stopped(session, tmp_path, here, small_groups, monkeypatch):
    stopped = Mine(tmp_path, session, *tied_embeddings(200, 60))
    step = search_step(stopped.data, stopped.embeddings, "train", CONFIG)
    searched = []

    def stops(session, rows, build):
        for number, receipt in enumerate(waves_here(session, rows, build)):
            if number == 10:
                raise KeyboardInterrupt
            searched.append(receipt)
            yield receipt

    monkeypatch.setattr("pipelines.search.pipeline.run_waves", stops)
    with pytest.raises(KeyboardInterrupt):
        stopped.run(step)
    assert stopped.store.find(step.stage, step.label, step.fingerprint) is None
    counted = []
    monkeypatch.setattr(
        "pipelines.search.pipeline.run_waves",
        lambda session, rows, build: (counted.append(len(rows)), waves_here(session, rows, build))[1],
    )
    assert rows_of(stopped.run(step)) == stopped.ranked("train", DEPTH)
    # One more was written when the stop came.
    assert len(searched) == 10 and counted == [step.count_shards(inputs(stopped, step)) - 4 - 11]


def inputs(mine, step):
    return {name: mine.store.get(of.key) for name, of in step.inputs.items()}


def test_fused_lists_of_other_ranges_are_refused(mine, here):
    chance = random_step(mine.data, "train", DEPTH, 0, 17)
    words = random_step(mine.data, "train", DEPTH, 0, 60)
    mine.run(chance), mine.run(words)
    with pytest.raises(UserError, match="different ranges"):
        mine.run(fused_step(mine.data, {"one": chance, "other": words}, DEPTH))


def test_a_change_of_bounds_or_backend_is_no_change_of_the_search(mine):
    def key(**changed):
        config = SearchConfig.model_validate({**CONFIG.model_dump(), **changed})
        return search_step(mine.data, mine.embeddings, "train", config).key

    same = (
        {"backend": "faiss"},
        {"group_mb": 3},
        {"tile_queries": 9},
        {"recall_sample": 5},
        {"max_retrieval_depth": 7},
    )
    assert {key(**changed) for changed in same} == {key()}
    other = (
        {"retrieval_depth": 9},
        {"range_queries": 9},
        {"index": "ivf"},
        {"index": "ivf", "ivf": {"num_probes": 3}},
    )
    assert len({key(), *(key(**changed) for changed in other)}) == 5
