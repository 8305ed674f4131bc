"""The grid of a search: groups of document shards x ranges of query shards; a tile is one cell."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Grid:
    """Contiguous groups of shards on both axes.

    Args:
        document_groups: Half-open ranges of document shards.
        query_ranges: Half-open ranges of query shards.
    """

    document_groups: tuple[tuple[int, int], ...]
    query_ranges: tuple[tuple[int, int], ...]

    @property
    def num_tiles(self) -> int:
        """Cells of the grid."""
        return len(self.document_groups) * len(self.query_ranges)

    def tile(self, group: int, query_range: int) -> int:
        """Return the number of a cell; the cells of one group follow each other, so an actor loads it once."""
        return group * len(self.query_ranges) + query_range


def plan_grid(document_rows: np.ndarray, query_rows: np.ndarray, group_rows: int, range_rows: int) -> Grid:
    """Cut both axes at whole shards, by the tables alone: a resumed search finds the same tiles.

    Args:
        document_rows: Rows of each document shard, int64 [num_document_shards].
        query_rows: Rows of each query shard, int64 [num_query_shards].
        group_rows: Documents of a group at most, unless one shard is larger.
        range_rows: Queries of a range at most, unless one shard is larger.
    """
    return Grid(document_groups=_cut(document_rows, group_rows), query_ranges=_cut(query_rows, range_rows))


def _cut(rows: np.ndarray, max_rows: int) -> tuple[tuple[int, int], ...]:
    cuts, start, held = [], 0, 0
    for index, count in enumerate(rows.tolist()):
        if index > start and held + count > max_rows:
            cuts.append((start, index))
            start, held = index, 0
        held += count
    cuts.append((start, len(rows)))
    return tuple(cuts)
