"""The audit as a table in the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipelines.report.tables import MEASURES, Audit, side_by_side

SHOWN = (
    "listed_false",
    "answer_false",
    "near_duplicate",
    "starved",
    "mean_loss",
    "mean_margin",
    "mean_rank",
    "identical",
    "labelled",
    "repeated",
    "negatives",
)
"""Columns of the terminal, as many as fit; the page and the Parquet hold them all."""
ALWAYS = {"negatives", "near_duplicate", "starved"}
"""Columns that stand though every value is zero."""
_GAP = 2


def show_audit(console: Console, audit: Audit) -> None:
    """Print one row a method, intervals below the shares, and how far the teachers agree.

    Args:
        console: Where; columns that its width does not hold are named instead.
        audit: The audit.
    """
    measures = audit.measures()
    wanted = [
        name
        for name in SHOWN
        if name in measures and (name in ALWAYS or any(row["value"] for row in measures[name].values()))
    ]
    columns = _fitting(wanted, audit, console.width)
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0))
    table.add_column("method", overflow="fold", min_width=_name_width(audit))
    for name in columns:
        table.add_column(MEASURES[name].label, justify="right", width=_width(name, measures[name]))
    for method in audit.methods:
        rows = [measures[name].get(method) for name in columns]
        table.add_row(
            escape(method), *(value_text(name, row) for name, row in zip(columns, rows, strict=True))
        )
        bounds = [interval_text(name, row) for name, row in zip(columns, rows, strict=True)]
        if any(bounds):
            table.add_row("", *bounds, style="dim")
    facts = audit.facts
    console.print(
        f"\n[bold]Audit[/]  scores by {escape(str(facts['score_by']))}, loss at temperature {facts['temperature']}, "
        f"texts of {facts['text_queries']:,} queries",
        highlight=False,
    )
    console.print(table)
    if len(columns) < len(wanted):
        hidden = ", ".join(MEASURES[name].label for name in wanted if name not in columns)
        console.print(f"[dim]in a wider terminal, and in the report: {hidden}[/]", highlight=False)
    _agreement(console, audit)


def show_audits(console: Console, audits: Mapping[str, Audit]) -> None:
    """Print the audits of one data set, several of them as one table."""
    show_audit(console, side_by_side(audits) if len(audits) > 1 else next(iter(audits.values())))


def _fitting(wanted: Sequence[str], audit: Audit, width: int) -> list[str]:
    """Return the first columns that fit beside the names of the methods, at least one."""
    measures = audit.measures()
    left = width - _name_width(audit) - _GAP
    columns: list[str] = []
    for name in wanted:
        left -= _width(name, measures[name]) + _GAP
        if left < 0 and columns:
            break
        columns.append(name)
    return columns


def _name_width(audit: Audit) -> int:
    return min(max(cell_len(method) for method in audit.methods), 40)


def _width(measure: str, of_method: Mapping[str, Mapping[str, Any]]) -> int:
    texts = [
        text for row in of_method.values() for text in (value_text(measure, row), interval_text(measure, row))
    ]
    return max(len(text) for text in [*texts, *MEASURES[measure].label.split()])


def _agreement(console: Console, audit: Audit) -> None:
    pairs = [row for row in audit.agreement.to_pylist() if row["teacher_a"] < row["teacher_b"]]
    if pairs:
        told = (
            f"{escape(row['teacher_a'])}-{escape(row['teacher_b'])} {row['jaccard']:.2f}"
            for row in sorted(pairs, key=lambda row: -row["jaccard"])
        )
        console.print(f"[bold]Teachers agree[/]  {', '.join(told)}", highlight=False)


def value_text(measure: str, row: Mapping[str, Any] | None) -> str:
    """Return a measure as people read it: ``1,234``, ``2.7%``, ``.123``; empty where there is none."""
    return "" if row is None else number_text(measure, row["value"])


def number_text(measure: str, value: float) -> str:
    """Return one value of a measure as people read it."""
    kind = MEASURES[measure].kind
    if kind == "count":
        return f"{value:,.0f}"
    if kind == "share":
        return f"{100 * value:.1f}%" if value >= 0.001 or value == 0 else f"{100 * value:.2g}%"
    return f"{value:.1f}" if measure.endswith("_rank") else f"{value:.3f}"


def interval_text(measure: str, row: Mapping[str, Any] | None) -> str:
    """Return the 95% interval of a measure, such as ``2.3% 3.1%``; empty where there is none."""
    if row is None or row["ci_low"] is None:
        return ""
    low, high = (number_text(measure, row[bound]) for bound in ("ci_low", "ci_high"))
    return "" if low == high else f"{low} {high}"
