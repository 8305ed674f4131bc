"""How much of the exact search an index finds: measured on a sample of queries while the index is built."""

import numpy as np

from cluster.artifacts import Artifact
from models.search.exact import Documents
from models.search.merge import merge_top_k
from models.search.rescored import RescoredDocuments

RECALL_K = 10


class Recall:
    """A sample of queries, and the documents that an exact search finds for them.

    Args:
        embeddings: The encode artifact.
        count: Queries of the sample, evenly spaced; documents where the artifact has no query.
    """

    def __init__(self, embeddings: Artifact, count: int) -> None:
        self.asked = "queries" if embeddings.num_rows("queries") else "documents"
        self.q_QD = sample_embeddings(embeddings, self.asked, count)
        num_queries = len(self.q_QD)
        self._best = np.zeros((num_queries, 0), np.float32), np.zeros((num_queries, 0), np.int64)

    def add(self, ids_M: np.ndarray, emb_MD: np.ndarray) -> None:
        """Search the rows of some documents, int64 ordinals ascending and their embeddings, exactly."""
        if len(self.q_QD):
            found = Documents(emb_MD, row_docs=ids_M).top_k(self.q_QD, RECALL_K, "torch")
            self._best = merge_top_k([self._best, found], RECALL_K)

    def of(self, documents: RescoredDocuments) -> dict[str, object] | None:
        """Return the share of the best documents that ``documents`` finds too, and of what; None without a query."""
        if not len(self.q_QD):
            return None
        _, found_QK = documents.top_k(self.q_QD, RECALL_K)
        share = share_found(found_QK, self._best[1])
        return {"k": RECALL_K, "value": round(share, 4), "num_queries": len(self.q_QD), "asked": self.asked}


def sample_embeddings(embeddings: Artifact, table: str, count: int) -> np.ndarray:
    """Return at most ``count`` embeddings of a table, evenly spaced, float32; only the shards they lie in are read."""
    starts = embeddings.first_rows(table)
    count = min(count, int(starts[-1]))
    rows = np.arange(count) * int(starts[-1]) // max(1, count)
    shards = np.searchsorted(starts, rows, side="right") - 1
    parts = [
        read_embeddings(embeddings, table, index)[1][rows[shards == index] - starts[index]]
        for index in np.unique(shards).tolist()
    ]
    return np.concatenate(parts).astype(np.float32) if parts else np.zeros((0, 0), np.float32)


def read_embeddings(embeddings: Artifact, table: str, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Return ordinals, int64 [M], and embeddings, [M, D] as they are stored, of one shard."""
    shard = embeddings.read_shard(table, index)
    column = shard.column("embedding").combine_chunks()
    return shard.column("id").to_numpy(), column.values.to_numpy().reshape(-1, column.type.list_size)


def share_found(found_QK: np.ndarray, true_QK: np.ndarray) -> float:
    """Return the share of the true documents, -1 where there are fewer, that were found for the same query."""
    pairs = zip(found_QK, true_QK, strict=True)
    hits = sum(int(np.isin(true_K[true_K >= 0], found_K).sum()) for found_K, true_K in pairs)
    return hits / max(1, int((true_QK >= 0).sum()))
