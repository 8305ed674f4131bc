"""Tevatron's JSON lines: ids into a corpus, or in the older form the passages themselves."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import orjson

from cluster.artifacts import Artifact
from cluster.errors import UserError
from pipelines.exchange.columns import columns_in, elements, named_roles, require
from pipelines.exchange.config import ImportConfig, SourceFile
from pipelines.exchange.dataset import DataSet
from pipelines.exchange.examples import Example, Passage, add_example, split_of
from pipelines.exchange.groups import GroupBatch, MinedGroups
from pipelines.exchange.lookup import Lookup
from pipelines.exchange.references import read_corpus
from pipelines.ingest.readers import Record, read_records
from pipelines.ingest.rows import BadRow
from pipelines.ingest.validate import RowError, bad_row, content, identifier, optional_content
from pipelines.schemas import rendered_texts

ROLES = (
    "query_id", "query_text", "positive_document_ids", "negative_document_ids",
    "query", "positive_passages", "negative_passages", "split",
)  # fmt: skip


def read_tevatron(config: ImportConfig, dataset: DataSet, advance: Callable[[int], None]) -> list[str]:
    """Add the examples of the files; the form is told by the columns.

    Raises:
        UserError: A file has the columns of neither form, or names documents by id and there is no corpus.
    """
    roles = named_roles(config.columns, ROLES)
    if config.corpus:
        read_corpus(config.corpus, dataset, advance)
    for file in config.files:
        columns, where = columns_in(file.path)
        if roles["positive_passages"] in columns:
            require(columns, where, roles, ("query_id", "query", "positive_passages"))
            read = _passages
        else:
            require(columns, where, roles, ("query_id", "query_text", "positive_document_ids"))
            if not config.corpus:
                raise UserError(
                    "documents are named by id",
                    where=where,
                    expected="--corpus",
                    fix="add --corpus corpus.jsonl",
                )
            read = _references
        _read(file, roles, dataset, advance, read)
    return []


def _read(
    file: SourceFile,
    roles: dict[str, str],
    dataset: DataSet,
    advance: Callable[[int], None],
    read: Callable[[Record, dict[str, str], SourceFile, DataSet], None],
) -> None:
    source = file.path.name
    for record in read_records(file.path, source, tuple(roles.values())):
        advance(1)
        if isinstance(record, BadRow):
            dataset.rejects.add(record)
            continue
        try:
            read(record, roles, file, dataset)
        except RowError as error:
            dataset.rejects.add(bad_row(source, record, error))


def _references(record: Record, roles: dict[str, str], file: SourceFile, dataset: DataSet) -> None:
    source = file.path.name
    query_id, text = identifier(record, roles["query_id"]), content(record, roles["query_text"])
    split = file.split or split_of(record, roles["split"])
    positives = _known(record, roles["positive_document_ids"], source, dataset)
    if not positives:
        raise RowError("no known positive")
    if dataset.query((source, record.row), text, query_id) is None:
        return
    for doc_id in positives:
        dataset.positive(query_id, doc_id, 1.0, split)
    for doc_id in _known(record, roles["negative_document_ids"], source, dataset):
        dataset.negative(query_id, doc_id, None)


def _known(record: Record, column: str, source: str, dataset: DataSet) -> list[str]:
    """Return the ids of a list column that the corpus has; the others are set aside."""
    known = []
    for value in elements(record, column):
        try:
            doc_id = identifier(Record(record.row, {column: value}), column)
        except RowError as error:
            dataset.rejects.add(BadRow(source, record.row, str(error), str(value)))
            continue
        if dataset.has_document(doc_id):
            known.append(doc_id)
        else:
            dataset.rejects.add(BadRow(source, record.row, "unknown document", doc_id))
    return known


def _passages(record: Record, roles: dict[str, str], file: SourceFile, dataset: DataSet) -> None:
    source = file.path.name
    rejected: list[BadRow] = []
    sides = [
        tuple(_inline(elements(record, roles[role]), record.row, source, rejected))
        for role in ("positive_passages", "negative_passages")
    ]
    if not sides[0]:
        raise RowError("no usable positive passage")
    example = Example(
        origin=(source, record.row),
        query=content(record, roles["query"]),
        positives=sides[0],
        negatives=sides[1],
        query_id=identifier(record, roles["query_id"]),
        split=split_of(record, roles["split"]),
        rejected=tuple(rejected),
    )
    add_example(dataset, example, file.split)


def _inline(values: Iterable[object], row: int, source: str, rejected: list[BadRow]) -> Iterator[Passage]:
    for value in values:
        if not isinstance(value, dict):
            rejected.append(BadRow(source, row, "passage is not an object", str(value)))
            continue
        record = Record(row, value)
        try:
            yield Passage(
                content(record, "text"), None, optional_content(record, "title"), identifier(record, "docid")
            )
        except RowError as error:
            rejected.append(bad_row(source, record, error))


def write_tevatron(folder: Path, mined: MinedGroups, advance: Callable[[int], None]) -> dict[str, int]:
    """Write train.jsonl and corpus.jsonl.

    `text` is title and text, as models read them, and there is no `title`: Tevatron's training leaves titles out
    while its encoding puts them in front. Groups without a negative are left out: the trainer draws from an empty
    list. The format has no place for scores.

    Returns:
        Rows written, by file.
    """
    folder.mkdir()
    query_ids, doc_ids = Lookup(mined.data, "queries", "query_id"), Lookup(mined.data, "documents", "doc_id")
    groups = 0
    with (folder / "train.jsonl").open("wb") as file:
        for batch in mined.batches(advance):
            groups += _write_groups(file, batch, mined, query_ids, doc_ids)
    with (folder / "corpus.jsonl").open("wb") as file:
        documents = _write_corpus(file, mined.data, advance)
    return {"train.jsonl": groups, "corpus.jsonl": documents}


def _write_groups(
    file: BinaryIO, batch: GroupBatch, mined: MinedGroups, query_ids: Lookup, doc_ids: Lookup
) -> int:
    groups = np.flatnonzero(batch.negatives.counts_G)
    mined.left_out["groups without a negative"] += len(batch.query_G) - len(groups)
    pos, neg = (side.of(groups) for side in (batch.positives, batch.negatives))
    pos_ids, neg_ids = (iter(doc_ids.take(side.docs_P).to_pylist()) for side in (pos, neg))
    query_G = batch.query_G[groups]
    texts = zip(query_ids.take(query_G).to_pylist(), mined.query_texts.take(query_G).to_pylist(), strict=True)
    for row, (query_id, text) in enumerate(texts):
        line = {
            "query_id": query_id,
            "query_text": text,
            "positive_document_ids": [next(pos_ids) for _ in range(pos.counts_G[row])],
            "negative_document_ids": [next(neg_ids) for _ in range(neg.counts_G[row])],
        }
        file.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
    return len(groups)


def _write_corpus(file: BinaryIO, data: Artifact, advance: Callable[[int], None]) -> int:
    rows = 0
    for index in range(data.num_shards("documents")):
        table = data.read_shard("documents", index, columns=["doc_id", "title", "text"])
        for doc_id, text in zip(table.column("doc_id").to_pylist(), rendered_texts(table), strict=True):
            file.write(orjson.dumps({"docid": doc_id, "text": text}, option=orjson.OPT_APPEND_NEWLINE))
        rows += table.num_rows
        advance(table.num_rows)
    return rows
