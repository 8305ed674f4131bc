"""Approximate search by inverted lists: only the documents of the lists nearest to a query are scored.

The centroids are trained once for a whole corpus, so the lists of its groups are parts of the same lists and the
candidates depend on no grouping. Scores are canonical, as those of an exact search.

Shapes: Q queries, N rows of documents, D dimensions, L lists, P of them probed, K survivors a query, W rows of all
lists that a query looks into.
"""

from functools import cached_property
from typing import Any

import numpy as np
import torch

from models.errors import ModelError
from models.search.canonical import rounding_bound, tensor_of
from models.search.checks import max_norm
from models.search.exact import Documents

_ITERATIONS = 10
# Survivors of all queries that are searched deeper at a time: they and their scores take some 200 MB.
_DEEPER_ROWS = 1 << 22
# Rows of all queries of a block that torch scans, and values of those that it gathers at a time: 256 MB.
_SCANNED_ROWS = 1 << 22
_SCANNED_VALUES = 1 << 26


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


def nearest_lists(x_ND: np.ndarray, centroids_LD: np.ndarray, count: int, device: str = "cpu") -> np.ndarray:
    """Return the lists of greatest inner product between embedding and centroid, nearest first.

    Args:
        x_ND: Embeddings of documents or queries, of any float dtype.
        centroids_LD: Of all lists.
        count: P; as many as there are lists where there are fewer.
        device: Where the products are computed; the result is the same everywhere.

    Returns:
        int64 [N, P].
    """
    lists = Documents(centroids_LD, device=device)
    return lists.top_k(x_ND, min(count, len(lists)), "torch")[1]


