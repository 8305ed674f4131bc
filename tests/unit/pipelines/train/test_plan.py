"""The plan: no collisions, nothing lost, and the same for everyone."""

import hashlib
import time
from collections import Counter

import numpy as np
import pytest

from cluster.errors import UserError
from pipelines.train.phases import plan_order
from pipelines.train.plan import Group, Row, clean_groups, draw_rows, form_batches, mask_collisions
from pipelines.train.stages import SetRule, Stage


def order(groups, known, epochs=3, batch_size=8, num_negatives=2, seed=5):
    return plan_order(groups, known, [Stage(epochs, batch_size, {"main": SetRule(num_negatives)})], seed)


def make_data(num_queries=50, num_positives=2, num_negatives=3):
    groups, known = [], {}
    for query in range(num_queries):
        own = tuple(100 + query * num_positives + i for i in range(num_positives))
        other = tuple(100 + (query + 1 + i) % num_queries * num_positives for i in range(num_negatives))
        groups.append(Group(query, own, other))
        known[query] = frozenset(own)
    return groups, known


def test_every_group_is_used_once_an_epoch():
    groups, known = make_data()
    batches = order(groups, known)
    assert [len(batch) for batch in batches] == ([8] * 6 + [2]) * 3
    for epoch in range(3):
        rows = [row for batch in batches[epoch * 7 : epoch * 7 + 7] for row in batch]
        assert sorted(row.query for row in rows) == list(range(50))


def test_no_known_positive_of_another_query_is_in_the_batch():
    groups, known = make_data(num_queries=200)
    for batch in order(groups, known, epochs=1)[:-3]:
        documents = {document for row in batch for document in row.documents}
        for row in batch:
            assert known[row.query] & documents == {row.positive}
            assert row.masked == ()
        assert len({row.query for row in batch}) == len(batch)


def test_what_cannot_be_kept_apart_is_masked():
    groups = [Group(query, (100 + query % 2,), ()) for query in range(12)]
    known = {query: frozenset({100 + query % 2}) for query in range(12)}
    known[0] = frozenset({100, 101})
    batches = list(form_batches([Row(g.query, g.positives[0], ()) for g in groups], known, 6))
    assert [len(batch) for batch in batches] == [6, 6]
    assert sorted(row.query for batch in batches for row in batch) == list(range(12))
    masked = {row.query: row.masked for batch in batches for row in batch}
    assert masked[0] == (101,) and masked[1] == ()


def test_a_row_that_collides_waits_at_the_front():
    known = {0: frozenset({7}), 1: frozenset({7, 8}), 2: frozenset({9}), 3: frozenset({6})}
    rows = [Row(0, 7, ()), Row(1, 8, ()), Row(2, 9, ()), Row(3, 6, ())]
    assert [[row.query for row in batch] for batch in form_batches(rows, known, 2)] == [[0, 2], [1, 3]]


def test_a_negative_that_is_known_positive_of_another_row_collides():
    known = {0: frozenset({7}), 1: frozenset({8}), 2: frozenset({9})}
    rows = [Row(0, 7, (8,)), Row(1, 8, ()), Row(2, 9, ())]
    assert [[row.query for row in batch] for batch in form_batches(rows, known, 2)] == [[0, 2], [1]]


def test_positives_and_negatives_are_taken_in_turn():
    groups = [Group(0, (1, 2, 3), (10, 11, 12, 13)), Group(1, (4,), (10,))]
    stage = Stage(1, 8, {"main": SetRule(2)})
    drawn = [{row.query: row for row in draw_rows(groups, epoch, stage, seed=1)} for epoch in range(6)]
    assert Counter(rows[0].positive for rows in drawn) == {1: 2, 2: 2, 3: 2}
    assert Counter(n for rows in drawn[:4] for n in rows[0].negatives) == {10: 2, 11: 2, 12: 2, 13: 2}
    assert {rows[1].negatives for rows in drawn} == {(10,)}


