"""A quick look into a file of texts: how many rows it has, and a few hundred of them from all over it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import orjson

from pipelines.ingest.readers import Record, read_records

SAMPLE_ROWS = 400
WHOLE_BYTES = 32 * 2**20
"""Files up to this size are read to the end, so that their count is exact."""
PLACES = 40
"""Places at which a larger file is looked into."""


@dataclass(frozen=True)
class Look:
    """What a quick look finds.

    Args:
        count: Rows of the file; an estimate where ``is_exact`` is false.
        rows: A sample, by column.
        is_exact: Whether every row was counted.
    """

    count: int
    rows: tuple[Mapping[str, Any], ...]
    is_exact: bool


def look_at(path: Path, columns: Sequence[str]) -> Look:
    """Look into a .parquet, .jsonl, .csv or .tsv file.

    Args:
        path: The file, known to exist.
        columns: What is wanted; absent ones are left out.
    """
    if path.suffix == ".parquet":
        return _parquet(path, columns)
    if path.stat().st_size <= WHOLE_BYTES:
        records = read_records(path, path.name, tuple(columns))
        rows = [record.values for record in records if isinstance(record, Record)]
        return Look(len(rows), tuple(spread(rows, SAMPLE_ROWS)), is_exact=True)
    return _json_lines(path) if path.suffix == ".jsonl" else _head(path, columns)


def spread(rows: Sequence[Any], wanted: int) -> list[Any]:
    """Return at most ``wanted`` of the rows, evenly spaced."""
    step = max(1, -(-len(rows) // wanted))
    return list(rows[::step])


def _parquet(path: Path, columns: Sequence[str]) -> Look:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        count, groups = file.metadata.num_rows, file.metadata.num_row_groups
        present = [name for name in file.schema_arrow.names if name in columns]
        if path.stat().st_size <= WHOLE_BYTES:
            table = file.read(columns=present)
            return Look(
                count, tuple(table.take(spread(range(count), SAMPLE_ROWS)).to_pylist()), is_exact=True
            )
        chosen = spread(range(groups), PLACES)
        rows: list[dict[str, Any]] = []
        for group in chosen:
            batches = file.iter_batches(SAMPLE_ROWS // len(chosen) + 1, row_groups=[group], columns=present)
            rows += next(batches).to_pylist()
        return Look(count, tuple(rows), is_exact=True)


def _json_lines(path: Path) -> Look:
    """Read some lines at evenly spaced places, each of which stands for its share of the file's bytes.

    Of the line that a place falls into the rest is skipped: the line that holds a random byte is longer than others,
    the one after it is not. Places of short lines stand for more rows, and give more to the sample.
    """
    size = path.stat().st_size
    places: list[tuple[float, list[dict[str, Any]]]] = []
    with path.open("rb") as file:
        for place in range(PLACES):
            file.seek(size * (2 * place + 1) // (2 * PLACES))
            file.readline()
            lines = list(islice(file, SAMPLE_ROWS // PLACES))
            read = sum(map(len, lines))
            if lines:
                places.append((size / PLACES * len(lines) / read, list(_objects(lines))))
    densest = max((count for count, _ in places), default=1.0)
    rows = [row for count, found in places for row in found[: max(1, round(len(found) * count / densest))]]
    return Look(round(sum(count for count, _ in places)), tuple(rows), is_exact=False)


def _objects(lines: Sequence[bytes]) -> Iterator[dict[str, Any]]:
    for line in lines:
        try:
            values = orjson.loads(line)
        except orjson.JSONDecodeError:
            # Ingest sets it aside and counts it; a sample can do without.
            continue
        if isinstance(values, dict):
            yield values


def _head(path: Path, columns: Sequence[str]) -> Look:
    """Read the first rows of a CSV or TSV, whose cells may hold line breaks, and count on from their size."""
    records = read_records(path, path.name, tuple(columns))
    rows = [record.values for record in islice(records, 10 * SAMPLE_ROWS) if isinstance(record, Record)]
    mean = sum(len("\t".join(map(str, row.values())).encode()) + 1 for row in rows) / max(1, len(rows))
    return Look(round(path.stat().st_size / max(1.0, mean)), tuple(spread(rows, SAMPLE_ROWS)), is_exact=False)
