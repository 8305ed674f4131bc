"""Approximate search by inverted lists: only the documents of the lists nearest to a query are scored.

The centroids are trained once for a whole corpus, so the lists of its groups are parts of the same lists and the
candidates depend on no grouping. Scores are canonical, as those of an exact search.

Shapes: Q queries, N rows of documents, D dimensions, L lists, P of them probed, K survivors a query.
"""

import math
from typing import Any

import numpy as np

from models.errors import ModelError
from models.search.canonical import rounding_bound
from models.search.checks import max_norm
from models.search.exact import Documents

_ITERATIONS = 10
# Survivors of all queries that are searched deeper at a time: they and their scores take some 200 MB.
_DEEPER_ROWS = 1 << 22


def default_num_lists(num_embeddings: int) -> int:
    """Return about four times the square root of the number of embeddings, and no more than there are."""
    return max(1, min(num_embeddings, round(4 * math.sqrt(num_embeddings))))


def train_centroids(sample_ND: np.ndarray, num_lists: int, seed: int) -> np.ndarray:
    """Cluster a sample of embeddings by spherical k-means.

    Args:
        sample_ND: Embeddings of any float dtype.
        num_lists: L.
        seed: Of the first centroids.

    Returns:
        Unit-norm centroids, float32 [L, D].

    Raises:
        ModelError: There are fewer embeddings than lists, or one is not finite.
    """
    import faiss

    sample_ND = Documents(sample_ND).doc_ND
    if len(sample_ND) < num_lists:
        raise ModelError(
            "too few embeddings to train the lists of an index",
            got=f"{len(sample_ND)} for {num_lists} lists",
            expected="at least one a list",
            fix="lower ivf.num_lists or raise ivf.training_sample",
        )
    kmeans = faiss.Kmeans(
        sample_ND.shape[1],
        num_lists,
        niter=_ITERATIONS,
        seed=seed,
        spherical=True,
        min_points_per_centroid=1,
        max_points_per_centroid=len(sample_ND),
    )
    kmeans.train(sample_ND)
    return np.asarray(kmeans.centroids, np.float32)


def assign_lists(doc_ND: np.ndarray, centroids_LD: np.ndarray) -> np.ndarray:
    """Return the list of each embedding, int64 [N]: that of the centroid of greatest inner product."""
    return Documents(centroids_LD).top_k(doc_ND, 1, "torch")[1][:, 0]


class ListedDocuments:
    """A group of documents in inverted lists, made ready once for many searches; holds the embeddings twice.

    Args:
        documents: The group, on the CPU.
        centroids_LD: Of all lists of the corpus.
        list_N: List of every row, int64.
        num_probes: Lists that a query looks into.
    """

    def __init__(
        self, documents: Documents, centroids_LD: np.ndarray, list_N: np.ndarray, num_probes: int
    ) -> None:
        import faiss

        num_lists, dimension = centroids_LD.shape
        self._documents = documents
        self._quantizer = faiss.IndexFlatIP(dimension)
        self._quantizer.add(np.ascontiguousarray(centroids_LD))
        # Any: the types of faiss know search_preassigned as C++ calls it only.
        self._index: Any = faiss.IndexIVFFlat(
            self._quantizer, dimension, num_lists, faiss.METRIC_INNER_PRODUCT
        )
        self._index.is_trained = True
        self._index.nprobe = min(num_probes, num_lists)
        rows, lists = np.arange(len(documents)), np.ascontiguousarray(list_N, np.int64)
        self._index.add_core(
            len(documents), *(faiss.swig_ptr(array) for array in (documents.doc_ND, rows, lists))
        )

    def top_k(self, q_QD: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the k best documents that the probed lists hold.

        Args:
            q_QD: Query embeddings of any float dtype.
            k: Candidates a query, at least 1.

        Returns:
            scores float32 [Q, k], falling, and docs int64 [Q, k]; of equal scores the smaller ordinal comes
            first; -inf and -1 where the lists hold fewer.

        Raises:
            ModelError: k or the dimensions do not fit, or a query is not finite.
        """
        q_QD = Documents(self._documents.checked_queries(q_QD, k)).doc_ND
        # Once for all rounds: a product of fewer queries may round otherwise and choose another list.
        probes = self._quantizer.search(q_QD, self._index.nprobe)
        return self._search(q_QD, probes, k, self._documents.survivors(k))

    def _search(
        self, q_QD: np.ndarray, probes: tuple[np.ndarray, np.ndarray], k: int, survivors: int
    ) -> tuple[np.ndarray, np.ndarray]:
        centroid_scores_QP, lists_QP = probes
        raw_QK, rows_QK = self._index.search_preassigned(
            q_QD, max(1, survivors), lists_QP, centroid_scores_QP
        )
        scores_QK, docs_QK = self._documents.rank(q_QD, rows_QK, k)
        if survivors >= len(self._documents):
            return scores_QK, docs_QK
        # Chunks of a few documents can fill the survivors while the lists hold more, and of equal scores faiss
        # keeps those it met first. A row that did not survive has a raw score of at most the last survivor's.
        bound = rounding_bound(q_QD.shape[1], max_norm(q_QD, "queries"), self._documents.max_norm)
        unsure_Q = (docs_QK[:, -1] < 0) | (scores_QK[:, -1] <= raw_QK[:, -1] + bound)
        unsure = np.flatnonzero(unsure_Q & (rows_QK[:, -1] >= 0))
        deeper = min(len(self._documents), 2 * survivors)
        block = max(1, _DEEPER_ROWS // deeper)
        for start in range(0, len(unsure), block):
            part = unsure[start : start + block]
            mine = centroid_scores_QP[part], lists_QP[part]
            scores_QK[part], docs_QK[part] = self._search(q_QD[part], mine, k, deeper)
        return scores_QK, docs_QK
