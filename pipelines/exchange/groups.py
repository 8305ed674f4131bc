"""The groups of a run in batches, flattened to arrays, their texts joined by ordinal.

Shapes: G groups of a batch, P documents of one side of them (their positives, or their negatives), T teachers.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.artifacts import Artifact
from cluster.errors import UserError
from pipelines.exchange.lookup import Lookup

BATCH_TEXTS = 65_536
"""Texts that one batch may need at most (one group alone may exceed it): about 100 MB of documents."""


@dataclass(frozen=True)
class Side:
    """The positives, or the negatives, of the groups of a batch.

    Args:
        counts_G: Documents of each group, int64.
        docs_P: Their ordinals, int64, in the groups' order.
        scores_P: float32, nan where there is none.
    """

    counts_G: np.ndarray
    docs_P: np.ndarray
    scores_P: np.ndarray

    @cached_property
    def starts_G(self) -> np.ndarray:
        """Where each group's documents begin, int64 [G + 1]."""
        return np.concatenate([np.zeros(1, np.int64), np.cumsum(self.counts_G)])

    @cached_property
    def group_P(self) -> np.ndarray:
        """The group of each document, int64 [P]."""
        return np.repeat(np.arange(len(self.counts_G)), self.counts_G)

    @cached_property
    def all_finite_G(self) -> np.ndarray:
        """Whether all documents of a group have a score, bool [G]."""
        missing = np.bincount(self.group_P[~np.isfinite(self.scores_P)], minlength=len(self.counts_G))
        return missing == 0

    def of(self, groups: np.ndarray) -> "Side":
        """Return the side of some groups alone.

        Args:
            groups: Ascending positions.
        """
        kept = np.zeros(len(self.counts_G), bool)
        kept[groups] = True
        kept_P = kept[self.group_P]
        return Side(self.counts_G[groups], self.docs_P[kept_P], self.scores_P[kept_P])

    def scores_of(self, group: int) -> np.ndarray:
        """Return the scores of one group's documents, float32."""
        return self.scores_P[self.starts_G[group] : self.starts_G[group + 1]]


@dataclass(frozen=True)
class GroupBatch:
    """Some groups, in the artifact's order.

    Args:
        query_G: Ordinals of the queries, int64.
        task_G: Tasks.
        positives: Labelled documents.
        negatives: Mined documents, in the order of the group.
    """

    query_G: np.ndarray
    task_G: list[str]
    positives: Side
    negatives: Side


