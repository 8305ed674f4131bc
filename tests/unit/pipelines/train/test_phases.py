"""Stages of batches: every row once an epoch, one task a batch, drawn as asked, in any number of data sets."""

from collections import Counter
from itertools import groupby

import numpy as np
import pytest

from cluster.errors import UserError
from pipelines.train.alike import Alike
from pipelines.train.phases import draw_tasks, homogeneous_rows, plan_order
from pipelines.train.plan import Group
from pipelines.train.stages import SetRule, Stage

SIZES = {"main": 90, "pairs": 50, "labels": 20}


def make_data(sizes=SIZES, num_documents=4000, seed=0):
    """Groups of several data sets, the queries of one after those of the other; some of `pairs` are of another task."""
    generator = np.random.default_rng(seed)
    groups, known, first = [], {}, 0
    for name, size in sizes.items():
        for place in range(size):
            own, *mined = generator.choice(num_documents, 6, replace=False).tolist()
            task = "sts" if name == "pairs" and place % 3 == 0 else "retrieval"
            groups.append(
                Group(first + place, (own,), tuple(mined), dataset=name, task=task, cluster=place % 2)
            )
            known[first + place] = frozenset({own})
        first += size
    return groups, known


def rules(**counts):
    return {name: SetRule(count) for name, count in counts.items()}


ALL = rules(main=2, pairs=1, labels=3)


def tasks_of(batch):
    return {(row.dataset, row.task) for row in batch}


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_every_row_is_used_once_an_epoch_with_the_negatives_of_its_set(share):
    groups, known = make_data()
    batches = plan_order(groups, known, [Stage(3, 8, ALL, mixed_share=share)], seed=1)
    rows = [row for batch in batches for row in batch]
    assert Counter(row.query for row in rows) == dict.fromkeys(range(160), 3)
    for epoch in range(3):
        assert {row.query for row in rows[epoch * 160 : epoch * 160 + 160]} == set(range(160))
    assert all(len(row.negatives) == ALL[row.dataset].num_negatives for row in rows)
    assert max(map(len, batches)) == 8


def collisions(batch, known, alike=None):
    alike = alike or Alike()
    found = []
    for row in batch:
        for other in batch:
            if row is not other:
                if alike.query(row.query) == alike.query(other.query):
                    found.append((row.query, other.query))
                positives = {alike.document(document) for document in known[row.query]}
                found += [(row.query, each) for each in other.documents if alike.document(each) in positives]
    return found


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_few_rows_collide_and_those_are_masked(share):
    groups, known = make_data({"main": 360, "pairs": 200, "labels": 80}, num_documents=400)
    stages = [Stage(1, 8, ALL, mixed_share=share)]
    blind = plan_order(groups, {query: frozenset() for query in known}, stages, seed=1)
    batches = plan_order(groups, known, stages, seed=1)
    met, met_blindly = (sum(len(collisions(batch, known)) for batch in order) for order in (batches, blind))
    assert met_blindly > 20 and met <= met_blindly / 4
    for batch in batches:
        for query, document in collisions(batch, known):
            row = next(row for row in batch if row.query == query)
            assert document in (row.positive, *row.masked)


def test_texts_that_are_alike_never_meet():
    # Queries 2n and 2n + 1 are alike; positive 100 + n of query n is like 100 + (n + 20) % 40.
    alike = Alike({n: n - n % 2 for n in range(40)}, {100 + n: 100 + n % 20 for n in range(40)})
    known = {n: frozenset({100 + n % 20}) for n in range(40)}
    groups = [Group(n, (100 + n,), ()) for n in range(40)]
    free = plan_order(groups, {n: frozenset({100 + n}) for n in range(40)}, [Stage(1, 8, rules(main=0))], 3)
    assert any(collisions(batch, known, alike) for batch in free)
    batches = plan_order(groups, known, [Stage(1, 8, rules(main=0))], 3, alike)
    assert not any(collisions(batch, known, alike) for batch in batches[:3])
    for batch in batches[3:]:
        for query, document in collisions(batch, known, alike):
            # One that is alike stands for its positive.
            positive = 100 + document if document < 100 else document
            assert positive in next(row.masked for row in batch if row.query == query)
    assert sorted(row.query for batch in batches for row in batch) == list(range(40))


