"""Parquet files written row by row in bounded memory, and the rows that were set aside."""

from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.ingest.rows import BadRow
from pipelines.schemas import QUARANTINE

_MAX_ROWS = 65_536
_MAX_CHARACTERS = 16 * 2**20
_EXCERPT_CHARACTERS = 200


class ParquetRows:
    """A Parquet file in the making; the file appears with the first row.

    Args:
        path: The file.
        schema: Its columns.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.path, self.schema, self.num_rows = path, schema, 0
        self._writer: pq.ParquetWriter | None = None
        self._pending: list[tuple[object, ...]] = []
        self._characters = 0

    def add(self, *values: object) -> None:
        """Append one row, its values in the schema's order."""
        self._pending.append(values)
        self.num_rows += 1
        self._characters += sum(len(value) for value in values if isinstance(value, str))
        if len(self._pending) >= _MAX_ROWS or self._characters >= _MAX_CHARACTERS:
            self._flush()

    def _flush(self) -> None:
        if self._writer is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = pq.ParquetWriter(self.path, self.schema, compression="zstd")
        columns = list(zip(*self._pending, strict=True)) or [()] * len(self.schema)
        arrays = [pa.array(column, field.type) for column, field in zip(columns, self.schema, strict=True)]
        self._writer.write_table(pa.table(arrays, schema=self.schema))
        self._pending, self._characters = [], 0

    def close(self) -> None:
        """Finish the file, if there is one."""
        if self._pending:
            self._flush()
        if self._writer is not None:
            self._writer.close()


class Rejects:
    """Rows set aside, counted by reason and written with an excerpt; and rows that merged into earlier ones.

    Args:
        path: Parquet file of the rows, schema QUARANTINE.
    """

    def __init__(self, path: Path) -> None:
        self.counts: Counter[str] = Counter()
        self.merged: Counter[str] = Counter()
        self._rows = ParquetRows(path, QUARANTINE)

    def add(self, bad: BadRow) -> None:
        """Set one row, or one text of it, aside."""
        self.counts[f"{bad.source}: {bad.reason}"] += 1
        excerpt = bad.excerpt[:_EXCERPT_CHARACTERS].encode("utf-8", errors="backslashreplace").decode("utf-8")
        self._rows.add(bad.source, bad.row, bad.reason, excerpt)

    def merge(self, reason: str) -> None:
        """Count something that is there already, or that the layout has no place for."""
        self.merged[reason] += 1

    def close(self) -> None:
        """Finish the file, if anything was set aside."""
        self._rows.close()