@dataclass
class MinedGroups:
    """The groups of a run.

    Args:
        data: The ingest artifact.
        groups: The artifact with the table `groups`.
        wanted: bool [queries]: whose groups are read; None for all.
        teacher: Whose scores are read; None: the teacher that supplied a negative, and for a positive that of the
            group's first negative.
    """

    data: Artifact
    groups: Artifact
    wanted: np.ndarray | None = None
    teacher: str | None = None
    left_out: Counter[str] = field(default_factory=Counter)
    """What was not written, by reason."""
    notes: Counter[str] = field(default_factory=Counter)
    """What the user should know, by what."""

    def __post_init__(self) -> None:
        self.document_texts = Lookup(self.data, "documents", "text")
        self.query_texts = Lookup(self.data, "queries", "text")
        self._column = self._teacher_column()

    def _teacher_column(self) -> int | None:
        if self.teacher is None:
            return None
        names = self.groups.manifest.summary.get("teachers")
        if not isinstance(names, list) or self.teacher not in names:
            raise UserError(
                "no such teacher",
                where=self.groups.key,
                got=self.teacher,
                expected=", ".join(map(str, names)) if isinstance(names, list) else "no --teacher",
            )
        return names.index(self.teacher)

    @property
    def num_groups(self) -> int:
        """Groups of the artifact, wanted or not."""
        return self.groups.num_rows("groups")

    def max_negatives(self) -> int:
        """Return the size of the largest group's negatives."""
        largest = 0
        for index in range(self.groups.num_shards("groups")):
            negatives = self.groups.read_shard("groups", index, columns=["negatives"]).column("negatives")
            largest = max(largest, pc.max(pc.list_value_length(negatives)).as_py() or 0)
        return largest

    def batches(self, advance: Callable[[int], None]) -> Iterator[GroupBatch]:
        """Yield the groups in order; small shards are joined, large ones cut, so that texts stay bounded.

        Args:
            advance: Told how many groups were read.

        Raises:
            UserError: No group is wanted.
        """
        pending: list[pa.Table] = []
        weight, found = 0, 0
        for piece, size in self._pieces(advance):
            if pending and weight + size > BATCH_TEXTS:
                yield self._batch(pa.concat_tables(pending))
                pending, weight = [], 0
            pending.append(piece)
            weight += size
            found += piece.num_rows
        if not found:
            raise UserError(
                "no group to export",
                where=self.groups.key,
                got=f"{self.num_groups:,} groups, none of a query of this split",
                fix="leave out --split: groups exist for the queries of mine.split",
            )
        yield self._batch(pa.concat_tables(pending))

    def _pieces(self, advance: Callable[[int], None]) -> Iterator[tuple[pa.Table, int]]:
        columns = ["query", "task", "positives", "negatives"]
        for index in range(self.groups.num_shards("groups")):
            table = self.groups.read_shard("groups", index, columns=columns)
            advance(table.num_rows)
            if self.wanted is not None:
                table = table.filter(pa.array(self.wanted[table.column("query").to_numpy()]))
            positives, negatives = (
                pc.list_value_length(table.column(name)).to_numpy() for name in ("positives", "negatives")
            )
            # An n-tuple repeats the negatives for every positive.
            ends = np.cumsum(positives.astype(np.int64) * (1 + negatives))
            start, before = 0, 0
            while start < table.num_rows:
                end = max(start + 1, int(np.searchsorted(ends, before + BATCH_TEXTS, side="right")))
                yield table.slice(start, end - start), int(ends[end - 1]) - before
                start, before = end, int(ends[end - 1])

    def _batch(self, table: pa.Table) -> GroupBatch:
        positives, negatives = (table.column(name).combine_chunks() for name in ("positives", "negatives"))
        pos_counts_G, pos_docs_P, pos_scores_PT = _flattened(positives)
        neg_counts_G, neg_docs_P, neg_scores_PT = _flattened(negatives)
        teacher_P = pc.struct_field(negatives.flatten(), "teacher").to_numpy(zero_copy_only=False)
        teacher_P = np.asarray(teacher_P, np.int64)
        neg_group_P = np.repeat(np.arange(len(neg_counts_G)), neg_counts_G)
        first_G, mixed_G = _suppliers(teacher_P, neg_group_P, len(neg_counts_G))
        if self._column is None:
            self.notes["groups with scores of several teachers (--teacher takes one)"] += int(mixed_G.sum())
        else:
            teacher_P = np.full(len(teacher_P), self._column)
            first_G = np.full(len(neg_counts_G), self._column)
        pos_teacher_P = np.repeat(first_G, pos_counts_G)
        return GroupBatch(
            query_G=table.column("query").to_numpy(),
            task_G=table.column("task").to_pylist(),
            positives=Side(pos_counts_G, pos_docs_P, _picked(pos_scores_PT, pos_teacher_P)),
            negatives=Side(neg_counts_G, neg_docs_P, _picked(neg_scores_PT, teacher_P)),
        )


def _flattened(lists: pa.ListArray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return counts [G], documents [P] and scores [P, T], nan where null, of a list column of the groups."""
    counts_G = pc.list_value_length(lists).to_numpy().astype(np.int64)
    members = lists.flatten()
    docs_P = pc.struct_field(members, "doc").to_numpy()
    scores = pc.struct_field(members, "scores")
    num_teachers = pc.max(pc.list_value_length(scores)).as_py() or 1
    values = scores.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    assert len(values) == len(docs_P) * num_teachers, "one score for each teacher"
    return counts_G, docs_P, values.reshape(len(docs_P), num_teachers)


def _picked(scores_PT: np.ndarray, teacher_P: np.ndarray) -> np.ndarray:
    """Return each document's score by its teacher, float32 [P]; nan where the teacher is -1."""
    picked_P = np.take_along_axis(scores_PT, np.maximum(teacher_P, 0)[:, None], axis=1)[:, 0]
    return np.where(teacher_P >= 0, picked_P, np.float32(np.nan)).astype(np.float32)


def _suppliers(teacher_P: np.ndarray, group_P: np.ndarray, num_groups: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the teacher of each group's first supplied negative (0 where it has none), and whether it has others."""
    supplied = teacher_P >= 0
    lowest_G = np.full(num_groups, np.iinfo(np.int64).max)
    highest_G = np.full(num_groups, -1)
    np.minimum.at(lowest_G, group_P[supplied], teacher_P[supplied])
    np.maximum.at(highest_G, group_P[supplied], teacher_P[supplied])
    groups, first = np.unique(group_P[supplied], return_index=True)
    first_G = np.zeros(num_groups, np.int64)
    first_G[groups] = teacher_P[supplied][first]
    return first_G, (highest_G >= 0) & (lowest_G < highest_G)