def test_homogeneous_batches_hold_one_task_of_one_set():
    groups, known = make_data()
    batches = plan_order(groups, known, [Stage(2, 8, ALL, mixed_share=0.0)], seed=1)
    assert all(len(tasks_of(batch)) == 1 for batch in batches)
    assert len({next(iter(tasks_of(batch))) for batch in batches}) == 4
    # One batch a task may be smaller.
    assert sum(len(batch) < 8 for batch in batches) <= 2 * 4
    assert len([key for key, _ in groupby(batches, key=lambda batch: tasks_of(batch))]) > 10
    mixed = plan_order(groups, known, [Stage(2, 8, ALL)], seed=1)
    assert sum(len(tasks_of(batch)) > 1 for batch in mixed) > 30


@pytest.mark.parametrize(("share", "epochs"), [(0.15, 1), (0.15, 3), (0.5, 3), (0.9, 2)])
def test_a_phased_stage_mixes_its_last_rows(share, epochs):
    groups, known = make_data()
    batches = plan_order(groups, known, [Stage(epochs, 8, ALL, mixed_share=share)], seed=1)
    wanted = 160 * epochs - round(share * 160 * epochs)
    done = 0
    for batch in batches:
        assert len(tasks_of(batch)) == 1 or done >= wanted
        done += len(batch)
    last = [row for batch in batches for row in batch][wanted:]
    share_of_main = sum(row.dataset == "main" for row in last) / len(last)
    assert share_of_main == pytest.approx(90 / 160, abs=0.2)
    mixed = [batch for batch in batches if len(tasks_of(batch)) > 1]
    assert sum(map(len, mixed)) >= 0.8 * len(last)


def test_mixed_rows_are_counted_from_the_end_through_the_epochs():
    for share in (0.0, 0.1, 0.34, 0.5, 1.0):
        for epochs in (1, 2, 3):
            flags = [place >= 10 * epochs - round(share * 10 * epochs) for place in range(10 * epochs)]
            expected = [flags[10 * e : 10 * e + 10].count(False) for e in range(epochs)]
            assert homogeneous_rows(Stage(epochs, 4, ALL, mixed_share=share), 10) == expected


@pytest.mark.parametrize(
    ("alpha", "weights", "expected"),
    [
        (1.0, (1, 1, 1), (0.6, 0.3, 0.1)),
        (0.0, (1, 1, 1), (1 / 3, 1 / 3, 1 / 3)),
        (0.5, (1, 1, 1), tuple(np.sqrt([6, 3, 1]) / np.sqrt([6, 3, 1]).sum())),
        (1.0, (1, 4, 1), (6 / 19, 12 / 19, 1 / 19)),
    ],
)
def test_tasks_are_drawn_by_weight_times_remaining_size_to_the_power(alpha, weights, expected):
    sizes = [[4] * 15, [4] * 7 + [2], [4] * 2 + [2]]
    drawn = [draw_tasks(sizes, weights, alpha, np.random.default_rng(seed)) for seed in range(700)]
    assert all(Counter(each) == {0: 15, 1: 8, 2: 3} for each in drawn)
    first = Counter(each[0] for each in drawn)
    assert [first[task] / 700 for task in range(3)] == pytest.approx(expected, abs=0.06)
    # The second draw is by what the first one left: after one batch of task 2, it has 6 of 96 rows.
    second = Counter(each[1] for each in drawn if each[0] == 2)
    left = np.array(weights) * np.array([60, 30, 6]) ** alpha
    assert [second[task] / second.total() for task in range(3)] == pytest.approx(left / left.sum(), abs=0.2)