def test_dynamic_negatives_begin_with_the_first_ranks_and_hold_the_others_in_reserve():
    scores = {document: (document / 100,) for document in range(20)}
    groups = [
        Group(0, (1, 2), (10, 11, 12, 13), scores, {12: (5,)}),
        Group(1, (4,), (10,)),
        Group(2, (3,), ()),
    ]
    stage = Stage(4, 8, {"main": SetRule(3)}, dynamic=True)
    for epoch in range(4):
        rows = {row.query: row for row in draw_rows(groups, epoch, stage, seed=1)}
        assert [(rows[q].negatives, rows[q].reserve, rows[q].group) for q in range(3)] == [
            ((10, 11, 12), (13,), 0), ((10,), (), 1), ((), (), 2),
        ]  # fmt: skip
        assert rows[0].scores == tuple((d / 100,) for d in (rows[0].positive, 10, 11, 12, 13))
        assert rows[0].answers == ((), (), (5,), ())
    assert {row.positive for e in range(2) for row in draw_rows(groups, e, stage, 1)} == {1, 2, 3, 4}


def test_a_reserve_collides_as_negatives_do():
    known = {0: frozenset({7}), 1: frozenset({8}), 2: frozenset({9})}
    rows = [Row(0, 7, (5,), reserve=(8,)), Row(1, 8, ()), Row(2, 9, ())]
    assert [[row.query for row in batch] for batch in form_batches(rows, known, 2)] == [[0, 2], [1]]
    assert [row.masked for row in mask_collisions(rows, {**known, 2: frozenset({9, 8})})] == [(), (), (8,)]


@pytest.mark.parametrize(
    ("num_negatives", "epochs", "fits"),
    [(2, (3,), True), (2, (2, 1), True), (0, (3,), False), (3, (3,), False), (2, (2,), False)],
)
def test_refuses_dynamic_negatives_that_never_give_way(num_negatives, epochs, fits):
    groups, known = make_data(num_negatives=3)
    sets = {"main": SetRule(num_negatives)}
    plan_order(groups, known, [Stage(each, 8, sets) for each in epochs], seed=1)
    stages = [Stage(each, 8, sets, dynamic=True) for each in epochs]
    if fits:
        assert len(plan_order(groups, known, stages, seed=1)) == 21
        return
    with pytest.raises(
        UserError, match=r"raise mine\.select\.num_negatives, or epochs, or remove train\.dynamic"
    ):
        plan_order(groups, known, stages, seed=1)


def crowded(num_queries=200, seed=3):
    """Few documents, so that many rows collide."""
    generator = np.random.default_rng(seed)
    groups, known = [], {}
    for query in range(num_queries):
        own = tuple(sorted(set(generator.integers(1000, 1080, 2).tolist())))
        known[query] = frozenset(own)
        mined = tuple(d for d in generator.integers(1000, 1400, 4).tolist() if d not in own)
        groups.append(Group(query, own, mined))
    return groups, known


def test_one_data_set_without_further_settings_has_the_order_it_always_had():
    batches = order(*crowded(), epochs=2, batch_size=16, num_negatives=2, seed=7)
    told = [[(row.query, row.positive, row.negatives, row.masked) for row in batch] for batch in batches]
    assert hashlib.sha256(repr(told).encode()).hexdigest() == (
        "11053224a87ab1134ff129aee8113ee57c668672a1f2948a6971610a728444ca"
    )


def test_the_seed_alone_decides():
    groups, known = make_data()
    again = order(groups, known)
    assert order(groups, known) == again
    assert order(groups, known, seed=6) != again
    assert again[:7] != again[7:14]


def test_groups_are_cleaned_and_everything_left_out_is_counted():
    known = {0: frozenset({1, 5}), 3: frozenset()}
    groups, counters = clean_groups([Group(3, (), (2,)), Group(0, (1, 1), (5, 6, 7, 6))], known)
    assert groups == [Group(0, (1,), (6, 7, 6))]
    assert counters == {"groups_without_positive": 1, "negatives_known_positive": 1}


def test_refuses_more_negatives_than_were_mined():
    groups, known = make_data(num_negatives=3)
    with pytest.raises(UserError, match=r"lower train.num_negatives to 3"):
        order(groups, known, num_negatives=4)
    with pytest.raises(UserError, match="nothing to train on"):
        order([], {})


def test_the_mask_leaves_the_own_positive_alone():
    rows = mask_collisions([Row(0, 1, (2,)), Row(1, 3, ())], {0: frozenset({1, 3}), 1: frozenset({3})})
    assert [row.masked for row in rows] == [(3,), ()]


def test_time_grows_with_the_rows_alone_even_where_all_collide():
    known = {query: frozenset({query % 5}) for query in range(20_000)}
    rows = [Row(query, query % 5, ()) for query in range(20_000)]
    started = time.monotonic()
    assert sum(len(batch) for batch in form_batches(rows, known, 64)) == 20_000
    assert time.monotonic() - started < 5
