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
from pipelines.search.config import SearchConfig
from pipelines.search.grid import Grid
from pipelines.search.lists import read_centroids, read_lists
from pipelines.search.queries import labelled_pairs, pairs_of, shards_of
from pipelines.search.tiles import TopK, read_documents, read_shard, search_tile, take_queries


@dataclass(frozen=True)
class DenseTask:
    """What the tiles of one dense search have in common; small, and sent to every actor.

    Args:
        data: The ingest artifact, for the labelled pairs.
        embeddings: Embeddings of documents and queries.
        split: Whose labels count.
        queries: Ordinals to search, int64 ascending.
        grid: The tiles.
        depth: Documents kept for each query.
        config: Backend and index.
        centroids: Of the inverted lists; None: exact search.
        table: What the tiles are called.
    """

    data: Artifact
    embeddings: Artifact
    split: str
    queries: np.ndarray
    grid: Grid
    depth: int
    config: SearchConfig
    centroids: Shard | None
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
        use_threads(num_threads, "faiss" if task.centroids else task.config.exact_backend)
        self._pairs = labelled_pairs(task.data, task.split)
        self._query_starts = task.data.first_rows("queries")
        self._group = -1
        self._documents = Documents(np.zeros((0, 0), np.float32))
        self._top_k: TopK = self._documents.top_k
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
        tile = search_tile((queries, query_QD), self._documents, pairs, task.depth, self._top_k)
        shard = self._writer.write_shard(task.table, row["tile"], tile, seconds=monotonic() - started)
        return {"rows": shard.rows}

    def _load(self, group: int, lists: str) -> None:
        task = self._task
        # What is held goes before the next comes: two groups at once would be twice the budget.
        self._documents = Documents(np.zeros((0, 0), np.float32))
        self._top_k, self._group = self._documents.top_k, -1
        device = "cpu" if task.centroids else device_kind()
        self._documents = read_documents(task.embeddings, range(*task.grid.document_groups[group]), device)
        if task.centroids is None:
            self._top_k = partial(self._documents.top_k, backend=task.config.exact_backend)
        else:
            from models.search.ivf import ListedDocuments

            centroids_LD = read_centroids(self._writer, task.centroids)
            list_N = read_lists(self._writer, Shard.model_validate_json(lists))
            probes = task.config.ivf.num_probes
            self._top_k = ListedDocuments(self._documents, centroids_LD, list_N, probes).top_k
        self._group = group

    def _query_shards(self, queries: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return the shards that hold the queries; kept until others are asked for, as parts follow each other."""
        wanted = shards_of(self._query_starts, queries)
        held = self._shards
        self._shards = {
            index: held[index] if index in held else read_shard(self._task.embeddings, "queries", index)
            for index in wanted
        }
        return list(self._shards.values())
