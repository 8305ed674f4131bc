"""The grid of a search: groups of document shards x parts of the queries; a tile is one cell."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np


@dataclass(frozen=True)
class Part:
    """Some of the queries of one range.

    Args:
        query_range: Number of the range.
        start: First of them, an index into the queries that are searched.
        stop: One beyond the last.
    """

    query_range: int
    start: int
    stop: int


@dataclass(frozen=True)
class Grid:
    """The cells of a search, by the tables alone: a search that goes on finds the same ones.

    Args:
        document_groups: Half-open ranges of document shards.
        num_ranges: Ranges of queries, each a shard of candidates.
        parts: All parts, in order; a range without a query to search has none.
    """

    document_groups: tuple[tuple[int, int], ...]
    num_ranges: int
    parts: tuple[Part, ...]

    @property
    def num_tiles(self) -> int:
        """Cells of the grid."""
        return len(self.document_groups) * len(self.parts)

    def tile(self, group: int, part: int) -> int:
        """Return the number of a cell; the cells of one group follow each other, so an actor loads it once."""
        return group * len(self.parts) + part


def plan_parts(queries: np.ndarray, range_starts: Sequence[int], max_queries: int) -> tuple[Part, ...]:
    """Cut the queries of each range into parts of about equal size.

    Args:
        queries: Ordinals to search, int64 ascending.
        range_starts: Ordinal that each range begins with, and the total.
        max_queries: Queries of a part at most.
    """
    edges = np.searchsorted(queries, np.asarray(range_starts, np.int64)).tolist()
    parts = []
    for index, (start, stop) in enumerate(pairwise(edges)):
        num_parts = -(-(stop - start) // max_queries)
        cuts = (
            [start + (stop - start) * cut // num_parts for cut in range(num_parts + 1)] if num_parts else []
        )
        parts += [Part(index, *cut) for cut in pairwise(cuts)]
    return tuple(parts)
