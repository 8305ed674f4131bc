"""BM25 as a teacher: an index of all texts, mapped by every actor; a row of the Ray graph is a part of the queries."""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from cluster.artifacts import Artifact, ArtifactWriter
from pipelines import schemas
from pipelines.search.config import SearchConfig
from pipelines.search.grid import Grid, plan_parts
from pipelines.search.merging import merge_ranges, open_work
from pipelines.search.queries import Targets, find_targets
from pipelines.steps import Step, Work
from pipelines.waves import run_tasks, run_waves

if TYPE_CHECKING:
    from ray.data import Dataset

    from pipelines.search.lexical_searcher import LexicalTask

STAGE_VERSION = 2
INDEX_VERSION = 1
INDEX = "index"
LIBRARIES = ("bm25s", "numpy", "regex")
_DEFAULTS = SearchConfig()


def lexical_step(
    data: Step,
    split: str,
    retrieval_depth: int,
    range_queries: int = _DEFAULTS.range_queries,
    only: Step | None = None,
) -> Step:
    """Find the best documents for the queries of one split by BM25.

    Args:
        data: The ingest step.
        split: Whose queries are searched.
        retrieval_depth: Candidates kept for each query; fewer where fewer documents share a word with it.
        range_queries: Queries of one shard of candidates, rounded to whole shards.
        only: A step whose table `starved` (column query, shard i of range i) names the queries to search. None: all
            of the split.

    Returns:
        A step whose artifact has the table `candidates`; positives that were not retrieved are scored too. The
        index is an artifact of its own, made at the first need and shared by all splits and depths.
    """
    label = f"{data.label}-bm25-{split}"
    return Step(
        stage="search",
        label=f"{label}-deeper" if only else label,
        stage_version=STAGE_VERSION,
        identity={
            "retriever": "bm25",
            "split": split,
            "retrieval_depth": retrieval_depth,
            "range_queries": range_queries,
        },
        libraries=LIBRARIES,
        inputs={"data": data} | ({"only": only} if only else {}),
        run=partial(_run, split=split, depth=retrieval_depth, range_queries=range_queries),
        count_shards=partial(_count_shards, split=split, range_queries=range_queries),
    )


def lexical_index_step(data: Step) -> Step:
    """Index the words of all documents.

    Returns:
        A step whose artifact has the files `index/...`.
    """
    return Step(
        stage="lexical",
        label=data.label,
        stage_version=INDEX_VERSION,
        identity={},
        libraries=LIBRARIES,
        inputs={"data": data},
        run=_run_index,
    )


def _plan(inputs: Mapping[str, Artifact], split: str, range_queries: int) -> tuple[Targets, Grid]:
    data = inputs["data"]
    targets = find_targets(data, split, range_queries, inputs.get("only"))
    parts = plan_parts(targets.queries, targets.range_starts, _DEFAULTS.tile_queries)
    return targets, Grid(((0, data.num_shards("documents")),), len(targets.ranges), parts)


def _count_shards(inputs: Mapping[str, Artifact], split: str, range_queries: int) -> int:
    _, grid = _plan(inputs, split, range_queries)
    return grid.num_tiles + grid.num_ranges


def _run(work: Work, split: str, depth: int, range_queries: int) -> Artifact:
    from pipelines.search.lexical_searcher import LexicalTask

    targets, grid = _plan(work.inputs, split, range_queries)
    table = f"tiles_x{_DEFAULTS.tile_queries}"
    # Before the tiles' progress begins, as the index has its own; where nobody asks, nothing is indexed.
    index = work.compute(lexical_index_step(work.step.inputs["data"])) if grid.parts else None
    waiting = open_work(work, grid, table)
    if waiting.tiles and index is not None:
        task = LexicalTask(work.inputs["data"], index, split, targets.queries, grid, depth, table)
        build = partial(_search_graph, work=work, task=task, num_tiles=len(waiting.tiles))
        for _ in run_waves(work.session, waiting.tiles, build):
            work.progress.advance()
    merge_ranges(work, grid, waiting.ranges, table, depth)
    return work.commit({"candidates": grid.num_ranges}, {"num_queries": len(targets.queries)})


def _search_graph(tiles: "Dataset", work: Work, task: "LexicalTask", num_tiles: int) -> "Dataset":
    from ray.data import ActorPoolStrategy

    from pipelines.search.lexical_searcher import LexicalSearcher

    smallest, largest = (min(size, num_tiles) for size in work.session.pool("search"))
    return tiles.map(
        LexicalSearcher,
        fn_constructor_args=(work.writer, task),
        compute=ActorPoolStrategy(min_size=smallest, max_size=largest),
        **work.session.resources("search"),
    )


def _run_index(work: Work) -> Artifact:
    data = work.inputs["data"]
    work.progress.note("indexing words")
    build = partial(build_index, writer=work.writer, data=data)
    for _ in run_tasks(work.session, [{"index": 0}], build, "search"):
        work.progress.note("")
    return work.commit({}, {"num_documents": data.num_rows("documents")})


def build_index(row: dict[str, Any], writer: ArtifactWriter, data: Artifact) -> dict[str, Any]:
    """Index the documents, read shard by shard, store the files and return the receipt."""
    from models.lexical import Bm25

    def texts() -> Iterator[str]:
        for shard in range(data.num_shards("documents")):
            yield from schemas.rendered_texts(data.read_shard("documents", shard, columns=["title", "text"]))

    with TemporaryDirectory(prefix="stope-lexical-") as folder:
        index = Bm25(texts())
        index.save(Path(folder))
        writer.put_directory(INDEX, Path(folder))
    return {"index": row["index"], "rows": len(index)}
