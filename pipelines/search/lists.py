"""The inverted lists of an approximate search: centroids for the corpus, a list for every document, several a query."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from cluster.artifacts import Artifact, ArtifactWriter, Shard
from cluster.errors import UserError
from models.precision import device_kind
from pipelines import schemas
from pipelines.search.config import IvfConfig
from pipelines.search.grid import Grid
from pipelines.search.queries import shards_of
from pipelines.search.tiles import read_documents, read_shard, take_queries

CENTROIDS = "centroids"
"""Table of one shard, schema embeddings: the centroids by list. Swept with the tiles once a search is committed."""


def num_lists(embeddings: Artifact, config: IvfConfig) -> int:
    """Return how many lists there are.

    Raises:
        UserError: There are fewer embeddings to train on than lists, or fewer lists than a query looks into.
    """
    total = embeddings.num_rows("documents")
    sample, lists = min(total, config.training_sample), config.lists_of(total)
    if lists > sample:
        raise UserError(
            "an index has more lists than embeddings to train them on",
            where="mine.search.ivf",
            got=f"{lists} lists, {sample} of {total} embeddings to train on",
            expected="at least one embedding a list",
            fix="lower num_lists, raise training_sample, or take index: exact",
        )
    return lists


def write_centroids(
    row: dict[str, Any], writer: ArtifactWriter, embeddings: Artifact, config: IvfConfig
) -> dict[str, Any]:
    """Train the centroids on an evenly spaced sample, write them as shard 0 and return the receipt."""
    from models.search.ivf import train_centroids

    lists = num_lists(embeddings, config)
    starts = embeddings.first_rows("documents")
    total = int(starts[-1])
    sample_rows = np.arange(min(total, config.training_sample)) * total // min(total, config.training_sample)
    taken = []
    for index, (start, stop) in enumerate(zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True)):
        edges = np.searchsorted(sample_rows, [start, stop])
        if edges[1] > edges[0]:
            _, shard_ND = read_shard(embeddings, "documents", index)
            taken.append(shard_ND[sample_rows[edges[0] : edges[1]] - start])
    centroids_LD = train_centroids(np.concatenate(taken), lists, config.seed)
    table = pa.table(
        {
            "id": np.arange(lists),
            "embedding": pa.FixedSizeListArray.from_arrays(centroids_LD.ravel(), centroids_LD.shape[1]),
        }
    )
    conformed = schemas.conform(table, schemas.embeddings(centroids_LD.shape[1], "float32"))
    return {"rows": writer.write_shard(CENTROIDS, row["index"], conformed).rows}


@dataclass(frozen=True)
class Assignment:
    """What the tasks have in common that assign documents and queries to lists.

    Args:
        writer: Where the lists go.
        embeddings: Embeddings of documents.
        asked: Embeddings of queries.
        query_starts: Ordinal that each shard of queries begins with, and the total; not all are embedded.
        queries: Ordinals to search, int64 ascending.
        grid: Its groups of documents and parts of the queries.
        centroids: Of all lists.
        num_probes: Lists that a query looks into.
    """

    writer: ArtifactWriter
    embeddings: Artifact
    asked: Artifact
    query_starts: np.ndarray
    queries: np.ndarray
    grid: Grid
    centroids: Shard
    num_probes: int


def write_lists(row: dict[str, Any], work: Assignment, table: str) -> int:
    """Write the list of each document of the group that ``row`` names."""
    shards = range(*work.grid.document_groups[row["group"]])
    documents = read_documents(work.embeddings, shards, "cpu")
    return work.writer.write_shard(table, row["group"], _nearest(documents.doc_ND, work, 1)).rows


def write_probes(row: dict[str, Any], work: Assignment, table: str) -> int:
    """Write the lists that each query of the part that ``row`` names looks into.

    Once for all groups of documents: over a large corpus there are more lists than documents to scan.
    """
    part = work.grid.parts[row["part"]]
    queries = work.queries[part.start : part.stop]
    shards = shards_of(work.query_starts, queries)
    query_QD = take_queries([read_shard(work.asked, "queries", index) for index in shards], queries)
    return work.writer.write_shard(table, row["part"], _nearest(query_QD, work, work.num_probes)).rows


def read_lists(writer: ArtifactWriter, shard: Shard) -> np.ndarray:
    """Return the lists of every row, int64 [N, P]: one of a document, those to look into of a query."""
    column = writer.read_finished(shard).column("lists").combine_chunks()
    lists_NP: np.ndarray = column.values.to_numpy().reshape(-1, column.type.list_size)
    return lists_NP


def _nearest(x_ND: np.ndarray, work: Assignment, count: int) -> pa.Table:
    from models.search.ivf import nearest_lists

    column = work.writer.read_finished(work.centroids).column("embedding").combine_chunks()
    centroids_LD = column.values.to_numpy().reshape(-1, column.type.list_size)
    lists_NP = nearest_lists(x_ND, centroids_LD, count, device_kind())
    return pa.table({"lists": pa.FixedSizeListArray.from_arrays(lists_NP.ravel(), lists_NP.shape[1])})
