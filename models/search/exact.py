"""Exact top-k by inner product: the same result, to the bit, for every backend, block size and sharding.

A fast matrix product finds k and some more survivors; they are scored again canonically, ordered by (score,
document) and cut. Queries whose cut is not separated from the last survivor by more than rounding, as happens
when hundreds of documents are identical, are scanned once more against a threshold that cannot miss.

A document may have several rows, its chunks; it is scored by the best of them.

Shapes: Q queries, N rows of documents, D dimensions, K survivors a query, B rows of one block, P pairs.
"""

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch

from models.errors import ModelError
from models.search.backends import SEARCHERS
from models.search.canonical import (
    best_of_document,
    order,
    rounding_bound,
    score_pairs,
    score_rows,
    tensor_of,
)
from models.search.checks import as_float32, checked_queries, max_norm

if TYPE_CHECKING:
    import faiss

_QUERY_BLOCK = 1024
_RESCAN_QUERIES = 64
# Scores of one block: few enough to stay in a processor's cache, enough to fill a GPU.
_DOCUMENT_BLOCKS = {"cpu": 8192, "cuda": 32_768}


@dataclass(frozen=True)
class Documents:
    """The embeddings of a range of documents, made ready once for many searches.

    Args:
        doc_ND: Embeddings of any float dtype; kept as float32.
        first_document: Ordinal of row 0 where row i is document ``first_document + i``.
        device: Where the torch backend computes, such as ``"cuda"``.
        document_block: Most rows of one matrix product of the torch backend and of a rescan; 0: as suits the
            device.
        row_docs: Ordinal of every row, int64 [N], never falling; equal where rows are chunks of one document. In
            place of ``first_document``.

    Raises:
        ModelError: An embedding holds a value that is not finite, or ``row_docs`` does not fit.
    """

    doc_ND: np.ndarray
    first_document: int = 0
    device: str = "cpu"
    document_block: int = 0
    row_docs: np.ndarray | None = None
    max_norm: float = field(init=False)

    def __post_init__(self) -> None:
        doc_ND = as_float32(self.doc_ND, "documents")
        object.__setattr__(self, "doc_ND", doc_ND)
        object.__setattr__(self, "max_norm", max_norm(doc_ND, "documents", self.first_document))
        block = self.document_block or _DOCUMENT_BLOCKS[self.device.partition(":")[0]]
        object.__setattr__(self, "document_block", block)
        if self.row_docs is not None and (
            len(self.row_docs) != len(doc_ND) or np.any(np.diff(self.row_docs) < 0)
        ):
            raise ModelError(
                "ordinals do not fit the rows of documents",
                got=f"{len(self.row_docs)} ordinals for {len(doc_ND)} rows",
                expected="one a row, chunks of a document side by side, documents in order",
            )

    def __len__(self) -> int:
        return len(self.doc_ND)

    @cached_property
    def tensor_ND(self) -> torch.Tensor:
        """The embeddings on the device."""
        return tensor_of(self.doc_ND).to(self.device)

    @cached_property
    def gpu_index(self) -> "faiss.GpuIndexFlatIP":
        """The embeddings as faiss holds them on a GPU."""
        import faiss

        index = faiss.GpuIndexFlatIP(faiss.StandardGpuResources(), self.doc_ND.shape[1])
        index.add(self.doc_ND)
        return index

    @cached_property
    def max_chunks(self) -> int:
        """Most rows of one document, at least 1."""
        if self.row_docs is None:
            return 1
        return int(np.unique(self.row_docs, return_counts=True)[1].max(initial=1))

    def ordinals(self, rows: np.ndarray) -> np.ndarray:
        """Return the documents of rows, int64; -1 where the row is -1."""
        docs = rows + self.first_document if self.row_docs is None else self.row_docs[rows]
        return np.where(rows >= 0, docs, -1)

    def holds(self, docs: np.ndarray) -> np.ndarray:
        """Return which ordinals are documents of this range, bool of the same shape."""
        if self.row_docs is None:
            return (docs >= self.first_document) & (docs < self.first_document + len(self))
        return np.isin(docs, self.row_docs)

    def top_k(self, q_QD: np.ndarray, k: int, backend: str = "faiss") -> tuple[np.ndarray, np.ndarray]:
        """Return the k documents of greatest inner product for every query.

        Args:
            q_QD: Query embeddings of any float dtype.
            k: Candidates a query, at least 1.
            backend: A name in SEARCHERS.

        Returns:
            scores float32 [Q, k], falling, and docs int64 [Q, k]; of equal scores the smaller ordinal comes
            first; -inf and -1 where there are fewer than k documents.

        Raises:
            ModelError: k, the backend or the dimensions do not fit, or a query is not finite.
        """
        if backend not in SEARCHERS:
            raise ModelError("unknown search backend", got=repr(backend), expected=", ".join(SEARCHERS))
        q_QD = self.checked_queries(q_QD, k)
        scores_QK = np.full((len(q_QD), k), -np.inf, np.float32)
        docs_QK = np.full((len(q_QD), k), -1, np.int64)
        for start in range(0, len(q_QD) if len(self) else 0, _QUERY_BLOCK):
            rows = slice(start, start + _QUERY_BLOCK)
            scores_QK[rows], docs_QK[rows] = self._search_block(q_QD[rows], k, backend, self.survivors(k))
        return scores_QK, docs_QK

    def checked_queries(self, q_QD: np.ndarray, k: int) -> np.ndarray:
        """Return the queries as float32 if they and k can be searched here."""
        return checked_queries(q_QD, k, self.doc_ND.shape[1] if len(self) else None)

    def survivors(self, k: int) -> int:
        """Return how many rows of a fast search to score again, so that k documents will mostly be among them."""
        chunks = min(self.max_chunks, 2 * -(-len(self) // self._num_documents))
        return min(len(self), (k + max(min(16, 4 * k), k // 8)) * chunks)

    @cached_property
    def _num_documents(self) -> int:
        return len(self) if self.row_docs is None else len(np.unique(self.row_docs))

    def rank(self, q_QD: np.ndarray, rows_QK: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Score rows (int64 [Q, K], -1 where there is none) canonically and return their best k documents."""
        queries = tensor_of(q_QD).to(self.device)
        found = torch.from_numpy(np.maximum(rows_QK, 0)).to(self.device)
        scores_QK = score_rows(queries, self.tensor_ND, found).cpu().numpy()
        scores_QK[rows_QK < 0] = -np.inf
        keep = order if self.max_chunks == 1 else best_of_document
        return keep(scores_QK, self.ordinals(rows_QK), k)

    def pair_scores(self, q_QD: np.ndarray, query_P: np.ndarray, docs_P: np.ndarray) -> np.ndarray:
        """Score pairs of a query's row and a document's ordinal; equal to the bit to what ``top_k`` returns.

        Returns:
            float32 [P]: of a document with several rows, the best.

        Raises:
            ModelError: A document is not in this range.
        """
        if not self.holds(docs_P).all():
            raise ModelError("a document has no embedding here", got=str(docs_P[~self.holds(docs_P)][0]))
        queries = tensor_of(as_float32(q_QD, "queries")).to(self.device)
        if self.row_docs is None or not len(docs_P):
            return self._score(queries, query_P, docs_P - self.first_document)
        first_P = np.searchsorted(self.row_docs, docs_P)
        counts_P = np.searchsorted(self.row_docs, docs_P, side="right") - first_P
        starts_P = np.cumsum(counts_P) - counts_P
        rows = np.arange(counts_P.sum()) + np.repeat(first_P - starts_P, counts_P)
        best_P: np.ndarray = np.maximum.reduceat(
            self._score(queries, np.repeat(query_P, counts_P), rows), starts_P
        )
        return best_P

    def _search_block(
        self, q_QD: np.ndarray, k: int, backend: str, survivors: int
    ) -> tuple[np.ndarray, np.ndarray]:
        bound = rounding_bound(q_QD.shape[1], max_norm(q_QD, "queries"), self.max_norm)
        raw_QK, rows_QK = SEARCHERS[backend](self, q_QD, survivors)
        scores_QK, docs_QK = self.rank(q_QD, rows_QK, k)
        if survivors == len(self):
            return scores_QK, docs_QK
        last = min(k, self._num_documents) - 1
        # Chunks of a few documents can fill the survivors.
        few = np.flatnonzero(docs_QK[:, last] < 0)
        if len(few):
            deeper = min(len(self), 2 * survivors)
            scores_QK[few], docs_QK[few] = self._search_block(q_QD[few], k, backend, deeper)
        # A row that did not survive has a raw score of at most the last survivor's.
        unsure = np.setdiff1d(np.flatnonzero(scores_QK[:, last] <= raw_QK.min(axis=1) + bound), few)
        for start in range(0, len(unsure), _RESCAN_QUERIES):
            rows = unsure[start : start + _RESCAN_QUERIES]
            scores_QK[rows], docs_QK[rows] = self._rescan(q_QD[rows], scores_QK[rows, last] - bound, k)
        return scores_QK, docs_QK

    def _rescan(self, q_QD: np.ndarray, threshold_Q: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Score every row that can belong to the first k documents: its raw score reaches the threshold."""
        queries = tensor_of(q_QD).to(self.device)
        bounds_Q1 = torch.from_numpy(threshold_Q).to(self.device)[:, None]
        best = np.full((len(q_QD), 0), 0, np.float32), np.full((len(q_QD), 0), -1, np.int64)
        keep = order if self.max_chunks == 1 else best_of_document
        for start in range(0, len(self), self.document_block):
            raw_QB = queries @ self.tensor_ND[start : start + self.document_block].T
            reached_QB = (raw_QB >= bounds_Q1).cpu().numpy()
            query, column = np.nonzero(reached_QB)
            if not len(query):
                continue
            counts_Q = np.bincount(query, minlength=len(q_QD))
            place = np.arange(len(query)) - (np.cumsum(counts_Q) - counts_Q)[query]
            shape = (len(q_QD), int(counts_Q.max()))
            scores_QH, docs_QH = np.full(shape, -np.inf, np.float32), np.full(shape, -1, np.int64)
            scores_QH[query, place] = self._score(queries, query, start + column)
            docs_QH[query, place] = self.ordinals(start + column)
            merged = np.concatenate([best[0], scores_QH], 1), np.concatenate([best[1], docs_QH], 1)
            best = keep(*merged, k)
        return best

    def _score(self, queries_QD: torch.Tensor, query_P: np.ndarray, row_P: np.ndarray) -> np.ndarray:
        queries = torch.from_numpy(query_P).to(self.device)
        rows = torch.from_numpy(row_P).to(self.device)
        return score_pairs(queries_QD, self.tensor_ND, queries, rows).cpu().numpy()


def top_k(
    queries_QD: np.ndarray,
    documents_ND: np.ndarray,
    k: int,
    first_document: int = 0,
    backend: str = "faiss",
    device: str = "cpu",
) -> tuple[np.ndarray, np.ndarray]:
    """Search once; see ``Documents``, which serves many searches over the same documents."""
    return Documents(documents_ND, first_document, device).top_k(queries_QD, k, backend)


def pair_scores(
    queries_QD: np.ndarray, documents_ND: np.ndarray, query_rows: np.ndarray, document_rows: np.ndarray
) -> np.ndarray:
    """Score given pairs; equal to the bit to what ``top_k`` returns for them.

    Args:
        queries_QD: Query embeddings of any float dtype.
        documents_ND: Document embeddings of any float dtype.
        query_rows: int [P].
        document_rows: int [P].

    Returns:
        float32 [P].
    """
    queries, documents = as_float32(queries_QD, "queries"), as_float32(documents_ND, "documents")
    rows = [torch.from_numpy(np.array(rows_P, dtype=np.int64)) for rows_P in (query_rows, document_rows)]
    return score_pairs(tensor_of(queries), tensor_of(documents), *rows).numpy()
