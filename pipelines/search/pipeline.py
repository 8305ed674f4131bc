"""The Ray graph of a dense search: a row is a tile of the grid; then a row is a query range to merge."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from cluster.artifacts import Artifact
from pipelines.ranges import cut_shards
from pipelines.search.config import SearchConfig
from pipelines.search.grid import Grid, Part, plan_parts
from pipelines.search.lists import (
    CENTROIDS,
    Assignment,
    num_lists,
    write_centroids,
    write_lists,
    write_probes,
)
from pipelines.search.merging import merge_ranges, open_work
from pipelines.search.queries import Targets, find_targets
from pipelines.search.recall import exact_documents, recall, sample_queries
from pipelines.steps import Step, Work
from pipelines.waves import run_tasks, run_waves

if TYPE_CHECKING:
    from ray.data import Dataset

    from pipelines.search.searcher import DenseTask

STAGE_VERSION = 2
IVF_VERSION = 4


def search_step(
    data: Step,
    embeddings: Step,
    split: str,
    config: SearchConfig,
    only: Step | None = None,
    queries: Step | None = None,
) -> Step:
    """Find the best documents for the queries of one split, by the embeddings of one model.

    Args:
        data: The ingest step.
        embeddings: The encode step; a document with several rows, its chunks, is scored by the best of them.
        split: Whose queries are searched.
        config: Depth, index, backend and bounds.
        only: A step whose table `starved` (column query, shard i of range i) names the queries to search, then at
            `max_retrieval_depth`. None: all of the split, at `retrieval_depth`.
        queries: An encode step whose queries are searched among the documents of ``embeddings``. None: its own.

    Returns:
        A step whose artifact has the table `candidates`: the ranks of each query, positives marked, and the scores
        of the positives that lie deeper. Shard i holds the queries of range i of ``query_ranges``. It depends on
        depth, index and ranges, not on the backend, the grid or the machines.
    """
    depth = config.max_retrieval_depth if only else config.retrieval_depth
    identity: dict[str, object] = {"split": split, "retrieval_depth": depth}
    identity |= config.model_dump(mode="json", include={"index", "range_queries"})
    libraries: tuple[str, ...] = ()
    if config.index == "ivf":
        identity |= config.model_dump(mode="json", include={"ivf", "recall_sample"})
        libraries = ("faiss-cpu", "faiss-gpu")
    if only and not config.searches_deeper:
        identity["searches_deeper"] = False
    label = f"{embeddings.label}-{split}"[:72]
    return Step(
        stage="search",
        label=f"{label}-deeper" if only else label,
        stage_version=IVF_VERSION if config.index == "ivf" else STAGE_VERSION,
        identity=identity,
        libraries=libraries,
        inputs={"data": data, "embeddings": embeddings}
        | ({"only": only} if only else {})
        | ({"queries": queries} if queries else {}),
        run=partial(_run, split=split, depth=depth, config=config),
        count_shards=partial(_count_shards, split=split, config=config),
    )


def _plan(inputs: Mapping[str, Artifact], split: str, config: SearchConfig) -> tuple[Targets, Grid]:
    data, embeddings, only = inputs["data"], inputs["embeddings"], inputs.get("only")
    targets = find_targets(data, split, config.range_queries, only)
    if only and not config.searches_deeper:
        targets = replace(targets, queries=targets.queries[:0])
    document_rows = np.diff(embeddings.first_rows("documents"))
    grid = Grid(
        document_groups=cut_shards(document_rows, _group_rows(embeddings, config)),
        num_ranges=len(targets.ranges),
        parts=plan_parts(targets.queries, targets.range_starts, config.tile_queries),
    )
    return targets, grid


def _group_rows(embeddings: Artifact, config: SearchConfig) -> int:
    dimension = int(embeddings.manifest.summary["dimension"])  # type: ignore[arg-type]
    copies = 2 if config.index == "ivf" else 1  # faiss holds the lists' embeddings once more
    return max(1, config.group_mb * 2**20 // (4 * dimension * copies))


def _count_shards(inputs: Mapping[str, Artifact], split: str, config: SearchConfig) -> int:
    _, grid = _plan(inputs, split, config)
    return grid.num_tiles + grid.num_ranges


def _run(work: Work, split: str, depth: int, config: SearchConfig) -> Artifact:
    from pipelines.search.searcher import DenseTask

    data, embeddings = work.inputs["data"], work.inputs["embeddings"]
    targets, grid = _plan(work.inputs, split, config)
    # The grid is part of the name: with other bounds a resumed search makes tiles of its own.
    cut = f"{_group_rows(embeddings, config)}x{config.tile_queries}"
    is_ivf = config.index == "ivf"
    asked = work.inputs.get("queries", embeddings)
    task = DenseTask(
        data, embeddings, asked, split, targets.queries, grid, depth, config, is_ivf, f"tiles_{cut}"
    )
    waiting = open_work(work, grid, task.table)
    tiles = waiting.tiles
    if tiles and is_ivf:
        tiles = _with_lists(work, task, tiles, cut)
    _search(work, task, tiles)
    merge_ranges(work, grid, waiting.ranges, task.table, depth)
    summary: dict[str, object] = {"num_tiles": grid.num_tiles, "num_queries": len(targets.queries)}
    if is_ivf and config.recall_sample and len(targets.queries):
        summary |= _recall(work, task, targets, f"exact_{cut}")
    return work.commit({"candidates": grid.num_ranges}, summary)


def _search(work: Work, task: "DenseTask", tiles: list[dict[str, object]]) -> None:
    if tiles:
        rows = [{"lists": "", "probes": "", **tile} for tile in tiles]
        for _ in run_waves(
            work.session, rows, partial(_search_graph, work=work, task=task, num_tiles=len(rows))
        ):
            work.progress.advance()


def _search_graph(tiles: "Dataset", work: Work, task: "DenseTask", num_tiles: int) -> "Dataset":
    from ray.data import ActorPoolStrategy

    from pipelines.search.searcher import Searcher

    smallest, largest = (min(size, num_tiles) for size in work.session.pool("search"))
    return tiles.map(
        Searcher,
        fn_constructor_args=(work.writer, task, work.session.num_threads("search", largest)),
        compute=ActorPoolStrategy(min_size=smallest, max_size=largest),
        **work.session.resources("search"),
    )


def _with_lists(
    work: Work, task: "DenseTask", tiles: list[dict[str, object]], cut: str
) -> list[dict[str, object]]:
    """Train the centroids, assign the documents and the queries that ``tiles`` need; name the shards to the tiles."""
    writer, embeddings, config = work.writer, task.embeddings, task.config.ivf
    num_lists(embeddings, config)  # refuses before anything starts
    if writer.missing(CENTROIDS, 1):
        train = partial(write_centroids, writer=writer, embeddings=embeddings, config=config)
        work.progress.note("training lists")
        for _ in run_tasks(work.session, [{"index": 0}], train, "search"):
            work.progress.note("")
    centroids = writer.finished(CENTROIDS)[0]
    common = Assignment(
        writer,
        embeddings,
        task.asked,
        task.data.first_rows("queries"),
        task.queries,
        task.grid,
        centroids,
        config.num_probes,
    )
    for side, name, count, write in (
        ("group", "lists", len(task.grid.document_groups), write_lists),
        ("part", "probes", len(task.grid.parts), write_probes),
    ):
        table, wanted = f"{name}_{cut}", {tile[side] for tile in tiles}
        rows = [{side: index} for index in writer.missing(table, count) if index in wanted]
        for _ in run_tasks(work.session, rows, partial(write, work=common, table=table), "search"):
            work.progress.note("assigning lists")
        shards = writer.finished(table)
        tiles = [{**tile, name: shards[int(str(tile[side]))].model_dump_json()} for tile in tiles]
    return tiles


def _recall(work: Work, task: "DenseTask", targets: Targets, table: str) -> dict[str, object]:
    """Search a sample exactly, with the same tiles, and compare."""
    sample = sample_queries(targets.queries, task.config.recall_sample)
    grid = replace(task.grid, num_ranges=1, parts=(Part(0, 0, len(sample)),))
    exact = replace(task, queries=sample, grid=grid, is_approximate=False, table=table)
    tiles: list[dict[str, object]] = [
        {"tile": group, "group": group, "part": 0} for group in work.writer.missing(table, grid.num_tiles)
    ]
    _search(work, exact, tiles)
    read = work.writer.read_finished
    truth = exact_documents((read(tile) for tile in work.writer.finished(table).values()), sample, task.depth)
    ranges = np.unique(np.searchsorted(targets.range_starts, sample, side="right") - 1).tolist()
    candidates = work.writer.finished("candidates")
    share = recall((read(candidates[index]) for index in ranges), sample, truth)
    return {"recall": round(share, 4), "recall_queries": len(sample)}
