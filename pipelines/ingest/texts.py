"""A corpus alone: tables of texts, one file or a thousand, streamed once and never whole in memory."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from glob import has_magic
from os.path import commonpath
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.artifacts import fingerprint
from cluster.errors import UserError
from pipelines.ingest.config import TextsConfig
from pipelines.ingest.readers import existing, read_records, require_columns, sha256_of
from pipelines.ingest.rows import EXCERPT_CHARACTERS, BadRow, Document, Quarantine
from pipelines.ingest.seen import NEW, SeenIds
from pipelines.ingest.validate import (
    BATCH_ROWS,
    REPEATS,
    RowError,
    bad_row,
    content,
    identifier,
    optional_content,
)

SUFFIXES = (".parquet", ".jsonl", ".csv", ".tsv")
_READERS = 8
BEYOND_LIMIT = "left out: documents beyond limit"


def text_files(config: TextsConfig) -> dict[str, Path]:
    """Return the files by name, in the order in which they are read: that of their names.

    Raises:
        UserError: There is none, they are of several kinds, or one lacks a column.
    """
    files = _named(config.path)
    kinds = sorted({path.suffix for path in files.values()})
    if len(kinds) != 1:
        raise UserError(
            "files of several kinds" if kinds else "no file of texts",
            where=config.path,
            got=" ".join(kinds) or "no " + " ".join(SUFFIXES),
            expected="files of one kind: " + " ".join(SUFFIXES),
            fix="write a pattern that matches one kind, such as folder/*.parquet",
        )
    columns = config.columns
    required = (columns.text,) if columns.id is None else (columns.id, columns.text)
    for path in files.values():
        require_columns(path, required, "name the file's own columns: data.columns.id, data.columns.text")
    return files


def _named(pattern: str) -> dict[str, Path]:
    path = Path(pattern).expanduser()
    if path.is_dir():
        found = [file for file in path.rglob("*") if file.suffix in SUFFIXES and not _is_hidden(file, path)]
        return {file.relative_to(path).as_posix(): file for file in sorted(found)}
    if has_magic(pattern) and not path.exists():
        first = next(number for number, part in enumerate(path.parts) if has_magic(part))
        matched = sorted(Path(*path.parts[:first]).glob("/".join(path.parts[first:])))
        found = [file for file in matched if file.suffix in SUFFIXES and file.is_file()]
        folder = commonpath([file.parent for file in found]) if found else ""
        return {file.relative_to(folder).as_posix(): file for file in found}
    return {path.name: existing(path, "table of texts")}


def _is_hidden(file: Path, folder: Path) -> bool:
    # As Spark, Hive and Ray leave files beside the data: _temporary/, .part-0.parquet.crc.
    return any(part.startswith((".", "_")) for part in file.relative_to(folder).parts)


def digest_of(files: dict[str, Path]) -> str:
    """Return one digest of the names and the bytes of all files."""
    with ThreadPoolExecutor(_READERS) as readers:
        digests = list(readers.map(sha256_of, files.values()))
    return fingerprint({"files": [list(pair) for pair in zip(files, digests, strict=True)]})


def num_rows(files: dict[str, Path]) -> int | None:
    """Return how many rows Parquet files say they have; None for files that do not say."""
    if any(path.suffix != ".parquet" for path in files.values()):
        return None
    return sum(pq.read_metadata(path).num_rows for path in files.values())


class TextStream:
    """One pass over the files: usable documents come out, all others are counted.

    Args:
        config: Columns and limit.
        files: What to read, by name.
    """

    def __init__(self, config: TextsConfig, files: dict[str, Path]) -> None:
        self.config = config
        self.files = files
        self.num_rows = 0
        self.num_documents = 0
        self.left_out: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()
        self._quarantine = Quarantine()
        self._seen = SeenIds()

    def documents(self) -> Iterator[Document]:
        """Yield the documents to keep, in the order of the files: the first of every id, up to the limit."""
        batch: list[Document] = []
        for row in self._rows():
            if isinstance(row, BadRow):
                self._set_aside(row)
                continue
            batch.append(row)
            if len(batch) == BATCH_ROWS:
                yield from self._judged(batch)
                batch = []
        yield from self._judged(batch)

    def take_quarantined(self) -> pa.Table:
        """Return the rows set aside since the last call, schema QUARANTINE."""
        table = self._quarantine.table()
        self._quarantine.rows.clear()
        return table

    @property
    def num_waiting(self) -> int:
        """How many rows ``take_quarantined`` would return."""
        return len(self._quarantine.rows)

    def _rows(self) -> Iterator[Document | BadRow]:
        columns = self.config.columns
        wanted = tuple(name for name in (columns.id, columns.title, columns.text) if name is not None)
        for name, path in self.files.items():
            for record in read_records(path, name, wanted):
                self.num_rows += 1
                if isinstance(record, BadRow):
                    yield record
                    continue
                try:
                    doc_id = f"{name}:{record.row}" if columns.id is None else identifier(record, columns.id)
                    title = None if columns.title is None else optional_content(record, columns.title)
                    yield Document(name, record.row, doc_id, title, content(record, columns.text))
                except RowError as error:
                    yield bad_row(name, record, error)

    def _judged(self, batch: list[Document]) -> Iterator[Document]:
        texts = [f"{row.title or ''}\n{row.text}" for row in batch]
        verdicts = self._seen.judge([row.doc_id for row in batch], texts)
        limit = self.config.limit
        for row, verdict in zip(batch, verdicts.tolist(), strict=True):
            if verdict != NEW:
                self._set_aside(BadRow(row.source, row.row, REPEATS[verdict], f"{row.doc_id}\t{row.text}"))
            elif limit is not None and self.num_documents >= limit:
                self.left_out[BEYOND_LIMIT] += 1
            else:
                self.num_documents += 1
                yield row

    def _set_aside(self, row: BadRow) -> None:
        self.counts[f"{row.source}: {row.reason}" if len(self.files) == 1 else row.reason] += 1
        self._quarantine.add(row.source, row.row, row.reason, row.excerpt[:EXCERPT_CHARACTERS])
