"""Ingest runs in the driver process: reading is bound by one disk and needs no cluster."""

import platform
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa

from cluster.artifacts import Artifact
from cluster.errors import UserError
from pipelines.ingest.beir import beir_files, read_beir
from pipelines.ingest.catalog import Catalog, read_catalog
from pipelines.ingest.config import (
    SPLITS,
    BeirConfig,
    DataConfig,
    DocstringsConfig,
    JudgedConfig,
    TextsConfig,
)
from pipelines.ingest.docstrings import package_versions, read_docstrings
from pipelines.ingest.pairs import pairs_file, read_pairs
from pipelines.ingest.readers import sha256_of
from pipelines.ingest.rows import BadRow, Collection, Document, Query
from pipelines.ingest.selection import Judgments
from pipelines.ingest.texts import TextStream, digest_of, num_rows, text_files
from pipelines.schemas import DOCUMENTS, QRELS, QUERIES, conform
from pipelines.steps import Step, Work, label_of

STAGE_VERSION = 2

QUARANTINE_ROWS = 65_536
"""Rows of a shard of the quarantine of a source that is not held in memory."""

_Row = TypeVar("_Row", Document, Query)


def ingest_step(config: DataConfig) -> Step:
    """Return the step that turns a source into documents, queries, qrels and quarantine.

    Raises:
        UserError: A file is missing, of an unknown kind or without a column it needs.
    """
    if isinstance(config, TextsConfig):
        return _texts_step(config)
    sources: dict[str, str]
    read: Callable[[], Collection]
    libraries: tuple[str, ...] = ()
    files: dict[str, Path] = {}
    if isinstance(config, DocstringsConfig):
        sources = package_versions(config.packages) | {"python": platform.python_version()}
        read = partial(read_docstrings, config)
        libraries = ("numpy", "regex", "scipy")
    elif isinstance(config, BeirConfig):
        files = beir_files(config)
        sources = _digests(files)
        read = partial(read_beir, files, config.task)
    else:
        files = pairs_file(config)
        sources = _digests(files)
        read = partial(read_pairs, config, files["pairs"])
        libraries = ("numpy", "regex", "scipy")
    # Where the files lie does not matter, what they hold does.
    identity = {"config": config.model_dump(mode="json", exclude={"path"}), "sources": sources}
    return Step(
        stage="ingest",
        label=label_of(config.name),
        stage_version=STAGE_VERSION,
        identity=identity,
        libraries=libraries,
        inputs={},
        run=partial(_of_planned, partial(_run, config, read, files)),
    )


def _texts_step(config: TextsConfig) -> Step:
    files = text_files(config)
    digest = digest_of(files)
    return Step(
        stage="ingest",
        label=label_of(config.name),
        stage_version=STAGE_VERSION,
        identity={"config": config.model_dump(mode="json", exclude={"path"}), "sources": {"texts": digest}},
        libraries=(),
        inputs={},
        run=partial(_of_planned, partial(_run_texts, config, files, digest)),
    )


class _SourceChangedError(Exception):
    """A source is no longer what the step was planned with."""


def _of_planned(read: Callable[[Work], Artifact], work: Work) -> Artifact:
    """Leave nothing of a source that changed: its shards would be taken for those of what was planned.

    Raises:
        UserError: It did.
    """
    try:
        return read(work)
    except _SourceChangedError as error:
        work.writer.discard_shards()
        raise UserError(
            "a source file changed while it was read", fix="run the same command again"
        ) from error


def _run_texts(config: TextsConfig, files: dict[str, Path], digest: str, work: Work) -> Artifact:
    stream = TextStream(config, files)
    total = num_rows(files)
    if total is not None:
        work.progress.total(total, "rows")
    finished = work.writer.finished("documents")
    num_documents = num_quarantine = first = seen = 0
    for shard in _cut(stream.documents(), config.shard_tokens):
        # What a run that was cut short wrote is the same: the fingerprint holds the digest of the files.
        if num_documents not in finished:
            work.writer.write_shard("documents", num_documents, _documents_table(config, first, shard))
        first, num_documents = first + len(shard), num_documents + 1
        if stream.num_waiting >= QUARANTINE_ROWS:
            work.writer.write_shard("quarantine", num_quarantine, stream.take_quarantined())
            num_quarantine += 1
        work.progress.advance(stream.num_rows - seen, note="documents")
        seen = stream.num_rows
    if not num_documents:
        raise UserError(
            "no usable documents",
            where=f"data {config.name}",
            got=", ".join(f"{reason} ({count} rows)" for reason, count in stream.counts.items()) or "no row",
            expected="at least one row with an id and a text",
            fix="mend the rows of the file, or name the right one",
        )
    work.writer.write_shard("queries", 0, QUERIES.empty_table())
    work.writer.write_shard("qrels", 0, QRELS.empty_table())
    work.writer.write_shard("quarantine", num_quarantine, stream.take_quarantined())
    if digest_of(files) != digest:
        raise _SourceChangedError
    summary = {
        "documents": stream.num_documents,
        "queries": 0,
        "judgments": 0,
        "splits": {},
        "quarantined": stream.counts.total(),
        "left_out": dict(stream.left_out),
        "notes": [],
        "files": len(files),
    }
    tables = {"documents": num_documents, "queries": 1, "qrels": 1, "quarantine": num_quarantine + 1}
    return work.commit(tables, summary, counters=stream.counts + stream.left_out)


def _digests(files: dict[str, Path]) -> dict[str, str]:
    return {role: sha256_of(path) for role, path in files.items()}


