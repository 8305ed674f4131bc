"""Starved queries searched again through fused lists and rerankers, against one query and one pair at a time."""

import numpy as np
import pytest

from cluster.artifacts import ArtifactStore
from models.reranker import load_reranker
from pipelines import schemas
from pipelines.recipe import load_recipe
from tests.tiny_mining import mine, write_inputs
from tests.tiny_scoring import naive_rerank

SHALLOW, DEEP, SCORED, SCORED_DEEPER, NEGATIVES = 6, 30, 5, 20, 2
MODEL = (
    "{{source: {}, max_query_tokens: 8, max_document_tokens: 40, dtype: float32, token_budget: 512, "
    "activation: sigmoid}}"
)
TEACHERS = (
    "{{dense: {{kind: dense}}, words: {{kind: bm25}}, both: {{kind: fused, of: [dense, words]}}, "
    "judge: {{kind: reranker, over: both, depth: {}, {}row_tokens: 1500, group_pairs: 100, model: {}}}}}"
)
READ = {
    # Another teacher's scores decide on what the fused one supplies; one teacher does both.
    "judged": ("both", "{method: perc_pos, scores_of: judge, threshold: 0.9}"),
    "reranked": ("judge", "{method: perc_pos, threshold: 0.9}"),
}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return write_inputs(tmp_path_factory.mktemp("starved"))


def settings(recipe, name, depth, max_depth, scored, scored_deeper=None):
    supplier, rule = READ[name]
    further = "" if scored_deeper is None else f"max_depth: {scored_deeper}, "
    model = MODEL.format(recipe.parent / "judge")
    return (
        f"mine.teachers={TEACHERS.format(scored, further, model)}",
        f"mine.search.retrieval_depth={depth}",
        f"mine.search.max_retrieval_depth={max_depth}",
        f"mine.select={{teachers: [{supplier}], num_negatives: {NEGATIVES}, filter: {rule}}}",
    )


def by_query(artifact):
    rows = {}
    for row in artifact.read("candidates").to_pylist():
        rows.setdefault(row["query"], []).append(row)
    return rows


def groups(made):
    return {row["query"]: row for row in made["groups"].read("groups").to_pylist()}


def fused(lists, depth):
    """Return the rows of one query's fused list: the sum of 1 / (60 + rank), in order."""
    share, positives = {}, set()
    for row in (row for rows in lists for row in rows):
        share[row["doc"]] = share.get(row["doc"], 0.0) + (1 / (60 + row["rank"]) if row["rank"] else 0.0)
        positives |= {row["doc"]} if row["is_positive"] else set()
    ranked = sorted((doc for doc in share if share[doc]), key=lambda doc: (-np.float32(share[doc]), doc))[
        :depth
    ]
    rows = [{"doc": doc, "rank": rank, "is_positive": doc in positives} for rank, doc in enumerate(ranked, 1)]
    return rows + [{"doc": doc, "rank": 0, "is_positive": True} for doc in sorted(positives - set(ranked))]


def survivors(rows, judged):
    """Return what is left of one query's list: not labelled, scored, and below the share of the positive's score."""
    scores = {row["doc"]: row["score"] for row in judged}
    bound = 0.9 * min(row["score"] for row in judged if row["is_positive"])
    kept = [row["doc"] for row in rows if row["rank"] and not row["is_positive"] and row["doc"] in scores]
    return [doc for doc in kept if scores[doc] < bound]


@pytest.mark.parametrize("name", READ)
def test_a_starved_query_is_mined_as_if_all_were_searched_deeper(session, recipe, here, tmp_path, name):
    store = ArtifactStore(str(tmp_path))
    supplier = READ[name][0]
    once = mine(recipe, store, session, *settings(recipe, name, SHALLOW, SHALLOW, SCORED))
    twice = mine(recipe, store, session, *settings(recipe, name, SHALLOW, DEEP, SCORED, SCORED_DEEPER))

    lists, judged = by_query(once[f"{supplier}_candidates"]), by_query(once["judge_candidates"])
    left = {query: survivors(lists[query], judged[query]) for query in judged}
    starved = sorted(query for query in left if len(left[query]) < NEGATIVES)
    assert 3 <= len(starved) < len(left)
    assert twice["starved"].read("starved").column("query").to_pylist() == starved

    # The constituents are searched deeper and fused once more.
    dense, words, both = (by_query(twice[f"{each}_deeper"]) for each in ("dense", "words", "both"))
    assert sorted(both) == starved
    for query in starved:
        naive = fused([dense[query], words[query]], DEEP)
        assert [{key: row[key] for key in naive[0]} for row in both[query]] == naive
        assert max(row["rank"] for row in dense[query]) == DEEP

    # The reranker ranks them anew, and scores what it has not scored before.
    document_texts, query_texts = (
        schemas.rendered_texts(twice["data"].read(table)) for table in ("documents", "queries")
    )
    reranker = load_recipe(str(recipe), settings(recipe, name, SHALLOW, DEEP, SCORED)).mine.teachers["judge"]
    judge = load_reranker(recipe.parent / "judge", reranker.model.rendering)
    asked = set()

    def score(query, doc):
        asked.add((query_texts[query], document_texts[doc]))
        return float(judge.score([(query_texts[query], document_texts[doc])], 512)[0])

    rows = [row for query in starved for row in both[query]]
    expected = naive_rerank(rows, SCORED_DEEPER, score)
    got = [row for rows in by_query(twice["judge_deeper"]).values() for row in rows]
    assert [(row["query"], row["doc"], row["rank"]) for row in got] == [row[:3] for row in expected]
    known = {
        (query_texts[row["query"]], document_texts[row["doc"]]) for rows in judged.values() for row in rows
    }
    counters = twice["judge_deeper"].manifest.counters
    assert counters["pairs_scored"] == len(asked - known) > 0
    assert counters["pairs_from_store"] == len(asked & known) > 0

    # Everybody else's groups are what they were; those of the starved are as if all had been searched deeper.
    all_deep = mine(recipe, store, session, *settings(recipe, name, DEEP, DEEP, SCORED_DEEPER))
    shallow, found, deep = groups(once), groups(twice), groups(all_deep)
    assert found == {query: (deep if query in starved else shallow)[query] for query in shallow}
    assert sum(len(found[query]["negatives"]) - len(left[query]) for query in starved) > 0


def test_where_nobody_is_starved_nothing_is_scored_again(session, recipe, here, tmp_path):
    store = ArtifactStore(str(tmp_path))
    kept = "mine.select={teachers: [judge], num_negatives: 2, filter: {method: naive}}"
    once = mine(recipe, store, session, *settings(recipe, "reranked", SHALLOW, SHALLOW, SCORED), kept)
    twice = mine(recipe, store, session, *settings(recipe, "reranked", SHALLOW, DEEP, SCORED), kept)
    again = twice["judge_deeper"]
    assert again.num_rows("candidates") == 0 and again.manifest.counters["pairs_scored"] == 0
    assert again.num_shards("candidates") == once["judge_candidates"].num_shards("candidates") > 1
    assert groups(twice) == groups(once)
