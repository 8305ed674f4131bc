import numpy as np

from pipelines.search.grid import Grid, Part, plan_parts


def test_parts_cover_each_query_once_and_stay_in_their_range():
    queries = np.array([0, 3, 4, 5, 9, 10, 11, 12, 13, 25])
    parts = plan_parts(queries, [0, 6, 14, 20, 30], 2)
    assert parts == (
        Part(0, 0, 2), Part(0, 2, 4), Part(1, 4, 5), Part(1, 5, 7), Part(1, 7, 9), Part(3, 9, 10),
    )  # fmt: skip
    assert [queries[part.start] for part in parts] == [0, 4, 9, 10, 12, 25]


def test_no_part_is_larger_than_asked_nor_much_smaller_than_its_neighbours():
    rng = np.random.default_rng(0)
    queries = np.unique(rng.integers(0, 10_000, 3000))
    starts = [0, 1, 4000, 4010, 9000, 10_000]
    parts = plan_parts(queries, starts, 100)
    sizes = [part.stop - part.start for part in parts]
    assert sum(sizes) == len(queries) and max(sizes) <= 100
    for part in parts:
        mine = queries[part.start : part.stop]
        assert starts[part.query_range] <= mine[0] and mine[-1] < starts[part.query_range + 1]
        assert part.stop - part.start >= min(50, len(mine))


def test_nobody_to_search_needs_no_tile():
    assert plan_parts(np.zeros(0, np.int64), [0, 5, 9], 4) == ()
    assert Grid(((0, 2), (2, 3)), 2, ()).num_tiles == 0


def test_every_cell_has_a_number_of_its_own_and_groups_follow_each_other():
    grid = Grid(((0, 2), (2, 3), (3, 5)), 2, (Part(0, 0, 2), Part(1, 2, 4)))
    assert [grid.tile(group, part) for group in range(3) for part in range(2)] == list(range(6))


def test_a_thousand_shards_by_a_thousand_are_planned_in_a_moment():
    parts = plan_parts(np.arange(3_000_000), list(range(0, 3_000_001, 3000)), 2048)
    grid = Grid(tuple((i, i + 1) for i in range(1000)), 1000, parts)
    assert grid.num_tiles == 1000 * 2000
