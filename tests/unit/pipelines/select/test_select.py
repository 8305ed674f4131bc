"""Whole shards against a loop over queries that follows the papers word by word."""

import itertools
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from pipelines import schemas
from pipelines.select.config import FilterConfig, SelectConfig
from pipelines.select.examples import pick_examples
from tests.unit.pipelines.select.reference import (
    NUM_DOCS,
    expected_groups,
    groups_of,
    mined,
    qrels_of,
    random_tables,
    row,
)

METHODS = ["naive", "shifted", "absolute", "margin_pos", "perc_pos", "double"]
THRESHOLDS = {"absolute": 0.5, "margin_pos": 0.125, "perc_pos": 0.75, "double": 0.75}


def rule(method: str, **more) -> dict:
    shift = {"shift": 3} if method in ("shifted", "double") else {}
    ratio = {"max_positive_ratio": 0.875} if method == "double" else {}
    return {"method": method, "threshold": THRESHOLDS.get(method)} | shift | ratio | more


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("positives", ["min", "max", "mean", "per_example"])
@pytest.mark.parametrize("low", [0.0, -1.0])
def test_every_filter_equals_the_loop(method, positives, low):
    tables = random_tables(3, low=low, high=low + 1)
    modes = {"positives": positives} if positives == "per_example" else {"positive_score": positives}
    for starved in ("keep_fewer", "repeat", "drop"):
        config = SelectConfig.model_validate({"filter": rule(method), "starved": starved, **modes})
        assert groups_of(mined(tables, config).groups) == expected_groups(tables, config)


@pytest.mark.parametrize("ensemble", ["cross_sample", "intra_sample"])
@pytest.mark.parametrize("deduplicate", [False, True])
@pytest.mark.parametrize("positives", ["per_query", "per_example"])
@pytest.mark.parametrize("num_teachers", [2, 3])
def test_every_ensemble_equals_the_loop(ensemble, deduplicate, positives, num_teachers):
    if deduplicate and ensemble == "cross_sample":
        return
    for method, num_negatives in itertools.product(("naive", "perc_pos"), (2, 7)):
        seed = num_negatives
        tables = random_tables(seed, num_teachers)
        threshold = {name: 0.5 + 0.125 * place for place, name in enumerate("abc"[:num_teachers])}
        settings = {"ensemble": ensemble, "deduplicate": deduplicate, "positives": positives, "seed": seed}
        filtered = rule(method) | ({"threshold": threshold} if method == "perc_pos" else {})
        config = SelectConfig.model_validate(settings | {"filter": filtered, "num_negatives": num_negatives})
        assert groups_of(mined(tables, config).groups) == expected_groups(tables, config)


@pytest.mark.parametrize("selection", ["sampled", "top1_sampled"])
@pytest.mark.parametrize("positives", ["per_query", "per_example"])
def test_every_sampler_equals_the_loop(selection, positives):
    tables = random_tables(8, depth=40)
    config = SelectConfig.model_validate(
        {"filter": rule("perc_pos"), "selection": selection, "sample_from": 7, "sample_temperature": 0.2}
        | {"num_negatives": 3, "positives": positives, "seed": 5}
    )
    assert groups_of(mined(tables, config).groups) == expected_groups(tables, config)


@pytest.mark.parametrize("method", ["absolute", "margin_pos", "perc_pos"])
@pytest.mark.parametrize("positives", ["per_query", "per_example"])
def test_a_judge_decides_by_its_own_scores(method, positives):
    tables = random_tables(4, 3)
    one = SelectConfig.model_validate(
        {"filter": rule(method, scores_of="c"), "teachers": ["a"], "positives": positives}
    )
    two = one.model_copy(update={"teachers": ("a", "b"), "ensemble": "intra_sample"})
    pair = [tables[0], tables[2]]
    found = mined(pair, one, names=("a", "c"))
    assert groups_of(found.groups, ("a", "c")) == expected_groups(pair, one, names=("a", "c"))
    assert groups_of(mined(tables, two).groups) == expected_groups(tables, two)
    unscored = found.counters["not_scored_by_c"]
    judged = {(r["query"], r["doc"]) for r in tables[2].to_pylist()}
    assert unscored > 0
    for group in found.groups.to_pylist():
        assert all((group["query"], negative["doc"]) in judged for negative in group["negatives"])


