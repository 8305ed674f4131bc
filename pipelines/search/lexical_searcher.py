"""The actor that maps the lexical index and searches one part of the queries after the other."""

from dataclasses import dataclass
from time import monotonic
from typing import Any

import numpy as np

from cluster.artifacts import Artifact, ArtifactWriter
from models.lexical import Bm25
from pipelines.search.grid import Grid
from pipelines.search.lexical import INDEX
from pipelines.search.queries import labelled_pairs, pairs_of, query_texts
from pipelines.search.tiles import partials_table


@dataclass(frozen=True)
class LexicalTask:
    """What the tiles of one lexical search have in common.

    Args:
        data: The ingest artifact: texts and labelled pairs.
        index: The artifact of the index.
        split: Whose labels count.
        queries: Ordinals to search, int64 ascending.
        grid: The tiles, of one group of documents.
        depth: Documents kept for each query.
        table: What the tiles are called.
    """

    data: Artifact
    index: Artifact
    split: str
    queries: np.ndarray
    grid: Grid
    depth: int
    table: str


class LexicalSearcher:
    """Map the index once and search parts of the queries in it.

    Args:
        writer: Where the tiles go.
        task: What they have in common.
    """

    def __init__(self, writer: ArtifactWriter, task: LexicalTask) -> None:
        self._writer, self._task = writer, task
        self._pairs = labelled_pairs(task.data, task.split)
        self._index = Bm25.load(task.index.directory(INDEX))

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Search the tile that ``row`` names, write it, and return its receipt."""
        started = monotonic()
        task = self._task
        part = task.grid.parts[row["part"]]
        queries = task.queries[part.start : part.stop]
        pair_row, pair_doc = pairs_of(self._pairs, queries)
        depth = min(task.depth, len(self._index))
        scores_QK, docs_QK, pair_score = self._index.search_and_score(
            query_texts(task.data, queries), depth, pair_row, pair_doc
        )
        tile = partials_table(queries, (scores_QK, docs_QK), (pair_row, pair_doc, pair_score))
        shard = self._writer.write_shard(task.table, row["tile"], tile, seconds=monotonic() - started)
        return {"rows": shard.rows}