def _run(
    config: JudgedConfig, read: Callable[[], Collection], files: dict[str, Path], work: Work
) -> Artifact:
    work.progress.note("reading and checking")
    collection = read()
    catalog = read_catalog(collection, config)
    work.progress.total(len(catalog.doc_rows) + len(catalog.query_rows), "rows")
    num_documents = _write(
        work,
        "documents",
        _cut(_kept(collection.documents(), catalog.doc_rows), config.shard_tokens),
        partial(_documents_table, config),
    )
    num_queries = _write(
        work,
        "queries",
        _cut(_kept(collection.queries(), catalog.query_rows), config.query_shard_tokens),
        partial(_queries_table, config),
    )
    work.writer.write_shard("qrels", 0, _qrels_table(catalog.judgments))
    work.writer.write_shard("quarantine", 0, catalog.quarantine.table())
    if files and _digests(files) != work.step.identity["sources"]:
        raise _SourceChangedError
    return work.commit(
        {"documents": num_documents, "queries": num_queries, "qrels": 1, "quarantine": 1},
        summary=_summary(catalog) | collection.facts,
        counters=catalog.quarantine.counts() | catalog.cut,
    )


def _kept(rows: Iterable[_Row | BadRow], kept_rows: Iterable[int]) -> Iterator[_Row]:
    """Yield the rows whose numbers are in ``kept_rows``, ascending as the source is."""
    wanted = iter(kept_rows)
    following = next(wanted, None)
    for row in rows:
        if not isinstance(row, BadRow) and row.row == following:
            yield row
            following = next(wanted, None)
    if following is not None:
        raise _SourceChangedError


def estimated_tokens(text: str) -> int:
    """Return a quarter of the text's bytes in UTF-8: near enough in any script to cut even shards."""
    return len(text.encode()) // 4 + 1


def _cut(rows: Iterable[_Row], shard_tokens: int) -> Iterator[list[_Row]]:
    """Yield shards of whole rows; a shard ends with the row that fills it."""
    shard: list[_Row] = []
    tokens = 0
    for row in rows:
        shard.append(row)
        tokens += estimated_tokens(row.text)
        if isinstance(row, Document) and row.title:
            tokens += estimated_tokens(row.title)
        if tokens >= shard_tokens:
            yield shard
            shard, tokens = [], 0
    if shard:
        yield shard


def _write(
    work: Work, table: str, shards: Iterable[list[_Row]], to_table: Callable[[int, list[_Row]], pa.Table]
) -> int:
    """Write the shards and return how many there are."""
    first = num_shards = 0
    for shard in shards:
        work.writer.write_shard(table, num_shards, to_table(first, shard))
        first += len(shard)
        num_shards += 1
        work.progress.advance(len(shard), note=table)
    return num_shards


def _documents_table(config: DataConfig, first: int, shard: list[Document]) -> pa.Table:
    columns = {
        "doc": np.arange(first, first + len(shard)),
        "doc_id": pa.array([row.doc_id for row in shard], pa.string()),
        "title": pa.array([row.title for row in shard], pa.string()),
        "text": pa.array([row.text for row in shard], pa.string()),
        "dataset": pa.repeat(pa.scalar(config.name, pa.string()), len(shard)),
        "language": pa.repeat(pa.scalar(config.language, pa.string()), len(shard)),
    }
    return conform(pa.table(columns), DOCUMENTS)


def _queries_table(config: JudgedConfig, first: int, shard: list[Query]) -> pa.Table:
    columns = {
        "query": np.arange(first, first + len(shard)),
        "query_id": pa.array([row.query_id for row in shard], pa.string()),
        "text": pa.array([row.text for row in shard], pa.string()),
        "dataset": pa.repeat(pa.scalar(config.name, pa.string()), len(shard)),
        "task": pa.repeat(pa.scalar(config.task, pa.string()), len(shard)),
        "language": pa.repeat(pa.scalar(config.language, pa.string()), len(shard)),
    }
    return conform(pa.table(columns), QUERIES)


def _qrels_table(judgments: Judgments) -> pa.Table:
    names = np.array(SPLITS, dtype=object)
    columns = {
        "query": judgments.query,
        "doc": judgments.doc,
        "relevance": judgments.relevance,
        "split": pa.array(names[judgments.split], pa.string()),
    }
    return conform(pa.table(columns), QRELS)


def _summary(catalog: Catalog) -> dict[str, object]:
    judgments = catalog.judgments
    splits: dict[str, dict[str, int]] = {}
    for code, split in enumerate(SPLITS):
        mine = judgments.split == code
        splits[split] = {"queries": len(np.unique(judgments.query[mine])), "judgments": int(mine.sum())}
    notes = [f"no query in {split}" for split, counts in splits.items() if not counts["queries"]]
    train, held_out = judgments.split == SPLITS.index("train"), judgments.split == SPLITS.index("test")
    shared_queries = len(np.intersect1d(judgments.query[train], judgments.query[held_out]))
    shared_documents = len(np.intersect1d(judgments.doc[train], judgments.doc[held_out]))
    if shared_queries:
        notes.append(f"{shared_queries} queries are in train and in test")
    if shared_documents:
        notes.append(f"{shared_documents} documents are positives in train and in test")
    return {
        "documents": len(catalog.doc_rows),
        "queries": len(catalog.query_rows),
        "judgments": len(judgments.query),
        "splits": splits,
        "quarantined": len(catalog.quarantine.rows),
        "left_out": catalog.cut,
        "notes": notes,
    }
