"""Which queries ask for a negative: labelled ones, and those that a language model wrote and that found it again."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.artifacts import Artifact


def allowed_answers(
    data: Artifact, used: np.ndarray, negatives: list[list[dict[str, Any]]], most: int
) -> tuple[list[list[list[int]]], dict[str, int]]:
    """Return of each negative the queries it answers, at most ``most``, and what was left out.

    Only queries of the splits that the groups are made of: training must not see those of another.
    """
    if not most:
        return [[[] for _ in row] for row in negatives], {}
    qrels = data.read("qrels", ["query", "split"])
    splits = pc.unique(qrels.filter(pc.is_in(qrels.column("query"), value_set=pa.array(used)))["split"])
    allowed = set(qrels.filter(pc.is_in(qrels.column("split"), value_set=splits))["query"].to_pylist())
    kept: list[list[list[int]]] = []
    counters = {"answers_of_another_split": 0, "answers_beyond_max_answers": 0}
    for row in negatives:
        found = [[query for query in item["answers"] if query in allowed] for item in row]
        counters["answers_of_another_split"] += sum(
            len(item["answers"]) - len(some) for item, some in zip(row, found, strict=True)
        )
        counters["answers_beyond_max_answers"] += sum(max(0, len(some) - most) for some in found)
        kept.append([sorted(some)[:most] for some in found])
    return kept, counters


def unanswered(data: Artifact, groups: Artifact) -> np.ndarray:
    """Return the negatives, int64 rising, that no query asks for of the splits that the groups are made of."""
    table = groups.read("groups", ["query", "negatives"])
    negatives = table.column("negatives").to_pylist()
    answered, _ = allowed_answers(data, table.column("query").to_numpy(), negatives, 1)
    found = (
        item["doc"]
        for row, queries in zip(negatives, answered, strict=True)
        for item, asked in zip(row, queries, strict=True)
        if not asked
    )
    return np.unique(np.fromiter(found, np.int64))


class WithDrafts(Artifact):
    """The data of an ingest step, whose queries are followed by drafts; labels are those of the data alone.

    Args:
        data: Ingest artifact.
        drafts: Of the stage generate; its query i is query N + i, behind the N of ``data``.
    """

    def __init__(self, data: Artifact, drafts: Artifact) -> None:
        super().__init__(data.storage, data.manifest)
        self._data, self._drafts = data, drafts

    def num_rows(self, table: str) -> int:
        """As of any artifact."""
        return int(self.first_rows(table)[-1])

    def num_shards(self, table: str) -> int:
        """As of any artifact."""
        return len(self.first_rows(table)) - 1

    def first_rows(self, table: str) -> np.ndarray:
        """As of any artifact."""
        own = self._data.first_rows(table)
        if table != "queries":
            return own
        return np.concatenate([own, own[-1] + self._drafts.first_rows(table)[1:]])

    def read_shard(self, table: str, index: int, columns: Sequence[str] | None = None) -> pa.Table:
        """As of any artifact."""
        before = self._data.num_shards(table)
        if table != "queries" or index < before:
            return self._data.read_shard(table, index, columns)
        shard = self._drafts.read_shard(table, index - before, columns)
        if "query" not in shard.column_names:
            return shard
        ordinals = shard.column("query").to_numpy() + self._data.num_rows(table)
        return shard.set_column(shard.column_names.index("query"), "query", pa.array(ordinals))


def found_again(data: Artifact, candidates: Artifact) -> dict[int, int]:
    """Return document -> its draft, as ``WithDrafts`` numbers it, where the round trip found it.

    Args:
        data: Ingest artifact.
        candidates: Of a search for the drafts among all documents, as deep as a draft's document may lie.
    """
    first, found = data.num_rows("queries"), {}
    for index in range(candidates.num_shards("candidates")):
        shard = candidates.read_shard("candidates", index, ["query", "doc", "rank", "is_positive"])
        kept = shard.filter(pc.and_(shard.column("is_positive"), pc.greater(shard.column("rank"), 0)))
        for query, doc in zip(kept.column("query").to_pylist(), kept.column("doc").to_pylist(), strict=True):
            found[doc] = first + query
    return found
