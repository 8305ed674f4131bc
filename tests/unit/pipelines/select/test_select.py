"""Selection against a loop over queries that follows the papers word by word."""

import numpy as np
import pyarrow as pa
import pytest

from pipelines import schemas
from pipelines.select.config import FilterConfig, SelectConfig
from pipelines.select.examples import pick_examples
from pipelines.select.groups import Candidates, groups_table, gumbel_noise, select
from pipelines.select.samplers import sampled, top1_sampled

NUM_DOCS, DEPTH = 60, 24


def candidates(seed: int, num_queries: int = 40, negative_scores: bool = False) -> pa.Table:
    rng = np.random.default_rng(seed)
    rows = []
    for query in range(0, 3 * num_queries, 3):
        docs = rng.permutation(NUM_DOCS)[:DEPTH]
        scores = np.sort(rng.uniform(-1 if negative_scores else 0, 0 if negative_scores else 1, DEPTH))[::-1]
        positives = set(rng.choice(docs, rng.integers(1, 4), replace=False).tolist())
        for rank, (doc, score) in enumerate(zip(docs.tolist(), scores.tolist(), strict=True), 1):
            rows.append(
                {"query": query, "doc": doc, "rank": rank, "score": score, "is_positive": doc in positives}
            )
        beyond = int(rng.choice(np.setdiff1d(np.arange(NUM_DOCS), docs)))
        rows.append(
            {"query": query, "doc": beyond, "rank": 0, "score": scores[-1] - 0.1, "is_positive": True}
        )
    return schemas.conform(pa.Table.from_pylist(rows), schemas.CANDIDATES)


def texts(num_queries: int) -> tuple[np.ndarray, np.ndarray]:
    # Documents d and d + 50 share their text; query row 0 is document 7 word by word.
    doc = np.arange(NUM_DOCS, dtype=np.uint64) % 50 + 1000
    query = np.arange(num_queries, dtype=np.uint64) + 9000
    query[0] = doc[7]
    return doc, query


def naive_selection(
    table: pa.Table, text_of_doc, text_of_query, config: SelectConfig
) -> dict[int, list[int]]:
    rule, chosen = config.filter, {}
    for row, query in enumerate(sorted(set(table.column("query").to_pylist()))):
        mine = [r for r in table.to_pylist() if r["query"] == query]
        positives = [r for r in mine if r["is_positive"]]
        scores = [r["score"] for r in positives]
        positive = {"min": min, "max": max, "mean": lambda s: sum(s) / len(s)}[config.positive_score](scores)
        known = {text_of_doc[r["doc"]] for r in positives} | {text_of_query[row]}
        survivors = []
        for r in sorted((r for r in mine if r["rank"] > 0), key=lambda r: r["rank"]):
            if r["is_positive"] or text_of_doc[r["doc"]] in known:
                continue
            threshold, score = rule.resolved_threshold, r["score"]
            keep = {
                "naive": True,
                "shifted": r["rank"] > rule.shift,
                "absolute": score <= threshold,
                "margin_pos": score < positive - threshold,
                "perc_pos": score < positive - abs(positive) * (1 - threshold),
            }[rule.method]
            if keep:
                survivors.append(r["doc"])
        if len(survivors) >= config.num_negatives or config.starved == "keep_fewer":
            chosen[query] = survivors[: config.num_negatives]
    return chosen


def chosen_by_us(table: pa.Table, config: SelectConfig):
    found = Candidates.from_table(table)
    text_of_doc, text_of_query = texts(len(found.query_Q))
    decided = select(found, text_of_doc, text_of_query, config)
    names = pa.array(["t"] * len(found.query_Q))
    return groups_table(found, decided, names, names, config), decided, found


@pytest.mark.parametrize("method", ["naive", "shifted", "absolute", "margin_pos", "perc_pos"])
@pytest.mark.parametrize("positive_score", ["min", "max", "mean"])
@pytest.mark.parametrize("negative_scores", [False, True])
@pytest.mark.parametrize("starved", ["keep_fewer", "drop"])
def test_equals_the_naive_loop(method, positive_score, negative_scores, starved):
    table = candidates(3, negative_scores=negative_scores)
    rule = FilterConfig(method=method, shift=5)
    config = SelectConfig(filter=rule, positive_score=positive_score, num_negatives=4, starved=starved)
    groups, decided, found = chosen_by_us(table, config)
    expected = naive_selection(table, *texts(len(found.query_Q)), config)
    got = {row["query"]: [n["doc"] for n in row["negatives"]] for row in groups.to_pylist()}
    assert got == expected
    counters = decided.counters(config)
    present = int((found.docs_QC >= 0).sum())
    surviving = (
        present - counters["labelled_positive"] - counters["identical_text"] - counters[f"filter_{method}"]
    )
    assert surviving >= sum(len(docs) for docs in expected.values())


