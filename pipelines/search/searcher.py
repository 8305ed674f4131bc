"""The actor that searches one tile after the other and keeps the group of documents it has loaded."""

from time import monotonic
from typing import Any

import numpy as np

from cluster.artifacts import Artifact, ArtifactWriter
from models.precision import device_kind
from models.search.exact import Documents
from pipelines.search.config import SearchConfig
from pipelines.search.grid import Grid
from pipelines.search.tiles import range_queries, read_embeddings, search_tile


class Searcher:
    """Hold one group of document embeddings and search ranges of queries in it.

    Args:
        writer: Where the tiles go.
        data: The ingest artifact, for the labelled pairs.
        embeddings: Embeddings of documents and queries.
        split: Whose queries are searched.
        grid: The tiles.
        config: Depth and backend.
    """

    def __init__(
        self,
        writer: ArtifactWriter,
        data: Artifact,
        embeddings: Artifact,
        split: str,
        grid: Grid,
        config: SearchConfig,
    ) -> None:
        self._writer, self._data, self._embeddings = writer, data, embeddings
        self._split, self._grid, self._config = split, grid, config
        self._group = -1
        self._documents = Documents(np.zeros((0, 0), np.float32))

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Search the tile that ``row`` names, write it, and return its receipt."""
        started = monotonic()
        if row["group"] != self._group:
            shards = range(*self._grid.document_groups[row["group"]])
            ids, doc_ND = read_embeddings(self._embeddings, "documents", shards)
            self._documents = Documents(doc_ND, int(ids[0]), device_kind())
            self._group = row["group"]
        shards_of_range = self._grid.query_ranges[row["range"]]
        queries, positives = range_queries(self._data, self._embeddings, self._split, shards_of_range)
        depth, backend = self._config.retrieval_depth, self._config.backend
        tile = search_tile(queries, self._documents, positives, depth, backend)
        shard = self._writer.write_shard("tiles", row["tile"], tile, seconds=monotonic() - started)
        return {"rows": shard.rows}
