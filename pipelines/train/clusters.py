"""Clusters of similar queries: batches drawn from one hold harder negatives.

Shapes: N queries, E dimensions, L clusters.
"""

import numpy as np

from cluster.artifacts import Artifact
from cluster.errors import UserError
from pipelines.train.guide import guide_vectors
from pipelines.train.stage_config import ClustersConfig


def cluster_queries(
    embeddings: Artifact, data: Artifact, queries: np.ndarray, config: ClustersConfig
) -> np.ndarray:
    """Return the cluster of each query, by spherical k-means.

    Args:
        embeddings: Of the stage encode, of ``data``.
        data: Ingest artifact.
        queries: int64 [N], rising and distinct.
        config: How many clusters, and the seed.

    Returns:
        int64 [N], from 0 to L - 1.

    Raises:
        UserError: There are fewer queries than clusters.
    """
    from models.search.ivf import nearest_lists, train_centroids

    if len(queries) < config.count:
        raise UserError(
            "more clusters than queries",
            where=f"train.batches.clusters.count, {data.manifest.key.rpartition('/')[2]}",
            got=str(config.count),
            expected=f"at most {len(queries)}",
            fix="lower it: a cluster should hold several batches",
        )
    q_NE = guide_vectors(embeddings, data, "query", queries)
    return nearest_lists(q_NE, train_centroids(q_NE, config.count, config.seed), 1)[:, 0]
