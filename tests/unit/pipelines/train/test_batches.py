"""A rank's share of a batch: all shares together are the batch, and passes are cut at the least cost."""

from dataclasses import replace
from itertools import combinations, pairwise

import numpy as np
import pytest
import torch

from models.tokenization import Tokens
from pipelines.train.batches import rank_batch
from pipelines.train.dealing import PASS_TOKENS, cut_passes, deal_texts
from pipelines.train.order import Order
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


def shares(step, world, max_rows=None):
    order = Order.from_table(order_table(BATCHES))
    queries, documents = texts(range(1, 8)), texts(range(8, 40))
    return [rank_batch(order, step, rank, world, queries, documents, max_rows) for rank in range(world)]


def first_tokens(inputs):
    return [int(row[0]) for ids, _, _ in inputs for row in ids]


def parts(rank):
    """Return the passes of a rank's queries, documents and answered queries."""
    of_queries, of_documents, of_answers = rank.num_passes
    assert of_queries + of_documents + of_answers == len(rank.inputs)
    rest = rank.inputs[of_queries:]
    return rank.inputs[:of_queries], rest[:of_documents], rest[of_documents:]


@pytest.mark.parametrize("world", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("step", [0, 1])
@pytest.mark.parametrize("max_rows", [None, 1, 2])
def test_all_shares_together_are_the_batch(step, world, max_rows):
    ranks = shares(step, world, max_rows)
    columns = [document for rank in ranks for document in first_tokens(parts(rank)[1])]
    seen = {}
    for rank in ranks:
        assert rank.num_rows == len(BATCHES[step])
        assert rank.mask_BN.shape == (len(rank.positive_B), len(columns))
        for index, query in enumerate(first_tokens(parts(rank)[0])):
            if rank.weights_B[index]:
                negatives = [d for d, used in zip(columns, rank.mask_BN[index].tolist(), strict=True) if used]
                seen[query] = columns[rank.positive_B[index]], sorted(negatives)
    present = sorted({document for row in BATCHES[step] for document in row.documents})
    assert seen == {
        row.query: (row.positive, [d for d in present if d not in row.masked]) for row in BATCHES[step]
    }


@pytest.mark.parametrize("world", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("max_rows", [None, 1, 2, 3])
def test_every_rank_runs_the_same_passes_over_as_many_texts(world, max_rows):
    for step in range(2):
        sizes = {tuple(len(ids) for ids, _, _ in rank.inputs) for rank in shares(step, world, max_rows)}
        assert len(sizes) == 1
        assert max(sizes.pop()) <= (max_rows or 99)


@pytest.mark.parametrize("world", [2, 3])
def test_passes_are_as_many_on_all_ranks_however_skewed_the_lengths(world):
    generator = np.random.default_rng(0)
    for _ in range(20):
        # One text of 2,000 tokens among short ones: a budget counted by each rank would cut them differently.
        ordinals = np.unique(
            np.concatenate([generator.integers(1, 30, 11), generator.integers(1000, 2000, 1)])
        )
        dealt = [deal_texts(texts(range(1, 2001)), ordinals, rank, world, 2) for rank in range(world)]
        assert len({tuple(len(ids) for ids, _, _ in rank.passes) for rank in dealt}) == 1
        gathered = [text for rank in dealt for text in first_tokens(rank.passes)]
        assert [gathered[dealt[0].column_of[ordinal]] for ordinal in ordinals.tolist()] == ordinals.tolist()


SCORED = [
    Row(1, 10, (20, 21), (), ((1.0, None), (0.5, 2.0), (0.25, 3.0)), ((2, 7), ())),
    Row(2, 20, (11,), (10,), ((4.0, 5.0), (None, None)), ((6,),)),
    Row(3, 12, (), (), ((7.0, 8.0),)),
]


@pytest.mark.parametrize("world", [1, 2])
def test_groups_scores_answers_and_other_queries_go_with_their_rows(world):
    order = Order.from_table(order_table([SCORED]), ("a", "b"))
    ranks = [
        rank_batch(order, 0, rank, world, texts(range(1, 8)), texts(range(8, 40))) for rank in range(world)
    ]
    documents, answered = ([d for r in ranks for d in first_tokens(parts(r)[side])] for side in (1, 2))
    queries = [query for rank in ranks for query in first_tokens(parts(rank)[0])]
    found = {}
    for rank in ranks:
        assert [documents[column] for column in rank.positive_M] == [SCORED[q - 1].positive for q in queries]
        for i, query in enumerate(first_tokens(parts(rank)[0])):
            if not rank.weights_B[i]:
                continue
            mask = rank.group_mask_BG[i].tolist()
            group = [documents[c] for c, counts in zip(rank.group_BG[i], mask, strict=True) if counts]
            scores = np.nan_to_num(rank.teacher_BGK[i][rank.group_mask_BG[i]].numpy(), nan=-1.0).tolist()
            answers = [[answered[c] for c in row if c >= 0] for row in rank.answers_BGA[i, : len(group)]]
            others = {q for q, counts in zip(queries, rank.other_BM[i].tolist(), strict=True) if counts}
            found[query] = group, scores, answers, others
    assert found == {
        1: ([10, 20, 21], [[1, -1], [0.5, 2], [0.25, 3]], [[], [2, 7], []], {3}),
        2: ([20, 11], [[4, 5], [-1, -1]], [[], [6]], {3}),
        3: ([12], [[7, 8]], [[]], {1, 2}),
    }


@pytest.mark.parametrize("world", [1, 2, 3])
def test_repeats_are_embedded_once_and_counted_in_their_own_row(world):
    rows = [Row(1, 10, (20, 21, 20, 20)), Row(2, 11, (20, 22, 22)), Row(3, 12, (23,)), Row(4, 13, ())]
    order = Order.from_table(order_table([rows]))
    ranks = [
        rank_batch(order, 0, rank, world, texts(range(1, 8)), texts(range(8, 40))) for rank in range(world)
    ]
    documents = [d for rank in ranks for d in first_tokens(parts(rank)[1])]
    distinct = {10, 11, 12, 13, 20, 21, 22, 23}
    assert set(documents) == distinct and len(documents) < len(distinct) + world
    for rank in ranks:
        queries = first_tokens(parts(rank)[0])
        if not {1, 2} & set(queries):
            assert rank.log_counts_BN is None
            continue
        counts_BN = rank.log_counts_BN.exp().round().int().tolist()
        for query, counts in zip(queries, counts_BN, strict=True):
            found = {d: count for d, count in zip(documents, counts, strict=True) if count > 1}
            assert found == {1: {20: 3}, 2: {22: 2}}.get(query, {})
    assert all(rank.log_counts_BN is None for rank in shares(0, world))


@pytest.mark.parametrize("world", [1, 2, 4])
def test_a_guide_embeds_every_text_where_it_stands(world):
    order = Order.from_table(order_table([SCORED]), ())
    queries, documents = (
        replace(store, vectors=np.stack([store.ordinals, -store.ordinals], 1).astype(np.float16))
        for store in (texts(range(1, 8)), texts(range(8, 40)))
    )
    ranks = [rank_batch(order, 0, rank, world, queries, documents) for rank in range(world)]
    on_all_ranks = [query for rank in ranks for query in first_tokens(parts(rank)[0])]
    for rank in ranks:
        assert rank.guide.q_BE[:, 0].tolist() == first_tokens(parts(rank)[0])
        assert rank.guide.q_ME[:, 1].tolist() == [-query for query in on_all_ranks]
        positive = SCORED[first_tokens(parts(rank)[0])[0] - 1].positive
        assert rank.guide.doc_NE[rank.positive_B[0]].tolist() == [positive, -positive]


def test_documents_are_dealt_out_longest_first():
    one, two = shares(0, 2)
    assert first_tokens(parts(one)[1]) == [23, 21, 14, 12, 10]
    assert first_tokens(parts(two)[1]) == [22, 20, 13, 11, 10]
    assert one.num_tokens == two.num_tokens == sum(range(1, 6)) + 10 + 11 + 12 + 13 + 14 + 20 + 21 + 22 + 23


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("max_rows", [None, 1, 2])
def test_behind_examples_every_row_asks_a_text_of_its_own(world, max_rows):
    rows = BATCHES[0]
    # The rows of the second batch come first here, so that a row's number is not its place.
    order = Order.from_table(order_table([BATCHES[1], rows]))
    lengths = np.array([9, 12, 3000, 10, 2500, 11])
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    ids = np.repeat(np.arange(6), lengths).astype(np.int32)
    shown = TokenStore(np.arange(6), Tokens(ids, offsets, np.zeros(6, np.int32)))
    ranks = [
        rank_batch(order, 1, rank, world, texts(range(1, 8)), texts(range(8, 40)), max_rows, shown)
        for rank in range(world)
    ]
    assert len({tuple(len(ids) for ids, _, _ in rank.inputs) for rank in ranks}) == 1
    assert ranks[0].num_passes[0] >= 2
    asked = [number - 1 for rank in ranks for number in first_tokens(parts(rank)[0])]
    documents = [document for rank in ranks for document in first_tokens(parts(rank)[1])]
    seen = []
    for rank in ranks:
        own = [number - 1 for number in first_tokens(parts(rank)[0])]
        assert torch.cat(rank.real[: rank.num_passes[0]]).tolist() == rank.weights_B.tolist()
        assert [documents[column] for column in rank.positive_M] == [rows[place].positive for place in asked]
        for index, place in enumerate(own):
            if not rank.weights_B[index]:
                continue
            seen.append(place)
            row = rows[place]
            assert documents[rank.positive_B[index]] == row.positive
            used = {d for d, use in zip(documents, rank.mask_BN[index].tolist(), strict=True) if use}
            assert used == {d for other in rows for d in other.documents} - set(row.masked)
            others = {p for p, use in zip(asked, rank.other_BM[index].tolist(), strict=True) if use}
            assert others == {
                other
                for other in range(5)
                if other != place
                and rows[other].positive not in row.masked
                and row.positive not in rows[other].masked
            }
        assert rank.queries.tolist() == [row.query for row in rows]
    assert sorted(seen) == list(range(5))
    plain = rank_batch(order, 1, 0, 1, texts(range(1, 8)), texts(range(8, 40)))
    assert ranks[0].num_tokens == plain.num_tokens - sum(range(1, 6)) + lengths[1:].sum()


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


SCOPED = [
    Row(1, 10, (20, 21), dataset="main", task="retrieval", scope="task"),
    Row(2, 11, (20,), (13,), dataset="main", task="retrieval", scope="task"),
    Row(3, 12, (22,), dataset="main", task="sts", scope="group"),
    Row(4, 13, (11,), dataset="pairs", task="retrieval", scope="task"),
    Row(5, 14, (22, 23), dataset="pairs", task="retrieval", scope="batch"),
    Row(6, 15, (), dataset="pairs", task="retrieval", scope="task"),
]


@pytest.mark.parametrize("world", [1, 2, 4])
def test_negatives_are_of_the_rows_within_the_scope(world):
    order = Order.from_table(order_table([SCOPED]))
    ranks = [
        rank_batch(order, 0, rank, world, texts(range(1, 8)), texts(range(8, 40))) for rank in range(world)
    ]
    documents = [d for rank in ranks for d in first_tokens(parts(rank)[1])]
    queries = [query for rank in ranks for query in first_tokens(parts(rank)[0])]
    seen = {}
    for rank in ranks:
        for index, query in enumerate(first_tokens(parts(rank)[0])):
            if rank.weights_B[index]:
                row = SCOPED[query - 1]
                near = [
                    other
                    for other in SCOPED
                    if row.scope == "batch"
                    or (row.scope == "task" and (other.dataset, other.task) == (row.dataset, row.task))
                    or other is row
                ]
                wanted = {document for other in near for document in other.documents} - set(row.masked)
                found = {d for d, used in zip(documents, rank.mask_BN[index].tolist(), strict=True) if used}
                assert found == wanted
                others = {q for q, used in zip(queries, rank.other_BM[index].tolist(), strict=True) if used}
                assert others == {
                    other.query
                    for other in near
                    if other is not row
                    and other.positive not in row.masked
                    and row.positive not in other.masked
                }
                seen[query] = len(near)
    assert seen == {1: 2, 2: 2, 3: 1, 4: 3, 5: 6, 6: 3}
