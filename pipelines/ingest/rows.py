"""What readers hand over: parsed rows, or the reason why a row cannot be used."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import pyarrow as pa

from pipelines.schemas import QUARANTINE

EXCERPT_CHARACTERS = 200


class BadRow(NamedTuple):
    """A row that is set aside: its file, its line (or row of a Parquet file) from 1, and why."""

    source: str
    row: int
    reason: str
    excerpt: str


class Document(NamedTuple):
    """A document as its source gives it; texts are stripped and never empty."""

    source: str
    row: int
    doc_id: str
    title: str | None
    text: str


class Query(NamedTuple):
    """A query as its source gives it."""

    source: str
    row: int
    query_id: str
    text: str


class Judgment(NamedTuple):
    """What one document is to one query."""

    source: str
    row: int
    query_id: str
    doc_id: str
    relevance: float
    split: str


@dataclass(frozen=True)
class Collection:
    """A source whose tables can be read again and again, each time in the same order.

    Args:
        documents: Starts a pass over the documents.
        queries: Starts a pass over the queries.
        judgments: Starts a pass over the judgments.
        bad: Rows set aside before there were documents and queries.
        facts: What the source knows of itself, for the summary.
    """

    documents: Callable[[], Iterator[Document | BadRow]]
    queries: Callable[[], Iterator[Query | BadRow]]
    judgments: Callable[[], Iterator[Judgment | BadRow]]
    bad: tuple[BadRow, ...] = ()
    facts: dict[str, object] = field(default_factory=dict)


class Quarantine:
    """Every row that was set aside, in the order of the sources."""

    def __init__(self) -> None:
        self.rows: list[BadRow] = []

    def add(self, source: str, row: int, reason: str, excerpt: str) -> None:
        """Set one row aside."""
        self.rows.append(BadRow(source, row, reason, excerpt))

    def counts(self) -> dict[str, int]:
        """Return how many rows were set aside, by ``"source: reason"``."""
        return dict(sorted(Counter(f"{bad.source}: {bad.reason}" for bad in self.rows).items()))

    def table(self) -> pa.Table:
        """Return the rows under the quarantine schema; excerpts are cut at 200 characters."""
        return pa.table(
            {
                "source": [bad.source for bad in self.rows],
                "row": [bad.row for bad in self.rows],
                "reason": [bad.reason for bad in self.rows],
                "excerpt": [_printable(bad.excerpt) for bad in self.rows],
            },
            schema=QUARANTINE,
        )


def _printable(text: str) -> str:
    cut = text[:EXCERPT_CHARACTERS]
    return cut.encode("utf-8", errors="backslashreplace").decode("utf-8")
