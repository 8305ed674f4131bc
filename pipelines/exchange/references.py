"""Documents and queries that a file of ids refers to, and judgments between ids."""

from collections.abc import Callable
from pathlib import Path

from pipelines.exchange.columns import alias, columns_in
from pipelines.exchange.dataset import DataSet
from pipelines.ingest.readers import Record, read_records
from pipelines.ingest.rows import BadRow
from pipelines.ingest.validate import RowError, bad_row, content, identifier, optional_content

DOC_ID = ("_id", "docid", "doc_id", "id")
QUERY_ID = ("_id", "query_id", "qid", "id")
DOCUMENT_TEXT = ("text", "contents")
QUERY_TEXT = ("text", "query_text", "query")


def read_corpus(path: Path, dataset: DataSet, advance: Callable[[int], None]) -> None:
    """Add the documents of a file; its columns are called as BEIR, Tevatron or Anserini call them.

    Raises:
        UserError: It lacks an id or a text column.
    """
    columns, where = columns_in(path)
    key, text = alias(columns, DOC_ID, where), alias(columns, DOCUMENT_TEXT, where)
    for record in read_records(path, path.name, (key, "title", text)):
        advance(1)
        if isinstance(record, BadRow):
            dataset.rejects.add(record)
            continue
        try:
            doc_id = identifier(record, key)
            title, body = optional_content(record, "title"), content(record, text)
        except RowError as error:
            dataset.rejects.add(bad_row(path.name, record, error))
            continue
        if dataset.has_document(doc_id):
            dataset.rejects.merge("document id seen before")
        dataset.document((path.name, record.row), body, title, doc_id)


def read_queries(path: Path, dataset: DataSet, advance: Callable[[int], None]) -> None:
    """Add the queries of a file.

    Raises:
        UserError: It lacks an id or a text column.
    """
    columns, where = columns_in(path)
    key, text = alias(columns, QUERY_ID, where), alias(columns, QUERY_TEXT, where)
    for record in read_records(path, path.name, (key, text)):
        advance(1)
        if isinstance(record, BadRow):
            dataset.rejects.add(record)
            continue
        try:
            query_id, body = identifier(record, key), content(record, text)
        except RowError as error:
            dataset.rejects.add(bad_row(path.name, record, error))
            continue
        if dataset.has_query(query_id):
            dataset.rejects.merge("query id seen before")
        dataset.query((path.name, record.row), body, query_id)


def judge(
    dataset: DataSet, record: Record, source: str, pair: tuple[str, str], relevance: float, split: str | None
) -> None:
    """Add a judgment between ids; one that says "not relevant" is a negative without a score."""
    query_id, doc_id = pair
    if not dataset.has_query(query_id):
        dataset.rejects.add(bad_row(source, record, RowError("unknown query")))
    elif not dataset.has_document(doc_id):
        dataset.rejects.add(bad_row(source, record, RowError("unknown document")))
    elif relevance <= 0:
        dataset.negative(query_id, doc_id, None)
    else:
        dataset.positive(query_id, doc_id, relevance, split)
