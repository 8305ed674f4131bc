"""A training example as other tools write them, and how it enters a data set."""

from typing import NamedTuple

from pipelines.exchange.dataset import DataSet
from pipelines.ingest.readers import Record
from pipelines.ingest.rows import BadRow
from pipelines.ingest.validate import SPLIT_NAMES, RowError, optional_content


class Passage(NamedTuple):
    """A document of an example; ``number`` is a positive's relevance or a negative's teacher score."""

    text: str
    number: float | None
    title: str | None = None
    doc_id: str | None = None


class Example(NamedTuple):
    """A query with its positives and negatives; ``rejected`` are the texts of it that cannot be used."""

    origin: tuple[str, int]
    query: str
    positives: tuple[Passage, ...]
    negatives: tuple[Passage, ...] = ()
    query_id: str | None = None
    split: str | None = None
    rejected: tuple[BadRow, ...] = ()
    unscored: int = 0
    """Scores of positives, for which the layout has no place."""


def add_example(dataset: DataSet, example: Example, split: str | None) -> None:
    """Add an example.

    Args:
        dataset: Where to.
        example: A query with at least one positive or negative.
        split: Split of the file; None takes the example's own.
    """
    for bad in example.rejected:
        dataset.rejects.add(bad)
    dataset.rejects.merged["teacher score of a positive"] += example.unscored
    query_id = dataset.query(example.origin, example.query, example.query_id)
    if query_id is None:
        return
    for passage in example.positives:
        doc_id = dataset.document(example.origin, passage.text, passage.title, passage.doc_id)
        if doc_id is not None:
            dataset.positive(query_id, doc_id, passage.number or 1.0, split or example.split)
    for passage in example.negatives:
        doc_id = dataset.document(example.origin, passage.text, passage.title, passage.doc_id)
        if doc_id is not None:
            dataset.negative(query_id, doc_id, passage.number)


def split_of(record: Record, column: str = "split") -> str | None:
    """Return the split that a row names, if it has such a column.

    Raises:
        RowError: It names an unknown one.
    """
    named = optional_content(record, column)
    if named is None:
        return None
    if named not in SPLIT_NAMES:
        raise RowError("unknown split")
    return SPLIT_NAMES[named]
