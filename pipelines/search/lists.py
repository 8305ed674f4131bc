"""The inverted lists of an approximate search: centroids for the corpus, a list number for every row."""

from typing import Any

import numpy as np
import pyarrow as pa

from cluster.artifacts import Artifact, ArtifactWriter, Shard
from cluster.errors import UserError
from pipelines import schemas
from pipelines.search.config import IvfConfig
from pipelines.search.tiles import read_documents, read_shard

CENTROIDS = "centroids"
"""Table of one shard, schema embeddings: the centroids by list. Swept with the tiles once a search is committed."""
_LISTS = pa.schema([pa.field("list", pa.int64(), nullable=False)])


def num_lists(embeddings: Artifact, config: IvfConfig) -> int:
    """Return how many lists there are.

    Raises:
        UserError: There are fewer embeddings to train on than lists, or fewer lists than a query looks into.
    """
    from models.search.ivf import default_num_lists

    total = embeddings.num_rows("documents")
    sample = min(total, config.training_sample)
    lists = config.num_lists or min(default_num_lists(total), sample)
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


def read_centroids(writer: ArtifactWriter, shard: Shard) -> np.ndarray:
    """Return the centroids, float32 [L, D]."""
    column = writer.read_finished(shard).column("embedding").combine_chunks()
    centroids_LD: np.ndarray = column.values.to_numpy().reshape(-1, column.type.list_size)
    return centroids_LD


def write_lists(
    row: dict[str, Any],
    writer: ArtifactWriter,
    embeddings: Artifact,
    groups: tuple[tuple[int, int], ...],
    centroids: Shard,
    table: str,
) -> dict[str, Any]:
    """Assign the rows of one group of documents to their lists, write them and return the receipt."""
    from models.search.ivf import assign_lists

    documents = read_documents(embeddings, range(*groups[row["group"]]), "cpu")
    list_N = assign_lists(documents.doc_ND, read_centroids(writer, centroids))
    shard = writer.write_shard(table, row["group"], pa.table({"list": list_N}, schema=_LISTS))
    return {"rows": shard.rows}


def read_lists(writer: ArtifactWriter, shard: Shard) -> np.ndarray:
    """Return the list of every row of a group, int64."""
    list_N: np.ndarray = writer.read_finished(shard).column("list").to_numpy()
    return list_N
