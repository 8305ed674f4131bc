"""A shard of groups as flat arrays.

Shapes: Q queries, P positives, N negatives of all groups of the shard.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.errors import UserError


@dataclass(frozen=True)
class Members:
    """Who stands in the groups of one shard; members of one group lie side by side, groups in order.

    Args:
        query_Q: int64 ordinals.
        positive_row_P: Row of the group, int64, ascending.
        positive_doc_P: int64.
        positive_score_P: float64, NaN where the teacher gave none that is finite.
        negative_row_N: Row of the group, int64, ascending.
        negative_doc_N: int64.
        negative_score_N: float64, NaN where the teacher gave none that is finite.
        rank_N: int64 rank for the teacher that supplied it; below 1 where no teacher ranked it.
    """

    query_Q: np.ndarray
    positive_row_P: np.ndarray
    positive_doc_P: np.ndarray
    positive_score_P: np.ndarray
    negative_row_N: np.ndarray
    negative_doc_N: np.ndarray
    negative_score_N: np.ndarray
    rank_N: np.ndarray

    @classmethod
    def from_table(cls, table: pa.Table, teacher: int | None) -> "Members":
        """Flatten a table of schema GROUPS.

        Args:
            table: The groups.
            teacher: Position of the teacher whose scores are read; None reads none.

        Raises:
            UserError: A member has fewer scores than there are teachers.
        """
        positive_row, positives = _flatten(table.column("positives"))
        negative_row, negatives = _flatten(table.column("negatives"))
        return cls(
            query_Q=table.column("query").to_numpy(),
            positive_row_P=positive_row,
            positive_doc_P=positives.field("doc").to_numpy(zero_copy_only=False),
            positive_score_P=_scores(positives, teacher),
            negative_row_N=negative_row,
            negative_doc_N=negatives.field("doc").to_numpy(zero_copy_only=False),
            negative_score_N=_scores(negatives, teacher),
            rank_N=negatives.field("rank").to_numpy(zero_copy_only=False).astype(np.int64),
        )

    @property
    def num_negatives_Q(self) -> np.ndarray:
        """Negatives of every group, int64."""
        return np.bincount(self.negative_row_N, minlength=len(self.query_Q))

    def count_Q(self, chosen_N: np.ndarray) -> np.ndarray:
        """Return how many negatives of every group are True in ``chosen_N``, int64."""
        return np.bincount(self.negative_row_N[chosen_N], minlength=len(self.query_Q))

    def negative_keys(self, num_docs: int) -> np.ndarray:
        """Return one int64 a negative that stands for its (query, document)."""
        return self.query_Q[self.negative_row_N] * num_docs + self.negative_doc_N

    def positive_keys(self, num_docs: int) -> np.ndarray:
        """Return one int64 a positive that stands for its (query, document)."""
        return self.query_Q[self.positive_row_P] * num_docs + self.positive_doc_P


def _flatten(column: pa.ChunkedArray) -> tuple[np.ndarray, pa.StructArray]:
    lists = column.combine_chunks()
    lengths = pc.list_value_length(lists).to_numpy(zero_copy_only=False).astype(np.int64)
    return np.repeat(np.arange(len(lengths)), lengths), lists.flatten()


def _scores(members: pa.StructArray, teacher: int | None) -> np.ndarray:
    if teacher is None or not len(members):
        return np.full(len(members), np.nan)
    try:
        scores = pc.list_element(members.field("scores"), teacher)
    except pa.ArrowInvalid as error:
        raise UserError(
            "a member of a group has fewer scores than there are teachers",
            where="table groups",
            expected=f"at least {teacher + 1}, null where a teacher gave none",
        ) from error
    scores_M = scores.to_numpy(zero_copy_only=False).astype(np.float64)
    return np.where(np.isfinite(scores_M), scores_M, np.nan)
