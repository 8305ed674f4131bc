"""A rank's share of a batch: all shares together are the batch, and passes are cut at the least cost."""

from itertools import combinations, pairwise

import numpy as np
import pytest

from models.tokenization import Tokens
from pipelines.train.batches import PASS_TOKENS, Order, cut_passes, rank_batch
from pipelines.train.plan import Row
from pipelines.train.planning import order_table
from pipelines.train.tokens import TokenStore


def texts(ordinals):
    """Text i has i tokens, all of them i."""
    lengths = np.asarray(ordinals)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    ids = np.repeat(lengths, lengths).astype(np.int32)
    return TokenStore(lengths, Tokens(ids, offsets, np.zeros(len(lengths), np.int32)))


BATCHES = [
    [Row(1, 10, (20, 21)), Row(2, 11, (20,), (13,)), Row(3, 12, ()), Row(4, 13, (11,)), Row(5, 14, (22, 23))],
    [Row(6, 15, ())],
]


def shares(step, world):
    order = Order.from_table(order_table(BATCHES))
    queries, documents = texts(range(1, 8)), texts(range(8, 40))
    return [rank_batch(order, step, rank, world, queries, documents) for rank in range(world)]


def first_tokens(inputs):
    return [int(row[0]) for ids, _, _ in inputs for row in ids]


@pytest.mark.parametrize("world", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("step", [0, 1])
def test_all_shares_together_are_the_batch(step, world):
    ranks = shares(step, world)
    columns = [document for rank in ranks for document in first_tokens(rank.inputs[1:])]
    seen = {}
    for rank in ranks:
        assert rank.num_rows == len(BATCHES[step])
        assert rank.mask_BN.shape == (len(rank.positive_B), len(columns))
        for index, query in enumerate(first_tokens(rank.inputs[:1])):
            if rank.weights_B[index]:
                negatives = [d for d, used in zip(columns, rank.mask_BN[index].tolist(), strict=True) if used]
                seen[query] = columns[rank.positive_B[index]], sorted(negatives)
    present = sorted({document for row in BATCHES[step] for document in row.documents})
    assert seen == {
        row.query: (row.positive, [d for d in present if d not in row.masked]) for row in BATCHES[step]
    }


@pytest.mark.parametrize("world", [1, 2, 3, 4, 7])
def test_every_rank_runs_the_same_passes_over_as_many_texts(world):
    for step in range(2):
        assert len({tuple(len(ids) for ids, _, _ in rank.inputs) for rank in shares(step, world)}) == 1


def test_documents_are_dealt_out_longest_first():
    one, two = shares(0, 2)
    assert first_tokens(one.inputs[1:]) == [23, 21, 14, 12, 10]
    assert first_tokens(two.inputs[1:]) == [22, 20, 13, 11, 10]
    assert one.num_tokens == two.num_tokens == sum(range(1, 6)) + 10 + 11 + 12 + 13 + 14 + 20 + 21 + 22 + 23


def cost(lengths, cuts):
    padded = -(-lengths // 8) * 8
    return sum(
        int(padded[low]) * (high - low) + PASS_TOKENS for low, high in pairwise([0, *cuts, len(lengths)])
    )


def test_passes_cost_the_least_of_all_ways_to_cut():
    generator = np.random.default_rng(0)
    for _ in range(60):
        lengths = np.sort(generator.integers(1, 2000, generator.integers(1, 8)))[::-1]
        ways = [cuts for k in range(len(lengths)) for cuts in combinations(range(1, len(lengths)), k)]
        assert cost(lengths, cut_passes(lengths)) == min(cost(lengths, cuts) for cuts in ways)


def test_texts_of_one_length_are_one_pass():
    assert cut_passes(np.full(500, 128)) == []
