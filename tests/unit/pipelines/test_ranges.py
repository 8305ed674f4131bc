from time import perf_counter

import numpy as np

from pipelines.ranges import cut_shards


def test_ranges_are_whole_shards_and_keep_their_bound():
    assert cut_shards(np.array([5, 5, 20, 1, 1]), 10) == ((0, 2), (2, 3), (3, 5))
    assert cut_shards(np.array([3, 3, 3]), 6) == ((0, 2), (2, 3))
    assert cut_shards(np.array([0]), 6) == ((0, 1),)
    rows = np.random.default_rng(0).integers(0, 9, 300)
    ranges = cut_shards(rows, 20)
    assert [index for start, stop in ranges for index in range(start, stop)] == list(range(300))
    held = [rows[start:stop].sum() for start, stop in ranges]
    assert max(held) <= 20
    # Greedy: no range would have held the next one's first shard as well.
    assert all(held[i] + rows[ranges[i + 1][0]] > 20 for i in range(len(ranges) - 1))


def test_a_million_shards_are_cut_in_a_moment():
    started = perf_counter()
    assert len(cut_shards(np.full(1_000_000, 3), 9)) == 333_334
    assert perf_counter() - started < 5
