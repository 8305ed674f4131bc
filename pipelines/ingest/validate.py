"""Judge single rows: what can be used is parsed, what cannot is set aside with a reason."""

from collections.abc import Iterable, Iterator
from hashlib import blake2b
from math import isfinite

from pipelines.ingest.config import JUDGED_NEGATIVES, Task
from pipelines.ingest.readers import NOT_UTF8, Record, is_utf8
from pipelines.ingest.rows import BadRow, Document, Judgment, Quarantine, Query

SPLIT_NAMES = {
    "train": "train",
    "dev": "dev",
    "test": "test",
    "val": "dev",
    "valid": "dev",
    "validation": "dev",
}


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


def good_documents(rows: Iterable[Document | BadRow], quarantine: Quarantine) -> Iterator[Document]:
    """Yield the documents to keep: the first of every id."""
    seen: dict[str, bytes] = {}
    for row in rows:
        if isinstance(row, BadRow):
            quarantine.rows.append(row)
        elif _is_first(row.source, row.row, row.doc_id, f"{row.title or ''}\n{row.text}", seen, quarantine):
            yield row


def good_queries(rows: Iterable[Query | BadRow], quarantine: Quarantine) -> Iterator[Query]:
    """Yield the queries to keep: the first of every id."""
    seen: dict[str, bytes] = {}
    for row in rows:
        if isinstance(row, BadRow):
            quarantine.rows.append(row)
        elif _is_first(row.source, row.row, row.query_id, row.text, seen, quarantine):
            yield row


def _is_first(
    source: str, row: int, key: str, text: str, seen: dict[str, bytes], quarantine: Quarantine
) -> bool:
    digest = blake2b(text.encode(), digest_size=8).digest()
    first = seen.setdefault(key, digest)
    if first is digest:
        return True
    quarantine.add(
        source, row, "repeated row" if first == digest else "duplicate id, other text", f"{key}\t{text}"
    )
    return False


def good_judgments(
    rows: Iterable[Judgment | BadRow],
    queries: dict[str, int],
    documents: dict[str, int],
    quarantine: Quarantine,
) -> Iterator[Judgment]:
    """Yield the judgments whose query and document exist: the first of every (query, document, split)."""
    seen: set[tuple[int, int, str]] = set()
    for row in rows:
        if isinstance(row, BadRow):
            quarantine.rows.append(row)
            continue
        excerpt = f"{row.query_id}\t{row.doc_id}\t{row.relevance:g}"
        query, document = queries.get(row.query_id), documents.get(row.doc_id)
        if query is None:
            quarantine.add(row.source, row.row, "unknown query", excerpt)
        elif document is None:
            quarantine.add(row.source, row.row, "unknown document", excerpt)
        elif (query, document, row.split) in seen:
            quarantine.add(row.source, row.row, "repeated judgment", excerpt)
        else:
            seen.add((query, document, row.split))
            yield row
