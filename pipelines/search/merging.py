"""What all searches by tiles share: which tiles are open, and how finished tiles become candidates."""

import json
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa

from cluster.artifacts import ArtifactWriter, Shard
from pipelines import schemas
from pipelines.search.grid import Grid
from pipelines.search.tiles import merge_tiles
from pipelines.steps import Work
from pipelines.waves import run_tasks


@dataclass(frozen=True)
class OpenWork:
    """What a search has still to do.

    Args:
        ranges: Ranges of queries whose candidates are missing; each has a query to search.
        tiles: A row a missing tile of these ranges: its number, group and part.
    """

    ranges: list[int]
    tiles: list[dict[str, Any]]


def open_work(work: Work, grid: Grid, table: str) -> OpenWork:
    """Find what is missing, and write the candidates of the ranges without a query: they need no actor.

    Args:
        work: The running step.
        grid: Its tiles.
        table: What the tiles are called.
    """
    ranges = open_ranges(work, {part.query_range for part in grid.parts}, grid.num_ranges)
    parts = [number for number, part in enumerate(grid.parts) if part.query_range in set(ranges)]
    absent = set(work.writer.missing(table, grid.num_tiles)) if ranges else set()
    tiles = [
        {"tile": grid.tile(group, part), "group": group, "part": part}
        for group in range(len(grid.document_groups))
        for part in parts
        if grid.tile(group, part) in absent
    ]
    total = grid.num_tiles + grid.num_ranges
    work.progress.total(total, "tiles", done=total - len(tiles) - len(ranges))
    return OpenWork(ranges, tiles)


def open_ranges(work: Work, having: set[int], num_ranges: int) -> list[int]:
    """Return the ranges whose candidates are missing, after writing those that are empty.

    Args:
        work: The running step.
        having: The ranges with a query to search.
        num_ranges: Of all queries.
    """
    missing = work.writer.missing("candidates", num_ranges)
    for index in missing:
        if index not in having:
            work.writer.write_shard("candidates", index, schemas.CANDIDATES.empty_table())
    return [index for index in missing if index in having]


def merge_ranges(work: Work, grid: Grid, ranges: list[int], table: str, depth: int) -> None:
    """Write the candidates of ``ranges`` from their finished tiles.

    Args:
        work: The running step.
        grid: Its tiles.
        ranges: Which to write; each has a query.
        table: What the tiles are called.
        depth: Candidates kept for each query.
    """
    if not ranges:
        return
    finished = work.writer.finished(table)
    parts: dict[int, list[list[dict[str, object]]]] = {index: [] for index in ranges}
    for number, part in enumerate(grid.parts):
        if part.query_range in parts:
            groups = range(len(grid.document_groups))
            tiles = [finished[grid.tile(group, number)].model_dump(mode="json") for group in groups]
            parts[part.query_range].append(tiles)
    rows = [{"range": index, "parts": json.dumps(tiles)} for index, tiles in parts.items()]
    for _ in run_tasks(work.session, rows, partial(merge_range, writer=work.writer, depth=depth)):
        work.progress.advance()


def merge_range(row: dict[str, Any], writer: ArtifactWriter, depth: int) -> dict[str, Any]:
    """Merge the tiles of one query range, part by part and one tile at a time, and write its candidates."""
    merged = []
    for part in json.loads(row["parts"]):
        tiles = (writer.read_finished(Shard.model_validate(tile)) for tile in part)
        merged.append(merge_tiles(tiles, depth))
    # One chunk: the bytes must not tell how many parts there were.
    candidates = pa.concat_tables(merged).combine_chunks()
    return {"rows": writer.write_shard("candidates", row["range"], candidates).rows}
