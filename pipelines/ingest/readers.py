"""Files as streams of records: JSON lines, CSV, TSV and Parquet, one record in memory at a time."""

import csv
import difflib
import hashlib
from collections.abc import Iterator, Mapping
from io import TextIOWrapper
from pathlib import Path
from typing import BinaryIO

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from cluster.errors import UserError
from pipelines.ingest.rows import BadRow

_BATCH_ROWS = 4096
NOT_UTF8 = "not UTF-8"
BROKEN_JSON = "broken JSON"
BROKEN_ROW = "broken quoting or wrong number of cells"


class Record:
    """One row of a file: its values by column, and its line (or row of a Parquet file) from 1."""

    __slots__ = ("row", "values")

    def __init__(self, row: int, values: Mapping[str, object]) -> None:
        self.row = row
        self.values = values


def existing(path: Path, what: str) -> Path:
    """Return ``path``, a file that exists.

    Raises:
        UserError: It does not; names the nearest name in its folder.
    """
    if path.is_file():
        return path
    folder = path.parent
    while not folder.is_dir():
        folder = folder.parent
    names = sorted(entry.name for entry in folder.iterdir())
    listing = ", ".join(names[:8]) or "nothing"
    near = difflib.get_close_matches(path.relative_to(folder).parts[0], names, n=1, cutoff=0.5)
    raise UserError(
        f"{what} not found" if not path.is_dir() else f"{what} is a directory",
        where=str(path),
        expected="a file",
        fix=f"did you mean {folder / near[0]}?" if near else f"{folder} holds: {listing}",
    )


def sha256_of(path: Path) -> str:
    """Return the digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def columns_of(path: Path) -> list[str] | None:
    """Return the column names of a CSV, TSV or Parquet file; None for JSON lines, which have none.

    Raises:
        UserError: The file is of an unknown kind, or not what its name says.
    """
    match path.suffix:
        case ".parquet":
            return list(_parquet(path).schema_arrow.names)
        case ".csv" | ".tsv":
            with path.open("rb") as file:
                return next(_cells(path, file), (1, None))[1] or []
        case ".jsonl":
            return None
    raise UserError(
        "unknown kind of file",
        where=str(path),
        got=path.suffix or "no suffix",
        expected=".jsonl .csv .tsv .parquet",
    )


def require_columns(path: Path, required: tuple[str, ...], fix: str) -> None:
    """Refuse a file that lacks a column, before anything is read.

    Raises:
        UserError: Names the file, its columns and the missing ones.
    """
    columns = columns_of(path)
    if columns is None:
        return
    missing = [name for name in required if name not in columns]
    if missing:
        raise UserError(
            f"missing column {', '.join(missing)}",
            where=str(path),
            got=", ".join(columns) or "an empty file",
            expected=", ".join(required),
            fix=fix,
        )


def read_records(path: Path, source: str, columns: tuple[str, ...]) -> Iterator[Record | BadRow]:
    """Stream the rows of a file; a row that cannot be read comes as a BadRow.

    Args:
        path: A .jsonl, .csv, .tsv (both with a header line) or .parquet file.
        source: Name of the file in the quarantine table.
        columns: What is wanted of it; a Parquet file's other columns are not read.
    """
    match path.suffix:
        case ".parquet":
            return _read_parquet(path, source, columns)
        case ".csv" | ".tsv":
            return _read_cells(path, source)
        case _:
            return _read_json_lines(path, source)


def _parquet(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (OSError, ValueError) as error:
        raise UserError("not a Parquet file", where=str(path), got=str(error)) from error


def _read_parquet(path: Path, source: str, columns: tuple[str, ...]) -> Iterator[Record | BadRow]:
    row = 0
    with _parquet(path) as file:
        present = [name for name in file.schema_arrow.names if name in columns]
        for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=present):
            for values in _values_of(batch):
                row += 1
                if isinstance(values, str):
                    yield BadRow(source, row, NOT_UTF8, values)
                else:
                    yield Record(row, values)


def _values_of(batch: pa.RecordBatch) -> Iterator[dict[str, object] | str]:
    """Yield the rows of a batch; a row whose bytes are not UTF-8 comes as a description of it."""
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError:
        for index in range(batch.num_rows):
            try:
                yield batch.slice(index, 1).to_pylist()[0]
            except UnicodeDecodeError as error:
                yield error.object.decode("utf-8", errors="backslashreplace")


def _read_json_lines(path: Path, source: str) -> Iterator[Record | BadRow]:
    with path.open("rb") as file:
        for row, line in enumerate(file, start=1):
            content = line.removeprefix(b"\xef\xbb\xbf") if row == 1 else line
            if not content.strip():
                continue
            try:
                text = content.decode("utf-8")
            except UnicodeDecodeError:
                yield BadRow(source, row, NOT_UTF8, content.decode("utf-8", errors="backslashreplace"))
                continue
            try:
                values = orjson.loads(text)
            except orjson.JSONDecodeError:
                yield BadRow(source, row, BROKEN_JSON, text)
                continue
            if isinstance(values, dict):
                yield Record(row, values)
            else:
                yield BadRow(source, row, "not a JSON object", text)


def _cells(path: Path, file: BinaryIO) -> Iterator[tuple[int, list[str] | None]]:
    """Yield (line, cells) of every row, header first; None in place of cells where the quoting is broken."""
    # The default limit of 131,072 characters a cell would end the whole read at one long document.
    csv.field_size_limit(2**31 - 1)
    # Bytes that are not UTF-8 come through as lone surrogates, so that one bad row does not end the file.
    text = TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
    rows = (
        csv.reader(text, strict=True)
        if path.suffix == ".csv"
        else csv.reader(text, delimiter="\t", quoting=csv.QUOTE_NONE)
    )
    while True:
        start = rows.line_num + 1
        try:
            cells = next(rows, None)
        except csv.Error as error:
            if "unexpected end" in str(error):
                raise UserError(
                    "a quote is opened and never closed",
                    where=f"{path}, line {start}",
                    fix='close it, or write a quote inside a quoted cell as ""',
                ) from error
            yield start, None
            continue
        if cells is None:
            return
        yield start, cells


def _read_cells(path: Path, source: str) -> Iterator[Record | BadRow]:
    with path.open("rb") as file:
        rows = _cells(path, file)
        header = next(rows, (1, []))[1] or []
        for row, cells in rows:
            if cells is None:
                yield BadRow(source, row, BROKEN_ROW, "")
            elif not cells:
                continue
            elif not all(map(is_utf8, cells)):
                raw = "\t".join(cells).encode("utf-8", errors="surrogateescape")
                yield BadRow(source, row, NOT_UTF8, raw.decode("utf-8", errors="backslashreplace"))
            elif len(cells) != len(header):
                yield BadRow(source, row, BROKEN_ROW, "\t".join(cells))
            else:
                yield Record(row, dict(zip(header, cells, strict=True)))


def is_utf8(text: str) -> bool:
    """Return whether ``text`` can be written as UTF-8, that is, holds no lone surrogate."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
