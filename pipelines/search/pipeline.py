"""The Ray graph of an exact search: a row is a tile of the grid; then a row is a query range to merge."""

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from cluster.artifacts import Artifact, ArtifactWriter, Shard
from pipelines.search.config import SearchConfig
from pipelines.search.grid import Grid, plan_grid
from pipelines.search.tiles import merge_tiles, range_queries
from pipelines.steps import Step, Work
from pipelines.waves import run_waves

if TYPE_CHECKING:
    from ray.data import Dataset

STAGE_VERSION = 1


def search_step(data: Step, embeddings: Step, split: str, config: SearchConfig) -> Step:
    """Find the best documents for the queries of one split, by the embeddings of one model.

    Returns:
        A step whose artifact has the table `candidates`: `retrieval_depth` ranks a query, positives marked, and the
        scores of the positives that lie deeper. It depends on the depth, not on the backend or the grid.
    """
    return Step(
        stage="search",
        label=f"{embeddings.label}-{split}"[:80],
        stage_version=STAGE_VERSION,
        # The grid says what shard i holds, so a search that goes on must find the same one.
        identity={"split": split, **config.model_dump(mode="json", exclude={"backend"})},
        libraries=(),
        inputs={"data": data, "embeddings": embeddings},
        run=partial(_run, split=split, config=config),
        count_shards=partial(_count_shards, config=config),
    )


def _grid_of(embeddings: Artifact, config: SearchConfig) -> Grid:
    document_rows, query_rows = (np.diff(embeddings.first_rows(table)) for table in ("documents", "queries"))
    dimension = int(embeddings.manifest.summary["dimension"])  # type: ignore[arg-type]
    group_rows = config.group_mb * 2**20 // (4 * dimension)
    return plan_grid(document_rows, query_rows, group_rows, config.range_queries)


def _count_shards(inputs: Mapping[str, Artifact], config: SearchConfig) -> int:
    grid = _grid_of(inputs["embeddings"], config)
    return grid.num_tiles + len(grid.query_ranges)


def _run(work: Work, split: str, config: SearchConfig) -> Artifact:
    data, embeddings, writer = work.inputs["data"], work.inputs["embeddings"], work.writer
    grid = _grid_of(embeddings, config)
    merges = writer.missing("candidates", len(grid.query_ranges))
    tiles = [
        {"tile": grid.tile(group, index), "group": group, "range": index}
        for group in range(len(grid.document_groups))
        for index in merges
    ]
    open_tiles = set(writer.missing("tiles", grid.num_tiles)) if merges else set()
    tiles = [tile for tile in tiles if tile["tile"] in open_tiles]
    work.progress.total(grid.num_tiles + len(grid.query_ranges), "tiles", done=grid.num_tiles - len(tiles))
    task = {"data": data, "embeddings": embeddings, "split": split, "grid": grid, "config": config}
    if merges:
        for _ in run_waves(
            work.session, tiles, partial(_search_graph, work=work, num_tiles=len(tiles), task=task)
        ):
            work.progress.advance()
        finished = writer.finished("tiles")
        groups = range(len(grid.document_groups))
        ranges = [
            {
                "range": index,
                "tiles": [finished[grid.tile(group, index)].model_dump_json() for group in groups],
            }
            for index in merges
        ]
        for _ in run_waves(work.session, ranges, partial(_merge_graph, work=work, task=task)):
            work.progress.advance()
    return work.commit({"candidates": len(grid.query_ranges)}, {"num_tiles": grid.num_tiles})


def _search_graph(tiles: "Dataset", work: Work, num_tiles: int, task: dict[str, Any]) -> "Dataset":
    from ray.data import ActorPoolStrategy

    from pipelines.search.searcher import Searcher

    smallest, largest = (min(size, num_tiles) for size in work.session.pool("search"))
    return tiles.map(
        Searcher,
        fn_constructor_kwargs={"writer": work.writer, **task},
        compute=ActorPoolStrategy(min_size=smallest, max_size=largest),
        **work.session.resources("search"),
    )


def _merge_graph(ranges: "Dataset", work: Work, task: dict[str, Any]) -> "Dataset":
    return ranges.map(partial(merge_range, writer=work.writer, **task), **work.session.resources("tokenize"))


def merge_range(
    row: dict[str, Any],
    writer: ArtifactWriter,
    data: Artifact,
    embeddings: Artifact,
    split: str,
    grid: Grid,
    config: SearchConfig,
) -> dict[str, Any]:
    """Merge the tiles of one query range and write its candidates."""
    tiles = [writer.read_finished(Shard.model_validate_json(tile)) for tile in row["tiles"]]
    queries, _ = range_queries(data, embeddings, split, grid.query_ranges[row["range"]])
    candidates = merge_tiles(tiles, queries[0], config.retrieval_depth)
    shard = writer.write_shard("candidates", row["range"], candidates)
    return {"rows": shard.rows}
