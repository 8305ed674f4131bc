"""Rules by task, on tables small enough to read."""

import pyarrow as pa
import pytest

from pipelines import schemas
from pipelines.select.config import SelectConfig
from tests.unit.pipelines.select.reference import (
    NUM_QUERIES,
    mined,
    qrels_of,
    random_tables,
    row,
)

# The positive is document 2; document 77 has its text (both are 1002); the others fall in score.
ROWS = [
    row(1, 5, 1, 0.9, False),
    row(1, 77, 2, 0.8, False),
    row(1, 2, 3, 0.75, True),
    row(1, 6, 4, 0.74, False),
    row(1, 7, 5, 0.3, False),
]
TABLE = pa.Table.from_pylist(ROWS, schema=schemas.CANDIDATES)


def docs_of(found) -> list[int]:
    groups = found.groups.to_pylist()
    assert len(groups) == 1
    return [negative["doc"] for negative in groups[0]["negatives"]]


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("retrieval", [7]),
        ("anything else", [7]),
        ("clustering", [7]),
        ("classification", [5, 6, 7]),
        ("bitext", [5, 6, 7]),
    ],
)
def test_tasks_are_filtered_by_their_own_rules(task, expected):
    assert docs_of(mined([TABLE], SelectConfig(), task=task)) == expected
    assert docs_of(mined([TABLE], SelectConfig(task_rules=False), task=task)) == [7]


def test_a_rank_window_stays_with_a_task_that_is_not_filtered():
    config = SelectConfig.model_validate({"filter": {"min_rank": 2, "max_rank": 4}, "num_negatives": 2})
    assert docs_of(mined([TABLE], config, task="classification")) == [6]


def test_the_nearest_sentence_is_taken_not_drawn():
    config = SelectConfig(selection="sampled", num_negatives=1)
    for seed in range(10):
        seeded = config.model_copy(update={"seed": seed})
        assert docs_of(mined([TABLE], seeded, task="bitext")) == [5]


@pytest.mark.parametrize(("task", "bound"), [("nli", None), ("sts", 1.0)])
def test_a_pair_judged_low_is_a_negative_and_comes_first(task, bound):
    # The search marks every labelled pair, whatever its relevance: 7 was retrieved, 40 was not.
    rows = [*ROWS[:4], row(1, 7, 5, 0.3, True), row(1, 40, 0, 0.1, True)]
    table = pa.Table.from_pylist(rows, schema=schemas.CANDIDATES)
    low = 0.0 if bound is None else bound
    # 41 was judged, but no teacher saw it as a pair; 8 is of the test split.
    extra = [(1, 41, low, "train"), (1, 8, low, "test")]
    qrels = qrels_of([table], relevance=lambda _, doc: 4.0 if doc == 2 else low, extra=extra)
    config = SelectConfig.model_validate({"max_negative_relevance": bound, "filter": {"method": "naive"}})
    found = mined([table], config, task=task, qrels=qrels)
    group = found.groups.to_pylist()[0]
    assert [p["doc"] for p in group["positives"]] == [2]
    assert docs_of(found) == [7, 40, 41, 5]
    scores = [(n["teacher"], n["rank"], n["scores"]) for n in group["negatives"]]
    assert scores[0][:2] == (-1, 0) and scores[0][2] == pytest.approx([0.3])
    assert scores[1][2] == pytest.approx([0.1]) and scores[2][2] == [None]
    assert scores[3][:2] == (0, 1)
    assert found.counters["judged_negative"] == 1
    assert [n["answers"] for n in group["negatives"]] == [[]] * 4
    off = mined([table], config.model_copy(update={"task_rules": False}), task=task, qrels=qrels)
    assert [p["doc"] for p in off.groups.to_pylist()[0]["positives"]] == [2, 7, 40]


def test_sts_without_a_bound_has_positives_only():
    qrels = qrels_of([TABLE], relevance=lambda *_: 0.5)
    config = SelectConfig.model_validate({"filter": {"method": "naive"}})
    assert docs_of(mined([TABLE], config, task="sts", qrels=qrels)) == [5, 6, 7]


def test_a_query_whose_pairs_are_all_judged_low_has_no_group():
    qrels = qrels_of([TABLE], relevance=lambda *_: 0.0)
    found = mined([TABLE], SelectConfig(), task="nli", qrels=qrels)
    assert found.groups.num_rows == 0 and found.counters["queries_without_positive"] == 1


def test_judged_pairs_stay_with_their_query():
    rows = [row(0, 30, 0, 0.2, True), *ROWS, row(1, 31, 0, 0.2, True), row(4, 3, 1, 0.5, True)]
    table = pa.Table.from_pylist([*rows, row(4, 32, 0, 0.1, True)], schema=schemas.CANDIDATES)
    qrels = qrels_of([table], relevance=lambda _, doc: 0.0 if doc >= 30 else 1.0)
    groups = mined([table], SelectConfig(num_negatives=1), task="nli", qrels=qrels).groups.to_pylist()
    assert [(g["query"], [n["doc"] for n in g["negatives"]]) for g in groups] == [(1, [31]), (4, [32])]


def test_mixed_tasks_keep_the_order_of_queries():
    tables = random_tables(3)
    config = SelectConfig()
    tasks = ["classification" if query % 2 else "retrieval" for query in range(3 * NUM_QUERIES)]
    mixed = mined(tables, config, task=tasks).groups.to_pylist()
    alone = {task: mined(tables, config, task=task).groups.to_pylist() for task in set(tasks)}
    assert [group["query"] for group in mixed] == [group["query"] for group in alone["retrieval"]]
    for place, group in enumerate(mixed):
        assert group == alone[tasks[group["query"]]][place]