def test_ranks_and_consistency_equal_the_loop():
    tables = random_tables(9, 2)
    for window, most in itertools.product(({}, {"min_rank": 3, "max_rank": 9}), (1, 4)):
        for settings in ({"teachers": ["b"]}, {"ensemble": "intra_sample"}, {"positives": "per_example"}):
            filtered = rule("margin_pos", max_positive_rank=most, **window)
            teachers = {} if settings.keys() & {"ensemble", "teachers"} else {"teachers": ["a"]}
            config = SelectConfig.model_validate({"filter": filtered, **settings, **teachers})
            found = mined(tables, config)
            expected = expected_groups(tables, config)
            assert groups_of(found.groups) == expected
            unit = "examples" if config.positives == "per_example" else "queries"
            everyone = expected_groups(tables, SelectConfig.model_validate({**settings, **teachers}))
            assert found.counters[f"{unit}_with_low_ranked_positive"] == len(everyone) - len(expected) > 0


def test_everything_that_was_retrieved_is_counted_once():
    settings = {
        "filter": rule("perc_pos", scores_of="b", max_rank=20),
        "teachers": ["a"],
        "num_negatives": 20,
    }
    config, total = SelectConfig.model_validate(settings), Counter[str]()
    for seed in range(5):
        tables = random_tables(seed, 2)
        found = mined(tables, config)
        retrieved = sum(r["rank"] > 0 for r in tables[0].to_pylist())
        reasons = [name for name in found.counters if not name.startswith(("queries", "negatives"))]
        assert retrieved == sum(found.counters[name] for name in reasons) + found.facts.supplied_T.sum()
        total.update({name: found.counters[name] for name in reasons})
    assert len(total) == 6 and all(total.values())


def test_groups_carry_the_scores_of_every_teacher():
    tables = random_tables(5, 3)
    scores = [
        {(r["query"], r["doc"]): r["score"] if np.isfinite(r["score"]) else None for r in table.to_pylist()}
        for table in tables
    ]
    ranks = [{(r["query"], r["doc"]): r["rank"] for r in table.to_pylist()} for table in tables]
    config = SelectConfig(filter=FilterConfig(method="naive"), ensemble="intra_sample", num_negatives=5)
    margins: list[list[float]] = [[], [], []]
    found = mined(tables, config)
    for group in found.groups.to_pylist():
        query = group["query"]
        first = [p["scores"][0] for p in group["positives"]]
        assert [s for s in first if s is not None] == sorted(
            (s for s in first if s is not None), reverse=True
        )
        for member in group["positives"] + group["negatives"]:
            assert member["scores"] == [each.get((query, member["doc"])) for each in scores]
        for negative in group["negatives"]:
            assert negative["rank"] == ranks[negative["teacher"]][query, negative["doc"]]
            for teacher in range(3):
                own = [p["scores"][teacher] for p in group["positives"] if p["scores"][teacher] is not None]
                if own and negative["scores"][teacher] is not None:
                    margins[teacher].append(min(own) - negative["scores"][teacher])
    means = found.facts.margin_sum_T / found.facts.margin_count_T
    assert found.facts.margin_count_T.tolist() == [len(each) for each in margins]
    assert np.allclose(means, [np.mean(each) for each in margins], atol=1e-6)


def test_scores_that_are_not_finite_never_reach_a_group():
    rows = random_tables(7)[0].to_pylist()
    for each in rows:
        if each["rank"] in (2, 3):
            each["score"] = float("nan") if each["rank"] == 2 else float("inf")
    table = pa.Table.from_pylist(rows, schema=schemas.CANDIDATES)
    config = SelectConfig(filter=FilterConfig(method="naive"), num_negatives=8)
    found = mined([table], config)
    members = [m for g in found.groups.to_pylist() for m in g["positives"] + g["negatives"]]
    scores = [score for member in members for score in member["scores"] if score is not None]
    assert scores and np.isfinite(scores).all()
    assert found.counters["score_not_finite"] > 0
    assert all(
        negative["scores"][0] is not None for g in found.groups.to_pylist() for negative in g["negatives"]
    )


def test_the_bound_lies_below_a_negative_positive():
    docs = [row(0, doc, doc, score, False) for doc, score in enumerate((-0.37, -0.395, -0.41, -0.5), 1)]
    table = pa.Table.from_pylist([*docs, row(0, 9, 0, -0.4, True)], schema=schemas.CANDIDATES)
    config = SelectConfig(num_negatives=4)
    # .95 of -.4 is -.38, above the positive: taken literally it would let -.395 pass.
    chosen = [n["doc"] for n in mined([table], config).groups.to_pylist()[0]["negatives"]]
    assert chosen == [4]


