"""What a data set holds: counts, lengths in words, splits, examples, what was set aside; nothing is written."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cluster.artifacts import Artifact
from pipelines.exchange.judged import Judged
from pipelines.exchange.lookup import Lookup
from pipelines.ingest.beir import beir_files, read_beir
from pipelines.ingest.config import SPLITS, BeirConfig
from pipelines.ingest.rows import BadRow, Collection, Document, Quarantine, Query
from pipelines.ingest.seen import SeenIds
from pipelines.ingest.validate import good_documents, good_judgments, good_queries

NUM_EXAMPLES = 3

_Row = TypeVar("_Row", Document, Query)


@dataclass(frozen=True)
class Survey:
    """What a data set holds.

    Args:
        name: What it is called.
        document_words: int64 [N], words of title and text of each document, split at white space.
        query_words: int64 [Q].
        splits: Split -> queries, judgments, documents judged relevant.
        relevance: Value -> judgments that have it, at most ten of them.
        examples: (split, query, id of a relevant document, its text).
        set_aside: What could not be used or was left out, by reason.
        negatives: Rows of negatives.parquet; None where there is no such file.
    """

    name: str
    document_words: np.ndarray
    query_words: np.ndarray
    splits: dict[str, tuple[int, int, int]]
    relevance: dict[float, int]
    examples: list[tuple[str, str, str, str]]
    set_aside: dict[str, int]
    negatives: int | None = None


def survey_artifact(data: Artifact, advance: Callable[[int], None]) -> Survey:
    """Survey an ingest artifact, shard by shard.

    Args:
        data: The artifact.
        advance: Told how many rows were read.
    """
    judged = {split: Judged(data, split) for split in SPLITS}
    splits: dict[str, tuple[int, int, int]] = {
        split: _counts(each.query_J, each.doc_J) for split, each in judged.items()
    }
    relevance = np.concatenate([each.relevance_J for each in judged.values()])
    doc_ids = Lookup(data, "documents", "doc_id")
    examples: list[tuple[str, str, str, str]] = []
    for split, each in judged.items():
        for row in range(min(len(each.query_J), NUM_EXAMPLES - len(examples))):
            query, doc = each.query_J[row : row + 1], each.doc_J[row : row + 1]
            found = (each.query_texts.take(query), doc_ids.take(doc), each.document_texts.take(doc))
            examples.append((split, *(values[0].as_py() for values in found)))
    return Survey(
        name=data.manifest.label,
        document_words=_words(data, "documents", ("title", "text"), advance),
        query_words=_words(data, "queries", ("text",), advance),
        splits=splits,
        relevance=_values(relevance),
        examples=examples,
        set_aside={reason: count for reason, count in data.manifest.counters.items() if count},
    )


def _words(
    data: Artifact, table: str, columns: tuple[str, ...], advance: Callable[[int], None]
) -> np.ndarray:
    parts = [np.zeros(0, np.int64)]
    for index in range(data.num_shards(table)):
        shard = data.read_shard(table, index, columns=columns)
        counts = [_words_of(shard.column(name)) for name in columns]
        parts.append(np.sum(counts, axis=0))
        advance(shard.num_rows)
    return np.concatenate(parts)


def _words_of(texts: pa.ChunkedArray) -> np.ndarray:
    trimmed = pc.utf8_trim_whitespace(pc.fill_null(texts, ""))
    words = pc.list_value_length(pc.utf8_split_whitespace(trimmed))
    return pc.if_else(pc.equal(trimmed, ""), 0, words).to_numpy().astype(np.int64)


def survey_directory(path: Path, advance: Callable[[int], None]) -> Survey:
    """Survey a directory in BEIR's layout, checked as ingest checks it; ids are held in memory, texts are not.

    Raises:
        UserError: A file is missing or lacks a column.
    """
    collection = read_beir(beir_files(BeirConfig(kind="beir", name="data", path=str(path))))
    survey = survey_collection(collection, path.name, advance)
    negatives = path / "negatives.parquet"
    if not negatives.is_file():
        return survey
    with pq.ParquetFile(negatives) as file:
        return Survey(**{**vars(survey), "negatives": file.metadata.num_rows})


def survey_collection(collection: Collection, name: str, advance: Callable[[int], None]) -> Survey:
    """Survey what ingest would read."""
    quarantine = Quarantine()
    quarantine.rows.extend(collection.bad)
    documents, queries = SeenIds(), SeenIds()
    good = good_documents(_told(collection.documents(), advance), quarantine, documents)
    document_words = _counted(f"{row.title or ''} {row.text}" for row in good)
    asked = good_queries(_told(collection.queries(), advance), quarantine, queries)
    query_words = _counted(row.text for row in asked)
    judged = list(good_judgments(collection.judgments(), queries, documents, quarantine))
    judgments = [row for row, _, _ in judged]
    splits: dict[str, tuple[int, int, int]] = {}
    for split in SPLITS:
        mine = [(query, document) for row, query, document in judged if row.split == split]
        pairs = np.array(mine, np.int64).reshape(-1, 2)
        splits[split] = _counts(pairs[:, 0], pairs[:, 1])
    shown = sorted(judgments, key=lambda row: SPLITS.index(row.split))[:NUM_EXAMPLES]
    texts = _texts(collection, {row.query_id for row in shown}, {row.doc_id for row in shown})
    examples = [
        (row.split, texts["query", row.query_id], row.doc_id, texts["document", row.doc_id]) for row in shown
    ]
    unjudged = len(queries) - len({row.query_id for row in judgments})
    set_aside = quarantine.counts() | ({"queries without a positive": unjudged} if unjudged else {})
    relevance = np.array([row.relevance for row in judgments], np.float32)
    return Survey(name, document_words, query_words, splits, _values(relevance), examples, set_aside)


def _told(rows: Iterator[_Row | BadRow], advance: Callable[[int], None]) -> Iterator[_Row | BadRow]:
    for row in rows:
        advance(1)
        yield row


def _counted(texts: Iterable[str]) -> np.ndarray:
    """Return the words of every text, int64."""
    return np.fromiter((len(text.split()) for text in texts), np.int64)


def _texts(collection: Collection, query_ids: set[str], doc_ids: set[str]) -> dict[tuple[str, str], str]:
    found: dict[tuple[str, str], str] = {}
    for query in collection.queries():
        if isinstance(query, Query) and query.query_id in query_ids:
            found.setdefault(("query", query.query_id), query.text)
    for document in collection.documents():
        if isinstance(document, Document) and document.doc_id in doc_ids:
            text = f"{document.title} {document.text}" if document.title else document.text
            found.setdefault(("document", document.doc_id), text)
    return found


def _counts(query_J: np.ndarray, doc_J: np.ndarray) -> tuple[int, int, int]:
    return len(np.unique(query_J)), len(query_J), len(np.unique(doc_J))


def _values(relevance_J: np.ndarray) -> dict[float, int]:
    values, counts = np.unique(relevance_J, return_counts=True)
    most = np.sort(np.argsort(-counts, kind="stable")[:10])
    return {float(values[index]): int(counts[index]) for index in most}
