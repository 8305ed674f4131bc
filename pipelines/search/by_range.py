"""Teachers without a model or an index: random candidates and fused lists; a row is a query range."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from cluster.artifacts import Artifact, ArtifactWriter
from cluster.errors import UserError
from pipelines.search.config import SearchConfig
from pipelines.search.fusion import fuse
from pipelines.search.merging import open_ranges
from pipelines.search.queries import find_targets, labelled_pairs, pairs_of
from pipelines.search.random_order import random_documents
from pipelines.search.tables import candidates_table
from pipelines.steps import Step, Work
from pipelines.waves import run_tasks

RANDOM_VERSION = 1
FUSED_VERSION = 1
_DEFAULTS = SearchConfig()


def random_step(
    data: Step,
    split: str,
    depth: int,
    seed: int,
    range_queries: int = _DEFAULTS.range_queries,
    only: Step | None = None,
) -> Step:
    """Draw candidates evenly from the corpus for the queries of one split.

    Args:
        data: The ingest step.
        split: Whose queries get candidates.
        depth: Candidates of each query; the first ones do not depend on it.
        seed: Of the draw.
        range_queries: Queries of one shard of candidates, rounded to whole shards.
        only: A step whose table `starved` (column query, shard i of range i) names the queries. None: all of the
            split.

    Returns:
        A step whose artifact has the table `candidates`: in the order of the draw, score 0 and positives 1.
    """
    label = f"{data.label}-random-{split}"
    identity = {"retriever": "random", "split": split, "depth": depth, "seed": seed}
    return Step(
        stage="search",
        label=f"{label}-deeper" if only else label,
        stage_version=RANDOM_VERSION,
        identity={**identity, "range_queries": range_queries},
        libraries=(),
        inputs={"data": data} | ({"only": only} if only else {}),
        run=partial(_run_random, split=split, depth=depth, seed=seed, range_queries=range_queries),
    )


def fused_step(
    data: Step, of: Mapping[str, Step], depth: int, constant: int = 60, deeper: bool = False
) -> Step:
    """Fuse the candidates of several teachers by reciprocal rank.

    Args:
        data: The ingest step, by which the result is named.
        of: Name -> search step, all of the same queries in the same ranges.
        depth: Candidates kept for each query.
        constant: Added to every rank.
        deeper: Whether their queries are those that were searched again; the label says so.

    Returns:
        A step whose artifact has the table `candidates`; shard i fuses shard i of each teacher.
    """
    label = f"{data.label}-fused-{'-'.join(sorted(of))}"
    return Step(
        stage="search",
        label=f"{label[:72]}-deeper" if deeper else label[:80],
        stage_version=FUSED_VERSION,
        identity={"retriever": "fused", "of": sorted(of), "depth": depth, "constant": constant},
        libraries=(),
        inputs={f"of_{name}": step for name, step in of.items()},
        run=partial(_run_fused, depth=depth, constant=constant),
    )


def _run_random(work: Work, split: str, depth: int, seed: int, range_queries: int) -> Artifact:
    data = work.inputs["data"]
    targets = find_targets(data, split, range_queries, work.inputs.get("only"))
    num_ranges = len(targets.ranges)
    having = {index for index in range(num_ranges) if len(targets.of_range(index))}
    rows = [
        {"range": index, "queries": targets.of_range(index).tobytes()}
        for index in open_ranges(work, having, num_ranges)
    ]
    write = partial(write_random, writer=work.writer, data=data, split=split, depth=depth, seed=seed)
    _map_ranges(work, rows, num_ranges, write)
    return work.commit({"candidates": num_ranges}, {"num_queries": len(targets.queries)})


def _run_fused(work: Work, depth: int, constant: int) -> Artifact:
    teachers = [work.inputs[name] for name in sorted(work.inputs)]
    num_shards = {teacher.key: teacher.num_shards("candidates") for teacher in teachers}
    if len(set(num_shards.values())) > 1:
        raise UserError(
            "teachers cut the queries into different ranges",
            where="the fused teacher",
            got=", ".join(f"{key}: {count} shards" for key, count in num_shards.items()),
            expected="the same range_queries for all",
            fix="search again with one setting",
        )
    tables = [teacher.manifest.tables["candidates"].shards for teacher in teachers]
    num_ranges = len(tables[0])
    having = {index for index in range(num_ranges) if any(shards[index].rows for shards in tables)}
    rows = [{"range": index} for index in open_ranges(work, having, num_ranges)]
    write = partial(write_fused, writer=work.writer, teachers=teachers, depth=depth, constant=constant)
    _map_ranges(work, rows, num_ranges, write)
    return work.commit({"candidates": num_ranges}, {"of": [teacher.key for teacher in teachers]})


def _map_ranges(
    work: Work,
    rows: list[dict[str, Any]],
    num_ranges: int,
    write: Callable[[dict[str, Any]], dict[str, Any]],
) -> None:
    work.progress.total(num_ranges, "ranges", done=num_ranges - len(rows))
    for _ in run_tasks(work.session, rows, write):
        work.progress.advance()


def write_random(
    row: dict[str, Any], writer: ArtifactWriter, data: Artifact, split: str, depth: int, seed: int
) -> dict[str, Any]:
    """Draw the candidates of one query range, part by part, write them and return the receipt."""
    pairs, num_documents = labelled_pairs(data, split), data.num_rows("documents")
    queries = np.frombuffer(row["queries"], np.int64)
    drawn = []
    for start in range(0, len(queries), _DEFAULTS.tile_queries):
        part = queries[start : start + _DEFAULTS.tile_queries]
        drawn.append(random_table(part, pairs_of(pairs, part), num_documents, depth, seed))
    shard = writer.write_shard("candidates", row["range"], pa.concat_tables(drawn).combine_chunks())
    return {"rows": shard.rows}


def random_table(
    queries: np.ndarray, pairs: tuple[np.ndarray, np.ndarray], num_documents: int, depth: int, seed: int
) -> pa.Table:
    """Return random candidates of some queries, schema CANDIDATES: score 0, positives 1.

    Args:
        queries: Ordinals, int64 [Q] ascending.
        pairs: Labelled pairs: row of the query and document, int64 [P] each.
        num_documents: Documents of the corpus.
        depth: Candidates of each query.
        seed: Of the draw.
    """
    docs_QK = random_documents(seed, queries, num_documents, depth)
    keys_QK = np.arange(len(queries))[:, None] * num_documents + docs_QK
    scores_QK = np.isin(keys_QK, pairs[0] * num_documents + pairs[1]).astype(np.float32)
    return candidates_table(queries, (scores_QK, docs_QK), (*pairs, np.ones(len(pairs[0]), np.float32)))


def write_fused(
    row: dict[str, Any], writer: ArtifactWriter, teachers: list[Artifact], depth: int, constant: int
) -> dict[str, Any]:
    """Fuse one query range, write it and return the receipt."""
    lists = [teacher.read_shard("candidates", row["range"]) for teacher in teachers]
    return {"rows": writer.write_shard("candidates", row["range"], fuse(lists, depth, constant)).rows}
