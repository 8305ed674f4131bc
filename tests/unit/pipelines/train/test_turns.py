"""Negatives that give way: against a loop over queries, written down and read again, with batches that hold them."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from models.tokenization import Tokens
from pipelines.train.batches import RankBatch, rank_batch
from pipelines.train.dealing import deal_texts
from pipelines.train.order import Order
from pipelines.train.plan import Row, mask_collisions
from pipelines.train.planning import order_table
from pipelines.train.stage_config import DynamicNegativesConfig
from pipelines.train.tokens import TokenStore
from pipelines.train.turns import Turns, begin_turns, is_easy

CONFIG = DynamicNegativesConfig(ratio=1.2, max_score=0.7)
MINED = [0, 1, 2, 3, 5, 8, 9]
"""Negatives of each group."""


def planned(epochs, counts=(2,)):
    """Return an order of two batches an epoch, whose rows take a number of negatives that hangs on the epoch."""
    batches = []
    for epoch in range(epochs):
        count = counts[epoch % len(counts)]
        drawn = np.random.default_rng(epoch).permutation(len(MINED)).tolist()
        rows = []
        for group in drawn:
            mined = tuple(range(100 * group + 1, 100 * group + 1 + MINED[group]))
            rows.append(Row(group, 100 * group, mined[:count], reserve=mined[count:], group=group))
        batches += [rows[:4], rows[4:]]
    return Order.from_table(order_table(batches))


def by_loop(order, scores):
    """Return the negatives of every row and how many give way in every step, query by query."""
    seen, replaced, state = [], [], {}
    for step in range(order.num_steps):
        gone = 0
        for row in order.rows(step):
            group, count, mined = (
                int(order.groups[row]),
                int(order.taken[row]),
                order.negatives[row].as_py(),
            )
            start, first, taken = state.get(group, (0, None, None))
            start = min(start, len(mined) - count)
            window = (start, count)
            seen.append(mined[start : start + count])
            score = float(scores[row])
            if taken != window:
                state[group] = (start, score, window)
            elif count and score + 0.2 * abs(score) < first and abs(score) < 0.7:
                ahead = min(start + count, len(mined) - count)
                gone += ahead - start
                state[group] = (ahead, first, window)
        replaced.append(gone)
    return seen, replaced


@pytest.mark.parametrize("counts", [(2,), (1, 1, 3, 3)])
@pytest.mark.parametrize("broken_off", [None, 5])
def test_equals_a_loop_over_the_queries(tmp_path, counts, broken_off):
    order = planned(12, counts)
    scores = np.random.default_rng(7).uniform(-0.2, 0.9, order.first_rows[-1]).astype(np.float32)
    turns, seen, replaced = begin_turns(order), [], []
    for step in range(order.num_steps):
        if step == broken_off:
            turns.save(tmp_path / "turns.npz")
            turns = Turns.load(tmp_path / "turns.npz")
        taken = turns.taken(order, step)
        seen += [taken.own_group(row)[1:] for row in order.rows(step)]
        replaced.append(turns.note(order, step, CONFIG, scores[order.rows(step)]))
    expected, expected_replaced = by_loop(order, scores)
    assert seen == expected and replaced == expected_replaced
    assert sum(replaced) > 10 and replaced[:2] == [0, 0]
    # The last ranks stay: nobody runs out of negatives.
    assert {len(each) for each in seen} <= {0, *counts, *MINED}


@pytest.mark.parametrize(
    ("score", "first", "easy"),
    [
        (0.5, 0.61, True), (0.5, 0.6, False), (0.69, 0.9, True), (0.7, 0.9, False), (-0.5, 0.0, True),
        (-0.5, -0.45, False), (-0.5, -0.39, True), (-0.7, 0.5, False), (0.0, 0.0, False),
    ],
)  # fmt: skip
def test_easy_is_what_fell_by_the_ratio_whatever_its_sign(score, first, easy):
    assert is_easy(np.array([score]), np.array([first]), CONFIG).tolist() == [easy]


def texts(ordinals):
    lengths = np.random.default_rng(3).integers(2, 12, len(ordinals))
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    ids = np.random.default_rng(4).integers(1, 50, offsets[-1]).astype(np.int32)
    return TokenStore(np.asarray(ordinals), Tokens(ids, offsets, np.zeros(len(ordinals), np.int32)))


def flat(value):
    return [part for each in value for part in flat(each)] if isinstance(value, list | tuple) else [value]


@pytest.mark.parametrize("world", [1, 2])
def test_a_batch_is_the_one_that_would_have_been_planned_with_these_negatives(world):
    known = {1: frozenset({11}), 2: frozenset({12, 24}), 3: frozenset({13, 22})}
    scores = ((0.5,), *((d / 10,) for d in range(4)))
    answers = ((1,), (), (2, 3), (4,))
    rows = [
        Row(1, 11, (21, 22), (), scores, answers, (23, 24), 0),
        Row(2, 12, (23,), (), scores[:2], answers[:1], (), 1),
        Row(3, 13, (21, 25), (), scores, answers, (26, 27), 2),
    ]
    now = [
        replace(rows[0], negatives=(23, 24), reserve=(), scores=(scores[0], *scores[3:]), answers=answers[2:]),
        rows[1],
        replace(rows[2], negatives=(25, 26), reserve=(), scores=(scores[0], *scores[2:4]), answers=answers[1:3]),
    ]  # fmt: skip
    order = Order.from_table(order_table([mask_collisions(rows, known)]), ("a",))
    expected = Order.from_table(order_table([mask_collisions(now, known)]), ("a",))
    queries, documents = texts(range(1, 6)), texts(range(11, 30))
    for rank in range(world):
        found, wanted = (
            rank_batch(each, 0, rank, world, queries, documents)
            for each in (order.starting({0: 2, 2: 1}), expected)
        )
        for name in (each.name for each in fields(RankBatch)):
            pairs = zip(flat(getattr(found, name)), flat(getattr(wanted, name)), strict=True)
            for one, other in pairs:
                same = (
                    torch.equal(one, other) if isinstance(one, torch.Tensor) else np.array_equal(one, other)
                )
                if isinstance(one, torch.Tensor) and one.is_floating_point():
                    same = torch.equal(one.nan_to_num(-9), other.nan_to_num(-9))
                assert same, name


def test_scores_are_means_over_the_own_negatives_of_real_rows():
    rows = [Row(1, 11, (21, 22)), Row(2, 12, ()), Row(3, 13, (22, 22, 23))]
    order = Order.from_table(order_table([rows]))
    generator = torch.Generator().manual_seed(0)
    queries, documents = texts(range(1, 6)), texts(range(11, 30))
    column_of = deal_texts(documents, order.documents(order.rows(0)), 0, 2, None).column_of
    doc = {d: torch.randn(4, generator=generator) for d in (11, 12, 13, 21, 22, 23)}
    q_BD = {row.query: torch.randn(4, generator=generator) for row in rows}
    doc_ND = torch.zeros(6, 4)
    for document, column in column_of.items():
        doc_ND[column] = doc[document]
    total = torch.zeros(3)
    for rank in range(2):
        batch = rank_batch(order, 0, rank, 2, queries, documents)
        own = torch.stack([q_BD[rows[place].query] for place in batch.places_B.tolist()])
        total += batch.score_negatives(batch.with_embeddings(own, own, doc_ND, own[:0]))
    expected = [
        float(torch.stack([q_BD[row.query] @ doc[d] for d in row.negatives]).mean()) if row.negatives else 0.0
        for row in rows
    ]
    assert total.tolist() == pytest.approx(expected, abs=1e-6)
