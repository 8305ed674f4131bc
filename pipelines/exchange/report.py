"""What the commands print."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipelines.exchange.exports import Exported
from pipelines.exchange.imports import Imported
from pipelines.exchange.survey import Survey

PERCENTILES = (5, 25, 50, 75, 95, 99)
EXCERPT = 100


def imported(console: Console, made: Imported, target: Path) -> None:
    """Print what was written, what was not and why, and how to read it."""
    _table(console, ("rows", ""), ((f"{rows:,}", name) for name, rows in made.rows.items()))
    _reasons(console, "Set aside", made.set_aside, f"rows and excerpts: {target / 'quarantine.parquet'}")
    _reasons(console, "Counted, not added", made.merged)
    for note in made.notes:
        console.print(f"[yellow]note[/]  {escape(note)}", highlight=False, soft_wrap=True)
    recipe = f"data: {{kind: beir, name: {target.name}, path: {target.resolve()}}}"
    console.print(
        f"\n  {escape(recipe)}\n  [cyan]stope data show {escape(str(target))}[/]",
        highlight=False,
        soft_wrap=True,
    )


def exported(console: Console, made: Exported, target: Path) -> None:
    """Print what was written, what was not and why."""
    _table(console, ("rows", "file"), ((f"{rows:,}", name) for name, rows in made.rows.items()))
    _reasons(console, "Left out", made.left_out)
    for note, count in made.notes.items():
        if count:
            console.print(f"[yellow]note[/]  {count:,} {escape(note)}", highlight=False)
    console.print(f"\n  {escape(str(target))}", highlight=False, soft_wrap=True)


def surveyed(console: Console, found: Survey) -> None:
    """Print what a data set holds."""
    documents, queries = len(found.document_words), len(found.query_words)
    console.print(
        f"[bold]{escape(found.name)}[/]  {documents:,} documents, {queries:,} queries", highlight=False
    )
    if found.negatives is not None:
        console.print(f"{found.negatives:,} hard negatives in negatives.parquet", highlight=False)
    console.print()
    lengths = [("documents", found.document_words), ("queries", found.query_words)]
    header = ("words", "mean", *(f"p{percentile}" for percentile in PERCENTILES), "longest")
    _table(console, header, (_length_row(name, words) for name, words in lengths if len(words)))
    console.print()
    rows = (
        (split, f"{asked:,}", f"{judged:,}", f"{judged / max(asked, 1):.2f}", f"{relevant:,}")
        for split, (asked, judged, relevant) in found.splits.items()
    )
    _table(console, ("split", "queries", "judgments", "per query", "documents"), rows)
    values = ", ".join(f"{value:g}: {count:,}" for value, count in found.relevance.items())
    console.print(f"\n[bold]Relevance[/]  {values}", highlight=False)
    _reasons(console, "Set aside", found.set_aside)
    for split, query, doc_id, text in found.examples:
        console.print(f"\n[bold]{split}[/]  {escape(_cut(query))}", highlight=False, soft_wrap=True)
        console.print(f"  [green]{escape(doc_id)}[/]  {escape(_cut(text))}", highlight=False, soft_wrap=True)


def _length_row(name: str, words: np.ndarray) -> tuple[str, ...]:
    at = np.percentile(words, PERCENTILES, method="nearest")
    return (name, f"{words.mean():.1f}", *(f"{value:,.0f}" for value in at), f"{words.max():,}")


def _reasons(console: Console, title: str, counts: Mapping[str, int], where: str = "") -> None:
    rows = [
        (f"{count:,}", reason) for reason, count in sorted(counts.items(), key=lambda item: -item[1]) if count
    ]
    if not rows:
        return
    console.print(f"\n[bold]{title}[/]", highlight=False)
    _table(console, ("", ""), rows)
    if where:
        console.print(where, highlight=False, soft_wrap=True)


def _table(console: Console, header: Iterable[str], rows: Iterable[tuple[str, ...]]) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=any(header))
    for index, name in enumerate(header):
        table.add_column(name, justify="right" if index or name in ("rows", "") else "left", no_wrap=True)
    for row in rows:
        table.add_row(*map(escape, row))
    console.print(table, highlight=False)


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= EXCERPT else f"{line[: EXCERPT - 3]}..."