def test_answers_are_training_queries_whose_positive_the_negative_is():
    tables = random_tables(12)
    extra = [(query, doc, 1.0, "train") for query in (1, 2, 4, 5) for doc in range(0, NUM_DOCS, 2)]
    extra += [(7, doc, 1.0, split) for doc in range(NUM_DOCS) for split in ("dev", "test")]
    qrels = qrels_of(tables, extra=extra)
    config = SelectConfig(filter=FilterConfig(method="naive"), num_negatives=10)
    answered = 0
    for group in mined(tables, config, qrels=qrels).groups.to_pylist():
        for negative in group["negatives"]:
            real = sorted(
                r["query"] for r in qrels.to_pylist() if r["doc"] == negative["doc"] and r["split"] == "train"
            )
            assert negative["answers"] == real[:3]
            assert group["query"] not in real
            answered += len(real)
    assert answered > 200


@pytest.mark.parametrize("positives", ["per_query", "per_example"])
@pytest.mark.parametrize("split", ["dev", "train"])
def test_documents_that_any_split_but_test_labels_are_no_negatives(positives, split):
    settings = {"filter": rule("margin_pos"), "positives": positives, "num_negatives": 6}
    tables = random_tables(6, 2)
    for more in ({"ensemble": "intra_sample"}, {"ensemble": "cross_sample", "starved": "repeat"}):
        config = SelectConfig.model_validate(settings | more)
        before = groups_of(mined(tables, config).groups)
        first = {(query, docs[0][0]) for query, _, docs in before if docs}
        extra = [(query, doc, 1.0, split) for query, doc in first]
        extra += [(query, doc, 1.0, "test") for query, doc in first for doc in range(NUM_DOCS)]
        extra += [(query, doc, 0.0, "dev") for query, _ in first for doc in range(NUM_DOCS)]
        found = mined(tables, config, qrels=qrels_of(tables, extra=extra))
        after = groups_of(found.groups)
        assert after == expected_groups(tables, config, elsewhere=first) and after != before
        assert [group[:2] for group in after] == [group[:2] for group in before]
        retrieved = sum((r["query"], r["doc"]) in first and r["rank"] > 0 for r in tables[0].to_pylist())
        if config.ensemble == "intra_sample" and positives == "per_query":
            known = mined(tables, config).counters["labelled_positive"]
            assert found.counters["labelled_positive"] - known >= retrieved > 0


def test_random_fill_draws_no_document_that_another_split_labels():
    table = pa.Table.from_pylist([row(1, 2, 1, 0.9, True)], schema=schemas.CANDIDATES)
    extra = [(1, doc, 1.0, "dev") for doc in range(10, 75)]
    config = SelectConfig(starved="random_fill", num_negatives=20)
    group = mined([table], config, qrels=qrels_of([table], extra=extra)).groups.to_pylist()[0]
    # 2 is the positive, 77 has its text, and 85 to 89 have the texts of 10 to 14.
    allowed = [doc for doc in (*range(10), *range(75, 85)) if doc not in (2, 77)]
    assert sorted(n["doc"] for n in group["negatives"]) == allowed
    assert [p["doc"] for p in group["positives"]] == [2]


def test_queries_without_a_positive_are_counted():
    rows = [*random_tables(1)[0].to_pylist(), row(1, 3, 1, 0.5, False), row(2, 3, 1, 0.5, False)]
    table = pa.Table.from_pylist(rows, schema=schemas.CANDIDATES)
    found = mined([table], SelectConfig())
    assert found.counters["queries_without_positive"] == 2
    nothing = mined([table.slice(0, 0)], SelectConfig())
    assert nothing.groups.num_rows == 0 and nothing.groups.schema == schemas.GROUPS


def test_examples_show_distinct_documents():
    settings = {"num_negatives": 2, "positive_score": "max", "filter": {"threshold": 0.8}}
    tables = random_tables(11)
    found = mined(tables, SelectConfig.model_validate(settings))
    examples = pick_examples(found.shown, 3)
    shown = [example[name] for example in examples for name in ("positive", "rejected", "chosen")]
    assert len(examples) == 3 and len(set(shown)) == 9
    for example in examples:
        mine = [r for r in tables[0].to_pylist() if r["query"] == example["query"] and r["is_positive"]]
        best = max(r["score"] for r in mine)
        assert example["positive_score"] == best
        assert example["positive"] in [r["doc"] for r in mine if r["score"] == best]
        assert example["rejected_score"] >= 0.8 * best > example["chosen_score"]