def test_clusters_fill_batches_and_what_is_left_meets():
    groups, known = make_data({"main": 90, "pairs": 45})
    stage = Stage(1, 8, rules(main=1, pairs=1), mixed_share=0.0)
    batches = plan_order(groups, known, [stage], seed=1)
    assert sorted(row.query for batch in batches for row in batch) == list(range(135))
    pure = Counter()
    for batch in batches:
        assert len(tasks_of(batch)) == 1
        pure[len({row.cluster for row in batch}) == 1 and len(batch) == 8] += 1
    # 45 and 45 of main, 15 and 15 of pairs' retrieval, 7 and 8 of its sts: full batches, then what is left of each.
    assert pure[True] == 5 + 5 + 1 + 1 + 1
    assert pure[False] == 2 + 2 + 1
    loose = [batch for batch in batches if len({row.cluster for row in batch}) > 1]
    assert len(loose) >= 2


def test_stages_follow_each_other_with_their_own_sets_and_numbers():
    groups, known = make_data()
    stages = [Stage(2, 16, rules(main=1)), Stage(1, 4, rules(main=4, labels=2), mixed_share=0.0)]
    batches = plan_order(groups, known, stages, seed=1)
    assert [batch[0].stage for batch in batches] == [0] * 12 + [1] * (len(batches) - 12)
    first, second = ([row for batch in batches for row in batch if row.stage == place] for place in (0, 1))
    assert Counter(row.query for row in first) == dict.fromkeys(range(90), 2)
    assert Counter(row.query for row in second) == dict.fromkeys([*range(90), *range(140, 160)], 1)
    assert {len(row.negatives) for row in first} == {1}
    assert {(row.dataset, len(row.negatives)) for row in second} == {("main", 4), ("labels", 2)}
    assert max(len(batch) for batch in batches[12:]) == 4
    # The epochs are counted on: negatives are taken in turn through the stages.
    for query in range(90):
        mined = groups[query].negatives
        places = [mined.index(row.negatives[0]) for row in first if row.query == query]
        assert (places[1] - places[0]) % 5 == 1


def test_the_first_stage_does_not_depend_on_what_follows():
    groups, known = make_data()
    alone = plan_order(groups, known, [Stage(1, 8, rules(main=1))], seed=4)
    longer = plan_order(groups, known, [Stage(1, 8, rules(main=1)), Stage(1, 8, ALL)], seed=4)
    assert longer[: len(alone)] == alone


def test_a_row_says_whose_documents_are_its_negatives():
    groups, known = make_data()
    sets = {
        **ALL,
        "labels": SetRule(3, in_batch_negatives=False),
        "main": SetRule(2, in_batch_negatives=True),
    }
    rows = [row for batch in plan_order(groups, known, [Stage(1, 8, sets)], seed=1) for row in batch]
    assert {(row.dataset, row.task, row.scope) for row in rows} == {
        ("main", "retrieval", "task"), ("pairs", "retrieval", "task"), ("pairs", "sts", "group"),
        ("labels", "retrieval", "group"),
    }  # fmt: skip
    across = plan_order(groups, known, [Stage(1, 8, sets, across_tasks=True)], seed=1)
    assert {row.scope for batch in across for row in batch} == {"batch", "group"}


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        (rules(main=6), r"raise mine\.select\.num_negatives to 6 or lower train\.num_negatives to 5"),
        (
            {"main": SetRule(1), "pairs": SetRule(7, key="also.pairs.num_negatives")},
            r"raise also\.pairs\.mine\.select\.num_negatives to 7 or lower also\.pairs\.num_negatives to 5",
        ),
        ({"pairs": SetRule(0)}, r"task sts"),
        ({"labels": SetRule(0, in_batch_negatives=False)}, r"in_batch_negatives to true"),
        (rules(main=1, empty=1), r"no group in empty has a positive"),
    ],
)
def test_refuses(sets, words):
    groups, known = make_data()
    with pytest.raises(UserError, match=words):
        plan_order(groups, known, [Stage(1, 8, sets)], seed=1)
