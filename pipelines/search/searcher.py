"""The actor that searches one tile after the other and keeps the group of documents it has loaded."""

from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import Any

import numpy as np

from cluster.artifacts import Artifact, ArtifactWriter, Shard
from models.precision import device_kind
from models.search.backends import use_threads
from models.search.exact import Documents
from models.search.ivf import ListedDocuments
from pipelines.search.config import SearchConfig
from pipelines.search.grid import Grid
from pipelines.search.lists import read_lists
from pipelines.search.queries import labelled_pairs, pairs_of, shards_of
from pipelines.search.tiles import TopK, read_documents, read_shard, search_tile, take_queries


@dataclass(frozen=True)
class DenseTask:
    """What the tiles of one dense search have in common; small, and sent to every actor.

    Args:
        data: The ingest artifact, for the labelled pairs.
        embeddings: Embeddings of documents.
        asked: Embeddings of queries.
        split: Whose labels count.
        queries: Ordinals to search, int64 ascending.
        grid: The tiles.
        depth: Documents kept for each query.
        config: Backend and index.
        is_approximate: Whether the tiles name lists, and those that their queries look into.
        table: What the tiles are called.
    """

    data: Artifact
    embeddings: Artifact
    asked: Artifact
    split: str
    queries: np.ndarray
    grid: Grid
    depth: int
    config: SearchConfig
    is_approximate: bool
    table: str


class Searcher:
    """Hold one group of document embeddings and search parts of the queries in it.

    Args:
        writer: Where the tiles go.
        task: What they have in common.
        num_threads: Of this actor.
    """

    def __init__(self, writer: ArtifactWriter, task: DenseTask, num_threads: int) -> None:
        self._writer, self._task = writer, task
        # Ray's default, from the processors of the role, would leave cores idle where there are few tiles.
        self._device = device_kind()
        self._backend = task.config.backend_on(self._device, task.is_approximate)
        use_threads(num_threads, self._backend)
        self._pairs = labelled_pairs(task.data, task.split)
        self._query_starts = task.data.first_rows("queries")
        self._group = -1
        self._documents = Documents(np.zeros((0, 0), np.float32))
        self._listed: ListedDocuments | None = None
        self._shards: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Search the tile that ``row`` names, write it, and return its receipt."""
        started = monotonic()
        task = self._task
        if row["group"] != self._group:
            self._load(row["group"], row["lists"])
        part = task.grid.parts[row["part"]]
        queries = task.queries[part.start : part.stop]
        query_QD = take_queries(self._query_shards(queries), queries)
        pairs = pairs_of(self._pairs, queries)
        tile = search_tile(
            (queries, query_QD), self._documents, pairs, task.depth, self._top_k(row["probes"])
        )
        shard = self._writer.write_shard(task.table, row["tile"], tile, seconds=monotonic() - started)
        return {"rows": shard.rows}

    def _load(self, group: int, lists: str) -> None:
        # What is held goes before the next comes: two groups at once would be twice the budget.
        self._documents, self._listed = Documents(np.zeros((0, 0), np.float32)), None
        self._group = -1
        shards = range(*self._task.grid.document_groups[group])
        self._documents = read_documents(self._task.embeddings, shards, self._device)
        if self._task.is_approximate:
            list_N = read_lists(self._writer, Shard.model_validate_json(lists))[:, 0]
            self._listed = ListedDocuments(self._documents, list_N, self._backend)
        self._group = group

    def _top_k(self, probes: str) -> TopK:
        if self._listed is None:
            return partial(self._documents.top_k, backend=self._backend)
        lists_QP = read_lists(self._writer, Shard.model_validate_json(probes))
        return partial(self._listed.top_k, lists_QP)

    def _query_shards(self, queries: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return the shards that hold the queries; kept until others are asked for, as parts follow each other."""
        wanted = shards_of(self._query_starts, queries)
        held = self._shards
        self._shards = {
            index: held[index] if index in held else read_shard(self._task.asked, "queries", index)
            for index in wanted
        }
        return list(self._shards.values())