class ListedDocuments:
    """A group of documents in inverted lists, made ready once for many searches.

    Args:
        documents: The group; torch scans where it lies, faiss on the processor.
        list_N: List of every row, int64.
        backend: faiss, which holds the embeddings once more, or torch.
    """

    def __init__(self, documents: Documents, list_N: np.ndarray, backend: str = "faiss") -> None:
        self._documents = documents
        # Lists without a document in this group are never looked into.
        self._kept_L, self._list_N = np.unique(list_N, return_inverse=True)
        self._scan = {"faiss": self._scan_faiss, "torch": self._scan_torch}[backend]

    def top_k(self, lists_QP: np.ndarray, q_QD: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the k best documents that the given lists hold.

        Args:
            lists_QP: Lists to look into, int64, each once a query.
            q_QD: Query embeddings of any float dtype.
            k: Candidates a query, at least 1.

        Returns:
            scores float32 [Q, k], falling, and docs int64 [Q, k]; of equal scores the smaller ordinal comes
            first; -inf and -1 where the lists hold fewer.

        Raises:
            ModelError: k or the dimensions do not fit, or a query is not finite.
        """
        q_QD = Documents(self._documents.checked_queries(q_QD, k)).doc_ND
        if not len(self._kept_L):
            return np.full((len(q_QD), k), -np.inf, np.float32), np.full((len(q_QD), k), -1, np.int64)
        place_QP = np.searchsorted(self._kept_L, lists_QP).clip(max=len(self._kept_L) - 1)
        place_QP[self._kept_L[place_QP] != lists_QP] = -1
        # No query looks into more lists than there are; faiss would read rows of more as if they were shorter.
        place_QP = np.ascontiguousarray(-np.sort(-place_QP, axis=1)[:, : len(self._kept_L)])
        return self._search(q_QD, place_QP, k, self._documents.survivors(k))

    def _search(
        self, q_QD: np.ndarray, place_QP: np.ndarray, k: int, survivors: int
    ) -> tuple[np.ndarray, np.ndarray]:
        raw_QK, rows_QK = self._scan(q_QD, place_QP, survivors)
        scores_QK, docs_QK = self._documents.rank(q_QD, rows_QK, k)
        if survivors >= len(self._documents):
            return scores_QK, docs_QK
        # Chunks of a few documents can fill the survivors while the lists hold more, and of equal scores those
        # met first are kept. A row that did not survive has a raw score of at most the last survivor's.
        bound = rounding_bound(q_QD.shape[1], max_norm(q_QD, "queries"), self._documents.max_norm)
        unsure_Q = (docs_QK[:, -1] < 0) | (scores_QK[:, -1] <= raw_QK[:, -1] + bound)
        unsure = np.flatnonzero(unsure_Q & (rows_QK[:, -1] >= 0))
        deeper = min(len(self._documents), 2 * survivors)
        block = max(1, _DEEPER_ROWS // deeper)
        for start in range(0, len(unsure), block):
            part = unsure[start : start + block]
            scores_QK[part], docs_QK[part] = self._search(q_QD[part], place_QP[part], k, deeper)
        return scores_QK, docs_QK

    def _scan_faiss(
        self, q_QD: np.ndarray, place_QP: np.ndarray, survivors: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return scores, float32 [Q, K], falling, and rows, int64 [Q, K]; -1 where the lists hold fewer."""
        self._faiss_index.nprobe = place_QP.shape[1]
        unused_QP = np.zeros(place_QP.shape, np.float32)
        return self._faiss_index.search_preassigned(q_QD, survivors, place_QP, unused_QP)

    @cached_property
    def _faiss_index(self) -> Any:
        import faiss

        # Any: its types know search_preassigned as C++ calls it only.
        doc_ND, rows = self._documents.doc_ND, np.arange(len(self._documents))
        # Nobody asks it: the lists are given.
        self._quantizer = faiss.IndexFlatIP(doc_ND.shape[1])
        index = faiss.IndexIVFFlat(
            self._quantizer, doc_ND.shape[1], len(self._kept_L), faiss.METRIC_INNER_PRODUCT
        )
        index.is_trained = True
        index.add_core(len(doc_ND), *(faiss.swig_ptr(array) for array in (doc_ND, rows, self._list_N)))
        return index

    @torch.inference_mode()
    def _scan_torch(
        self, q_QD: np.ndarray, place_QP: np.ndarray, survivors: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """As ``_scan_faiss``; all rows of a query's lists side by side, padded to the longest of a block."""
        order_N, starts_L = self._rows_by_list
        documents, device = self._documents.tensor_ND, self._documents.device
        queries, places = tensor_of(q_QD).to(device), torch.from_numpy(place_QP).to(device)
        counts_QP = torch.where(places >= 0, starts_L[places + 1] - starts_L[places], 0)
        scores_QK = torch.full((len(q_QD), survivors), -torch.inf, device=device)
        rows_QK = torch.full((len(q_QD), survivors), -1, device=device)
        block = max(1, _SCANNED_ROWS // max(1, int(counts_QP.sum(1).amax()) if len(q_QD) else 1))
        for start in range(0, len(q_QD), block):
            part = slice(start, start + block)
            ends_QP = counts_QP[part].cumsum(1)
            column_QW = torch.arange(int(ends_QP.max()), device=device).expand(len(ends_QP), -1).contiguous()
            probe_QW = torch.searchsorted(ends_QP, column_QW, right=True)
            is_row_QW, probe_QW = probe_QW < ends_QP.shape[1], probe_QW.clamp(max=ends_QP.shape[1] - 1)
            first_QP = starts_L[places[part]] - (ends_QP - counts_QP[part])
            row_QW = order_N[(first_QP.gather(1, probe_QW) + column_QW).where(is_row_QW, 0)]
            score_QW = torch.empty(row_QW.shape, device=device)
            width = max(1, _SCANNED_VALUES // max(1, len(row_QW) * documents.shape[1]))
            for first in range(0, row_QW.shape[1], width):
                columns = slice(first, first + width)
                found_QWD = documents[row_QW[:, columns]]
                score_QW[:, columns] = torch.bmm(found_QWD, queries[part, :, None])[:, :, 0]
            score_QW[~is_row_QW] = -torch.inf
            best = score_QW.topk(min(survivors, score_QW.shape[1]))
            width = best.values.shape[1]
            scores_QK[part, :width] = best.values
            rows_QK[part, :width] = row_QW.where(is_row_QW, -1).gather(1, best.indices)
        return scores_QK.cpu().numpy(), rows_QK.cpu().numpy()

    @cached_property
    def _rows_by_list(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows in order of their lists, int64 [N], and where each list begins, with the end, int64 [L + 1]."""
        starts_L = np.searchsorted(np.sort(self._list_N), np.arange(len(self._kept_L) + 1))
        order_N = np.argsort(self._list_N, kind="stable")
        order, starts = (torch.from_numpy(each).to(self._documents.device) for each in (order_N, starts_L))
        return order, starts
