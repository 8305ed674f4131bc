"""Judge single rows: what can be used is parsed, what cannot is set aside with a reason."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from math import isfinite
from typing import TypeVar

from pipelines.ingest.config import JUDGED_NEGATIVES, Task
from pipelines.ingest.readers import NOT_UTF8, Record, is_utf8
from pipelines.ingest.rows import BadRow, Document, Judgment, Quarantine, Query
from pipelines.ingest.seen import CONFLICTING, NEW, REPEATED, SeenIds

SPLIT_NAMES = {
    "train": "train",
    "dev": "dev",
    "test": "test",
    "val": "dev",
    "valid": "dev",
    "validation": "dev",
}

BATCH_ROWS = 4096
"""Rows whose ids are looked for at once."""
REPEATS = {REPEATED: "repeated row", CONFLICTING: "duplicate id, other text"}
"""Verdict -> why a row is set aside."""

Row = TypeVar("Row", Document, Query)
Item = TypeVar("Item")


class RowError(ValueError):
    """A row cannot be used; the text is the reason that the quarantine counts."""


def identifier(values: Record, column: str) -> str:
    """Return an id; integers are read as their digits.

    Raises:
        RowError: It is absent, empty, or would break the files that hold one id a line.
    """
    value = values.values.get(column)
    if value is None or isinstance(value, bool) or not isinstance(value, str | int):
        raise RowError(f"no {column}" if value is None else f"{column} is not a string")
    text = str(value).strip(" ")
    if not text:
        raise RowError(f"empty {column}")
    if any(character in text for character in "\n\r\t\v\f\0\x85\u2028\u2029"):
        raise RowError(f"{column} holds a line break, tab or null character")
    if not is_utf8(text):
        raise RowError(NOT_UTF8)
    return text


def content(values: Record, column: str) -> str:
    """Return a text, stripped.

    Raises:
        RowError: It is absent, empty, not a string or not UTF-8.
    """
    value = values.values.get(column)
    if value is None:
        raise RowError(f"no {column}")
    if not isinstance(value, str):
        raise RowError(f"{column} is not a string")
    text = value.strip()
    if not text:
        raise RowError(f"empty {column}")
    if not is_utf8(text):
        raise RowError(NOT_UTF8)
    return text


def optional_content(values: Record, column: str) -> str | None:
    """Return a text, or None where it is absent or empty."""
    value = values.values.get(column)
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    return content(values, column)


def relevance(values: Record, column: str, task: Task, default: float | None = None) -> float:
    """Return a relevance; at most zero only for a task that makes negatives of such pairs.

    Raises:
        RowError: It is absent without a default, not a finite number, or says nothing to this task.
    """
    value = values.values.get(column)
    if value is None or value == "":
        if default is None:
            raise RowError(f"no {column}")
        return default
    try:
        number = float(str(value))
    except ValueError as error:
        raise RowError(f"{column} is not a number") from error
    if not isfinite(number) or abs(number) > 3e38:
        raise RowError(f"{column} is not a finite number")
    if number <= 0 and task not in JUDGED_NEGATIVES:
        raise RowError("judged not relevant")
    return number


def bad_row(source: str, record: Record, error: RowError) -> BadRow:
    """Return the quarantine entry of a record."""
    excerpt = "\t".join("" if value is None else str(value) for value in record.values.values())
    return BadRow(source, record.row, str(error), excerpt)


def good_documents(
    rows: Iterable[Document | BadRow], quarantine: Quarantine, seen: SeenIds
) -> Iterator[Document]:
    """Yield the documents to keep: the first of every id, which ``seen`` then holds."""
    return _first_of_each(rows, quarantine, seen, lambda row: (row.doc_id, f"{row.title or ''}\n{row.text}"))


def good_queries(rows: Iterable[Query | BadRow], quarantine: Quarantine, seen: SeenIds) -> Iterator[Query]:
    """Yield the queries to keep: the first of every id, which ``seen`` then holds."""
    return _first_of_each(rows, quarantine, seen, lambda row: (row.query_id, row.text))


def _first_of_each(
    rows: Iterable[Row | BadRow],
    quarantine: Quarantine,
    seen: SeenIds,
    identified: Callable[[Row], tuple[str, str]],
) -> Iterator[Row]:
    for batch in _batches(rows):
        named = [("", "") if isinstance(row, BadRow) else identified(row) for row in batch]
        usable = [each for row, each in zip(batch, named, strict=True) if not isinstance(row, BadRow)]
        verdicts = iter(seen.judge([key for key, _ in usable], [text for _, text in usable]).tolist())
        for row, (key, text) in zip(batch, named, strict=True):
            if isinstance(row, BadRow):
                quarantine.rows.append(row)
                continue
            verdict = next(verdicts)
            if verdict == NEW:
                yield row
            else:
                quarantine.add(row.source, row.row, REPEATS[verdict], f"{key}\t{text}")


def good_judgments(
    rows: Iterable[Judgment | BadRow], queries: SeenIds, documents: SeenIds, quarantine: Quarantine
) -> Iterator[tuple[Judgment, int, int]]:
    """Yield the first judgment of every pair and split whose query and document exist, with the places of both."""
    seen: set[tuple[int, int, str]] = set()
    for batch in _batches(rows):
        usable = [row for row in batch if not isinstance(row, BadRow)]
        found = zip(
            queries.find([row.query_id for row in usable]).tolist(),
            documents.find([row.doc_id for row in usable]).tolist(),
            strict=True,
        )
        for row in batch:
            if isinstance(row, BadRow):
                quarantine.rows.append(row)
                continue
            query, document = next(found)
            excerpt = f"{row.query_id}\t{row.doc_id}\t{row.relevance:g}"
            if query < 0:
                quarantine.add(row.source, row.row, "unknown query", excerpt)
            elif document < 0:
                quarantine.add(row.source, row.row, "unknown document", excerpt)
            elif (query, document, row.split) in seen:
                quarantine.add(row.source, row.row, "repeated judgment", excerpt)
            else:
                seen.add((query, document, row.split))
                yield row, query, document


def _batches(rows: Iterable[Item]) -> Iterator[list[Item]]:
    waiting = iter(rows)
    while batch := list(islice(waiting, BATCH_ROWS)):
        yield batch
