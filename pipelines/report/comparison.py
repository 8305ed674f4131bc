"""Metrics of several runs side by side, with differences to the first."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cluster.errors import UserError
from cluster.runs import RunRecord


class Compared(NamedTuple):
    """One metric of one ranking in every run.

    Args:
        dataset: Data set and split.
        ranking: Name of the ranking, or of the difference of two.
        metric: Such as ``ndcg@10``.
        values: One a run; None where the run has no such row.
    """

    dataset: str
    ranking: str
    metric: str
    values: tuple[float | None, ...]

    @property
    def differences(self) -> tuple[float | None, ...]:
        """Each value less the first run's; None where either is missing."""
        first = self.values[0]
        return tuple(None if first is None or value is None else value - first for value in self.values)


def compare_runs(records: Sequence[RunRecord]) -> list[Compared]:
    """Return every metric that any of the runs has, in the order in which they first stand.

    Raises:
        UserError: None of the runs has metrics.
    """
    found = [{_name(row): float(row["value"]) for row in _rows(record)} for record in records]
    names = list(dict.fromkeys(name for values in found for name in values))
    if not names:
        raise UserError(
            "none of the runs has metrics",
            got=", ".join(record.id for record in records),
            fix="run the recipe as far as evaluation: stope evaluate RECIPE",
        )
    return [Compared(*name, tuple(values.get(name) for values in found)) for name in names]


def _rows(record: RunRecord) -> list[dict[str, Any]]:
    return list(record.metrics)


def _name(row: dict[str, Any]) -> tuple[str, str, str]:
    return f"{row['dataset']}, {row['split']}", str(row["run"]), f"{row['metric']}@{row['k']}"


def show_comparison(console: Console, records: Sequence[RunRecord], rows: Sequence[Compared]) -> None:
    """Print one row a metric and one column a run; a table for every data set and split."""
    for number, record in enumerate(records, 1):
        console.print(
            f"[bold]{number}[/]  {escape(record.id)}  [dim]{record.state}[/]", highlight=False, soft_wrap=True
        )
    for dataset in dict.fromkeys(row.dataset for row in rows):
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column("ranking")
        table.add_column("metric")
        for number in range(1, len(records) + 1):
            table.add_column(f"run {number}", justify="right")
            if number > 1:
                table.add_column(f"{number} - 1", justify="right")
        for row in rows:
            if row.dataset == dataset:
                table.add_row(escape(row.ranking), row.metric, *_cells(row))
        console.print(f"\n[bold]{escape(dataset)}[/]", highlight=False)
        console.print(table)


def _cells(row: Compared) -> list[str]:
    cells = []
    for number, (value, difference) in enumerate(zip(row.values, row.differences, strict=True)):
        cells.append("" if value is None else f"{value:.4f}")
        if number:
            cells.append("" if difference is None else f"{difference:+.4f}")
    return cells
