"""Texts of an ingest artifact by ordinal, reading only the shards that hold them."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pyarrow as pa

from cluster.artifacts import Artifact
from cluster.errors import UserError
from models.prompts import Kind
from pipelines import schemas

TABLES: dict[Kind, tuple[str, str]] = {"query": ("queries", "query"), "document": ("documents", "doc")}
"""Kind of text -> its table in an ingest artifact and the column of its ordinal."""


def read_texts(data: Artifact, kind: Kind, ordinals: np.ndarray) -> Iterator[tuple[np.ndarray, list[str]]]:
    """Yield (ordinals, rendered texts) shard after shard.

    Raises:
        UserError: An ordinal lies outside the table.
    """
    for shard in read_rows(data, kind, ordinals):
        yield shard.column(TABLES[kind][1]).to_numpy(), schemas.rendered_texts(shard)


def read_rows(data: Artifact, kind: Kind, ordinals: np.ndarray) -> Iterator[pa.Table]:
    """Yield what makes up the rendered texts of the given rows, and the tasks of queries, shard after shard.

    Args:
        data: An ingest artifact.
        kind: Which table to read.
        ordinals: int64 [N], rising and distinct.

    Raises:
        UserError: An ordinal lies outside the table.
    """
    table, column = TABLES[kind]
    first_rows = data.first_rows(table)
    if len(ordinals) and not 0 <= ordinals[0] <= ordinals[-1] < first_rows[-1]:
        raise UserError(
            f"a {kind} of the groups is not in the data",
            where=data.uri,
            got=f"ordinals {ordinals[0]} to {ordinals[-1]}",
            expected=f"0 to {first_rows[-1] - 1}",
        )
    columns = [column, "title", "text"] if kind == "document" else [column, "text", "task"]
    bounds = np.searchsorted(ordinals, first_rows)
    for index, (low, high) in enumerate(pairwise(bounds.tolist())):
        if low < high:
            wanted = ordinals[low:high]
            shard = data.read_shard(table, index, columns).take(pa.array(wanted - first_rows[index]))
            assert np.array_equal(shard.column(column).to_numpy(), wanted)
            yield shard
