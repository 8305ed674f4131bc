"""BEIR's layout as a collection: corpus, queries and one file of judgments a split."""

from collections.abc import Iterator
from pathlib import Path

from cluster.errors import UserError
from pipelines.ingest.config import SPLITS, BeirConfig, BeirFiles, Task
from pipelines.ingest.readers import existing, read_records, require_columns
from pipelines.ingest.rows import BadRow, Collection, Document, Judgment, Query
from pipelines.ingest.validate import (
    SPLIT_NAMES,
    RowError,
    bad_row,
    content,
    identifier,
    optional_content,
    relevance,
)

_DOCUMENT_COLUMNS = ("_id", "title", "text")
_QUERY_COLUMNS = ("_id", "text")
_QREL_COLUMNS = ("query-id", "corpus-id", "score")
_LAYOUT = "corpus.jsonl, queries.jsonl and qrels/*.tsv, or .parquet each"


def beir_files(config: BeirConfig) -> dict[str, Path]:
    """Return the files by role: corpus, queries, qrels/<split>.

    Raises:
        UserError: One is missing or lacks a column.
    """
    if isinstance(config.path, BeirFiles):
        files = {
            "corpus": existing(Path(config.path.corpus), "corpus"),
            "queries": existing(Path(config.path.queries), "queries"),
        }
        for split in SPLITS:
            if split in config.path.qrels:
                files[f"qrels/{split}"] = existing(Path(config.path.qrels[split]), "qrels")
    else:
        files = _files_in(Path(config.path))
    for role, path in files.items():
        if role.startswith("qrels/"):
            require_columns(path, _QREL_COLUMNS, "the header line is: query-id, corpus-id, score")
        else:
            required = _QUERY_COLUMNS if role == "queries" else ("_id", "text")
            require_columns(path, required, "rename the columns, or use kind: pairs")
    return files


def _files_in(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        existing(folder / "corpus.jsonl", "data set directory")
    files = {role: _either(folder, role) for role in ("corpus", "queries")}
    qrels = sorted(path for path in (folder / "qrels").glob("*") if path.suffix in (".tsv", ".parquet"))
    if not qrels:
        raise UserError(
            "no judgments", where=str(folder / "qrels"), got="no .tsv or .parquet", expected=_LAYOUT
        )
    found: dict[str, Path] = {}
    for path in qrels:
        split = SPLIT_NAMES.get(path.stem)
        if split is None or split in found:
            raise UserError(
                "unknown split" if split is None else f"{found[split].name} is {split} as well",
                where=str(path),
                got=path.stem,
                expected="one file for each of train, dev, test",
                fix="rename or remove it, or name the files: path: {corpus, queries, qrels: {test: ...}}",
            )
        found[split] = path
    files |= {f"qrels/{split}": found[split] for split in SPLITS if split in found}
    return files


def _either(folder: Path, role: str) -> Path:
    candidates = [folder / f"{role}.jsonl", folder / f"{role}.parquet"]
    found = [path for path in candidates if path.is_file()]
    if len(found) == 2:
        raise UserError(
            f"both {role}.jsonl and {role}.parquet exist",
            where=str(folder),
            expected="one of them",
            fix="remove one, or give the files by name: path: {corpus: ..., queries: ..., qrels: {...}}",
        )
    return found[0] if found else existing(candidates[0], role)


def read_beir(files: dict[str, Path], task: Task = "retrieval") -> Collection:
    """Return the collection of the files by role; the task decides which judgments count."""
    qrels = {role.removeprefix("qrels/"): path for role, path in files.items() if role.startswith("qrels/")}
    return Collection(
        documents=lambda: _documents(files["corpus"]),
        queries=lambda: _queries(files["queries"]),
        judgments=lambda: (row for split, path in qrels.items() for row in _judgments(path, split, task)),
    )


def _documents(path: Path) -> Iterator[Document | BadRow]:
    for record in read_records(path, path.name, _DOCUMENT_COLUMNS):
        if isinstance(record, BadRow):
            yield record
            continue
        try:
            yield Document(
                path.name,
                record.row,
                identifier(record, "_id"),
                optional_content(record, "title"),
                content(record, "text"),
            )
        except RowError as error:
            yield bad_row(path.name, record, error)


def _queries(path: Path) -> Iterator[Query | BadRow]:
    for record in read_records(path, path.name, _QUERY_COLUMNS):
        if isinstance(record, BadRow):
            yield record
            continue
        try:
            yield Query(path.name, record.row, identifier(record, "_id"), content(record, "text"))
        except RowError as error:
            yield bad_row(path.name, record, error)


def _judgments(path: Path, split: str, task: Task) -> Iterator[Judgment | BadRow]:
    source = f"qrels/{path.name}"
    for record in read_records(path, source, _QREL_COLUMNS):
        if isinstance(record, BadRow):
            yield record
            continue
        try:
            yield Judgment(
                source,
                record.row,
                identifier(record, "query-id"),
                identifier(record, "corpus-id"),
                relevance(record, "score", task),
                split,
            )
        except RowError as error:
            yield bad_row(source, record, error)