def test_groups_carry_scores_ranks_and_all_positives():
    table = candidates(5)
    groups, _, _ = chosen_by_us(table, SelectConfig(filter=FilterConfig(method="naive"), num_negatives=3))
    by_pair = {(r["query"], r["doc"]): r for r in table.to_pylist()}
    for group in groups.to_pylist():
        positives = {r["doc"] for r in table.to_pylist() if r["query"] == group["query"] and r["is_positive"]}
        assert {p["doc"] for p in group["positives"]} == positives
        for member in group["positives"] + group["negatives"]:
            assert member["scores"] == [by_pair[group["query"], member["doc"]]["score"]]
        for negative in group["negatives"]:
            assert negative["rank"] == by_pair[group["query"], negative["doc"]]["rank"]


def test_scores_that_are_not_finite_never_reach_a_group():
    rows = candidates(7).to_pylist()
    for row in rows:
        if row["rank"] in (2, 3) and not row["is_positive"]:
            row["score"] = float("nan") if row["rank"] == 2 else float("inf")
    table = schemas.conform(pa.Table.from_pylist(rows), schemas.CANDIDATES)
    groups, _, _ = chosen_by_us(table, SelectConfig(filter=FilterConfig(method="naive"), num_negatives=8))
    scores = [s for g in groups.to_pylist() for n in g["negatives"] for s in n["scores"]]
    assert scores and np.isfinite(scores).all()


def test_a_draw_depends_on_seed_and_query_alone():
    noise = gumbel_noise(1, np.array([4, 9, 2]), 6)
    assert np.array_equal(noise[1], gumbel_noise(1, np.array([9]), 6)[0])
    assert not np.array_equal(noise[1], gumbel_noise(2, np.array([9]), 6)[0])


def test_sampling_follows_the_softmax():
    scores = np.array([[0.70, 0.69, 0.60, 0.50]]).repeat(200_000, axis=0)
    kept = np.ones(scores.shape, bool)
    noise = gumbel_noise(0, np.arange(len(scores)), 4)
    for temperature, expected in ((1.0, [0.269, 0.267, 0.244, 0.220]), (0.05, [0.507, 0.415, 0.069, 0.009])):
        share = sampled(scores, kept, 1, 4, temperature, noise).mean(axis=0)
        assert np.allclose(share, expected, atol=0.004)


def test_top1_sampled_keeps_the_first_survivor_and_stays_in_the_pool():
    scores = np.sort(np.random.default_rng(0).uniform(size=(500, 12)))[:, ::-1]
    kept = np.random.default_rng(1).uniform(size=scores.shape) < 0.8
    drawn = top1_sampled(scores, kept, 3, 5, 1.0, gumbel_noise(0, np.arange(500), 12))
    first = kept.argmax(axis=1)
    assert drawn[np.arange(500), first].all()
    assert (drawn.sum(axis=1) == np.minimum(3, kept.sum(axis=1))).all()
    assert not (drawn & (np.cumsum(kept, axis=1) > 5)).any()


def test_examples_show_distinct_documents():
    config = SelectConfig(num_negatives=2, positive_score="max", filter=FilterConfig(threshold=0.8))
    _, decided, found = chosen_by_us(candidates(11), config)
    examples = pick_examples(found, decided, 3)
    shown = [example[name] for example in examples for name in ("positive", "rejected", "chosen")]
    assert len(examples) == 3 and len(set(shown)) == 9
    assert all(e["rejected_score"] > e["chosen_score"] for e in examples)


@pytest.mark.parametrize(
    "settings",
    [{"selection": "sampled", "num_negatives": 11}, {"filter": {"method": "naive", "threshold": 0.5}}],
)
def test_settings_that_contradict_each_other_are_refused(settings):
    with pytest.raises(ValueError, match=r"sample_from|threshold"):
        SelectConfig.model_validate(settings)


def test_a_default_threshold_written_out_is_the_same_rule():
    said = SelectConfig(filter=FilterConfig(method="perc_pos", threshold=0.95))
    assert said.resolved == SelectConfig(filter=FilterConfig(method="perc_pos")).resolved
    assert said.resolved != SelectConfig(filter=FilterConfig(method="perc_pos", threshold=0.9)).resolved
    assert SelectConfig(filter=FilterConfig(method="shifted")).resolved.filter.threshold is None
