"""Keys, buckets and portions against loops over bytes."""

import hashlib

import numpy as np
import pyarrow as pa
import pytest

from pipelines.score.config import ScoreConfig
from pipelines.score.keys import (
    NUM_BUCKETS,
    buckets,
    document_half,
    find,
    from_arrow,
    pair_keys,
    query_half,
    text_keys,
    to_arrow,
)
from pipelines.score.layout import MIB, Layout, plan_layout


def raw(keys) -> list[bytes]:
    width = keys.dtype.itemsize
    return [keys.tobytes()[i * width : (i + 1) * width] for i in range(len(keys))]


def test_a_key_is_the_hash_of_the_text():
    texts = ["", "a", "b\nc", "\u00e9", "a"]
    assert raw(text_keys(texts)) == [hashlib.blake2b(t.encode(), digest_size=16).digest() for t in texts]


def test_pairs_are_told_apart_and_ordered_byte_by_byte():
    # Zero bytes at the ends are what numpy strips from strings.
    halves = np.frombuffer(b"\0" * 16 + b"\0" * 15 + b"\1" + b"\1" + b"\0" * 15 + b"\xff" * 16, "S16")
    document, query = np.repeat(halves, 4), np.tile(halves, 4)
    pairs = pair_keys(document, query)
    expected = [d + q for d, q in zip(raw(document), raw(query), strict=True)]
    assert raw(pairs) == expected
    assert raw(document_half(pairs)) == raw(document) and raw(query_half(pairs)) == raw(query)
    order = np.random.default_rng(0).permutation(16)
    unique, code = np.unique(pairs[np.concatenate([order, order])], return_inverse=True)
    assert raw(unique) == sorted(expected) and raw(unique[code[:16]]) == [expected[i] for i in order]
    assert find(unique, pairs[order]).tolist() == [sorted(expected).index(expected[i]) for i in order]
    assert find(unique[::2], unique).tolist() == [i // 2 if i % 2 == 0 else -1 for i in range(16)]
    assert find(unique[:0], unique).tolist() == [-1] * 16
    column = pa.chunked_array([to_arrow(unique[:3]), to_arrow(unique[3:])])
    assert raw(from_arrow(column)) == raw(unique) and raw(from_arrow(column.slice(2, 5))) == raw(unique[2:7])


def test_a_bucket_is_the_first_twelve_bits():
    keys = text_keys([str(i) for i in range(500)])
    expected = [int(key.hex()[:3], 16) for key in raw(keys)]
    assert buckets(keys).tolist() == expected
    assert buckets(pair_keys(keys, keys[::-1])).tolist() == expected
    assert (np.diff(buckets(np.sort(keys))) >= 0).all()


@pytest.mark.parametrize("partitions", [1, 2, 3, 50, 4095, 4096])
def test_partitions_share_the_buckets_out(partitions):
    layout = Layout(((0, 1),), ((0, 1),), partitions)
    of = layout.partitions(np.arange(NUM_BUCKETS))
    for partition in range(partitions):
        first, last = layout.buckets(partition)
        assert np.flatnonzero(of == partition).tolist() == list(range(first, last + 1))


def test_portions_keep_their_bounds_and_cover_everything():
    generator = np.random.default_rng(0)
    pairs, stored = generator.integers(0, 900, 40), generator.integers(1, 3 * MIB, 30)
    # No more documents than pairs: all of them may be asked for.
    layout = plan_layout(pairs, (np.full(30, 9), stored), ScoreConfig(group_pairs=1000, group_mb=4))
    for cuts, sizes, most in ((layout.ranges, pairs, 1000), (layout.groups, stored, 4 * MIB)):
        assert [i for cut in cuts for i in range(*cut)] == list(range(len(sizes)))
        assert all(sizes[slice(*cut)].sum() <= most or cut[1] - cut[0] == 1 for cut in cuts)
    assert layout.num_partitions == -(-max(pairs.sum() / 1000, stored.sum() / (4 * MIB)) // 1)
    nothing = np.zeros(3, int), np.zeros(3, int)
    assert plan_layout(np.zeros(2, int), nothing, ScoreConfig()) == Layout(((0, 2),), ((0, 3),), 1)
    seen = {layout.joined(g, p) for g in range(len(layout.groups)) for p in range(layout.num_partitions)}
    assert seen == set(range(len(layout.groups) * layout.num_partitions))


@pytest.mark.parametrize("pairs", [1, 5000, 100_000, 1_700_000, 5_000_000, 90_000_000])
def test_partitions_grow_with_the_documents_that_pairs_can_ask_for(pairs):
    # 2,000 shards of short documents, 100 of long ones.
    rows, stored = np.repeat([1024, 512], [2000, 100]), np.repeat([MIB // 4, MIB], [2000, 100])
    longest_first = np.repeat([2048.0, 256.0], [51_200, 2_048_000])
    expected = -(-max(pairs / 3_000_000, longest_first[:pairs].sum() / (4 * MIB)) // 1)
    layout = plan_layout(np.array([pairs]), (rows, stored), ScoreConfig(group_mb=4, group_pairs=3_000_000))
    assert layout.num_partitions == expected
