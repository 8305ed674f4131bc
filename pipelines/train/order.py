"""The planned batches as flat arrays, as a rank reads them."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa


@dataclass(frozen=True)
class Order:
    """The planned batches.

    Args:
        first_rows: int64 [steps + 1]; step s has the rows first_rows[s] to first_rows[s + 1].
        stages: int64 [steps], the stage of each.
        queries: int64 [rows].
        positives: int64 [rows].
        groups: int64 [rows], the mined group of each.
        negatives: One list of ordinals a row, best first.
        taken: int64 [rows], how many of them a step takes.
        masked: One list of ordinals a row.
        scores: One list a row, of the teachers' scores of its positive and of each negative.
        answers: One list a row, of the queries that each negative answers.
        tasks: int64 [rows]; equal where data set and task are.
        scopes: Of each row: whose documents are its negatives, see pipelines.train.stages.Scope.
        teachers: Their names.
        starts: Row -> where the negatives that are taken begin. A row that is not there takes the first ones.
    """

    first_rows: np.ndarray
    stages: np.ndarray
    queries: np.ndarray
    positives: np.ndarray
    groups: np.ndarray
    negatives: pa.ListArray
    taken: np.ndarray
    masked: pa.ListArray
    scores: pa.ListArray
    answers: pa.ListArray
    tasks: np.ndarray
    scopes: pa.DictionaryArray
    teachers: tuple[str, ...]
    starts: Mapping[int, int] = field(default_factory=dict)

    @classmethod
    def from_table(cls, table: pa.Table, teachers: tuple[str, ...] = ()) -> "Order":
        """Take the columns of a table of schema PLAN_ORDER, sorted by step."""
        steps = table.column("step").to_numpy()
        first_rows = np.searchsorted(steps, np.arange(int(steps[-1]) + 2))
        datasets, tasks = (_codes(table, name) for name in ("dataset", "task"))
        return cls(
            first_rows=first_rows,
            stages=table.column("stage").to_numpy()[first_rows[:-1]].astype(np.int64),
            tasks=datasets * (tasks.max() + 1) + tasks,
            scopes=table.column("scope").combine_chunks().dictionary_encode(),
            queries=table.column("query").to_numpy(),
            positives=table.column("positive").to_numpy(),
            groups=table.column("group").to_numpy(),
            taken=table.column("taken").to_numpy().astype(np.int64),
            teachers=teachers,
            **{
                name: table.column(name).combine_chunks()
                for name in ("negatives", "masked", "scores", "answers")
            },
        )

    @property
    def num_steps(self) -> int:
        """Number of global batches."""
        return len(self.first_rows) - 1

    def rows(self, step: int) -> np.ndarray:
        """Return the rows (int64) of one global batch."""
        return np.arange(self.first_rows[step], self.first_rows[step + 1])

    def documents(self, rows: np.ndarray) -> np.ndarray:
        """Return the distinct documents of some rows, rising."""
        return np.unique(np.concatenate([self.positives[rows], *(self.negatives_of(row) for row in rows)]))

    def answered(self, rows: np.ndarray) -> np.ndarray:
        """Return the distinct queries that negatives of some rows answer, rising."""
        found = [query for row in rows for queries in self.answers_of(row) for query in queries]
        return np.unique(np.asarray(found, np.int64))

    def starting(self, starts: Mapping[int, int]) -> "Order":
        """Return the same order, where some rows take other negatives."""
        return replace(self, starts=starts)

    def num_mined(self, rows: np.ndarray) -> np.ndarray:
        """Return of how many negatives some rows take theirs, int64."""
        return np.array([len(self.negatives[row]) for row in rows])

    def negatives_of(self, row: int) -> np.ndarray:
        """Return the negatives that a row takes, int64."""
        negatives: np.ndarray = self.negatives[row].values.to_numpy()[self._taken(row)]
        return negatives

    def own_group(self, row: int) -> list[int]:
        """Return the positive of a row, then the negatives that it takes."""
        return [int(self.positives[row]), *self.negatives_of(row).tolist()]

    def scores_of(self, row: int) -> list[list[float | None]]:
        """Return the teachers' scores of the row's own group."""
        positive, *negatives = self.scores[row].as_py() or [[]]
        return [positive, *negatives[self._taken(row)]]

    def answers_of(self, row: int) -> list[list[int]]:
        """Return the queries that each negative answers which the row takes."""
        answers: list[list[int]] = self.answers[row].as_py()[self._taken(row)]
        return answers

    def _taken(self, row: int) -> slice:
        start = self.starts.get(int(row), 0)
        return slice(start, start + int(self.taken[row]))

    def masked_of(self, row: int) -> list[int]:
        """Return the documents that a row must not push away, its positive apart: of all that its batch may hold."""
        masked: list[int] = self.masked[row].values.to_pylist()
        return masked

    def scope_of(self, row: int) -> tuple[str, int]:
        """Return whose documents and queries may be negatives of a row: its scope, and which task or row that means."""
        scope = self.scopes[row].as_py()
        return scope, {"batch": 0, "task": int(self.tasks[row]), "group": int(row)}[scope]

    def within(self, scope: tuple[str, int], rows: np.ndarray) -> np.ndarray:
        """Say which rows of a batch a scope holds, bool [n]."""
        kind, which = scope
        if kind == "batch":
            return np.ones(len(rows), bool)
        return (self.tasks[rows] if kind == "task" else rows) == which

    def unrelated(self, own_rows: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Say which queries of a batch may be pushed away from which.

        Not the query itself, not one whose positive is a known positive of the other, and none that is out of the
        row's scope.

        Args:
            own_rows: int64 [B].
            rows: int64 [n], all rows of their batch.

        Returns:
            bool [B, n].
        """
        own_positives, positives = self.positives[own_rows], self.positives[rows]
        apart_Bn = positives != own_positives[:, None]
        apart_Bn &= self.queries[rows] != self.queries[own_rows][:, None]
        for column, row in enumerate(rows):
            for document in self.masked_of(row):
                apart_Bn[own_rows == row] &= positives != document
                apart_Bn[own_positives == document, column] = False
        for index, row in enumerate(own_rows):
            apart_Bn[index] &= self.within(self.scope_of(row), rows)
        return apart_Bn


def _codes(table: pa.Table, name: str) -> np.ndarray:
    column = table.column(name).combine_chunks().dictionary_encode()
    return column.indices.to_numpy().astype(np.int64)
