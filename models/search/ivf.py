"""Approximate search by inverted lists: only the documents of the lists nearest to a query are scored.

The centroids are trained once for a whole corpus, so the lists of its groups are parts of the same lists and the
candidates depend on no grouping. Scores are canonical, as those of an exact search.

Shapes: Q queries, N rows of documents, D dimensions, L lists, K survivors a query.
"""

import math

import numpy as np

from models.errors import ModelError
from models.search.exact import Documents

_ITERATIONS = 10


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
        self._index = faiss.IndexIVFFlat(self._quantizer, dimension, num_lists, faiss.METRIC_INNER_PRODUCT)
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
        return self._search(q_QD, k, self._documents.survivors(k))

    def _search(self, q_QD: np.ndarray, k: int, survivors: int) -> tuple[np.ndarray, np.ndarray]:
        _, rows_QK = self._index.search(q_QD, max(1, survivors))
        scores_QK, docs_QK = self._documents.rank(q_QD, rows_QK, k)
        # Chunks of a few documents can fill the survivors while the lists hold more.
        few = np.flatnonzero((docs_QK[:, -1] < 0) & (rows_QK[:, -1] >= 0))
        if len(few) and survivors < len(self._documents):
            deeper = min(len(self._documents), 2 * survivors)
            scores_QK[few], docs_QK[few] = self._search(q_QD[few], k, deeper)
        return scores_QK, docs_QK
