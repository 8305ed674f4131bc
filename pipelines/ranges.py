"""Ranges of queries: the cut that all tables of candidates share, so that shard i of each holds the same queries."""

import numpy as np

from cluster.artifacts import Artifact


def query_ranges(data: Artifact, max_rows: int) -> tuple[tuple[int, int], ...]:
    """Cut the queries of an ingest artifact at whole shards.

    The cut looks at the rows of the artifact alone, those of all splits: whoever makes it, with whichever
    model, finds the same ranges.

    Args:
        data: The ingest artifact.
        max_rows: Queries of a range at most, unless one shard is larger.

    Returns:
        Half-open ranges of shards of the table `queries`, in order, none empty.
    """
    return cut_shards(np.diff(data.first_rows("queries")), max_rows)


def cut_shards(shard_rows: np.ndarray, max_rows: int) -> tuple[tuple[int, int], ...]:
    """Group contiguous shards into half-open ranges of at most ``max_rows`` rows, unless one shard is larger.

    Args:
        shard_rows: Rows of each shard, int64 [num_shards], at least one shard.
        max_rows: Bound of a range.
    """
    cuts, start, held = [], 0, 0
    for index, count in enumerate(shard_rows.tolist()):
        if index > start and held + count > max_rows:
            cuts.append((start, index))
            start, held = index, 0
        held += count
    cuts.append((start, len(shard_rows)))
    return tuple(cuts)
