"""Which queries are searched, and with which labelled documents."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.artifacts import Artifact
from cluster.errors import UserError
from pipelines import schemas
from pipelines.ranges import query_ranges
from pipelines.splits import check_splits


@dataclass(frozen=True)
class Targets:
    """The queries of a search.

    Args:
        queries: Ordinals, int64 ascending.
        ranges: Half-open ranges of shards of the ingested queries.
        range_starts: Ordinal that each range begins with, and the number of all queries.
    """

    queries: np.ndarray
    ranges: tuple[tuple[int, int], ...]
    range_starts: tuple[int, ...]

    def of_range(self, index: int) -> np.ndarray:
        """Return the ordinals of one range."""
        edges = np.searchsorted(self.queries, self.range_starts[index : index + 2])
        return self.queries[edges[0] : edges[1]]


def find_targets(data: Artifact, split: str, range_queries: int, only: Artifact | None) -> Targets:
    """Return the queries of ``split`` that have a label; with ``only``, those that it lists.

    Args:
        data: The ingest artifact.
        split: Whose queries are searched.
        range_queries: Queries of a range.
        only: Its table `starved` (column query) names the queries, shard i those of range i.

    Raises:
        UserError: The split has no labelled query, or ``only`` was cut into other ranges.
    """
    ranges = query_ranges(data, range_queries)
    first_rows = data.first_rows("queries")
    starts = (*(int(first_rows[start]) for start, _ in ranges), int(first_rows[-1]))
    if only is None:
        check_splits(data, (split,))
        queries, _ = labelled_pairs(data, split)
        return Targets(np.unique(queries), ranges, starts)
    if only.num_shards("starved") != len(ranges):
        raise UserError(
            "starved queries are cut into other ranges than this search",
            where=only.key,
            got=f"{only.num_shards('starved')} shards",
            expected=f"{len(ranges)}, one a range of {range_queries} queries",
            fix="take the same range_queries for both",
        )
    shards = only.manifest.tables["starved"].shards
    starved = [
        only.read_shard("starved", shard.index).column("query").to_numpy() for shard in shards if shard.rows
    ]
    return Targets(np.unique(np.concatenate([np.zeros(0, np.int64), *starved])), ranges, starts)


def labelled_pairs(data: Artifact, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the labelled pairs of a split that are judged relevant, each once.

    Returns:
        Queries, int64 [P] ascending, and documents, int64 [P].
    """
    qrels = data.read("qrels", columns=["query", "doc", "relevance", "split"])
    judged = pc.and_(pc.equal(qrels.column("split"), split), pc.greater(qrels.column("relevance"), 0))
    pairs = qrels.filter(judged)
    query, doc = (pairs.column(name).to_numpy() for name in ("query", "doc"))
    pairs_P2 = np.unique(np.stack([query, doc], axis=1), axis=0)
    return np.ascontiguousarray(pairs_P2[:, 0]), np.ascontiguousarray(pairs_P2[:, 1])


def pairs_of(pairs: tuple[np.ndarray, np.ndarray], queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the pairs of ``queries`` (int64 [Q] ascending): row of the query and document, int64 [P] each."""
    query, doc = pairs
    mine = np.isin(query, queries)
    return np.searchsorted(queries, query[mine]), doc[mine]


def query_texts(data: Artifact, queries: np.ndarray) -> list[str]:
    """Return the rendered texts of queries, given by ordinal, int64 ascending; reads their shards alone."""
    starts = data.first_rows("queries")
    tables = []
    for index in shards_of(starts, queries):
        shard = data.read_shard("queries", index, columns=["query", "text"])
        tables.append(shard.filter(pa.array(np.isin(shard.column("query").to_numpy(), queries))))
    return schemas.rendered_texts(pa.concat_tables(tables)) if tables else []


def shards_of(first_rows: np.ndarray, ordinals: np.ndarray) -> list[int]:
    """Return the shards that hold the given rows, ascending.

    Args:
        first_rows: int64 [num_shards + 1]: the row each shard begins with, and the total.
        ordinals: Rows of the table.
    """
    found: list[int] = np.unique(np.searchsorted(first_rows, ordinals, side="right") - 1).tolist()
    return found
