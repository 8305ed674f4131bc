"""Search over embeddings held small: the nearest by code are candidates, which are scored again and ranked.

Memory holds some components of an embedding, a byte or a bit each. Scores are canonical, as those of an exact search:
where all documents are candidates and their whole embeddings are at hand, the result is that of an exact search, to
the bit.

Shapes: Q queries, N rows of documents, D dimensions, d of them held as codes, K candidates a query, P pairs.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from models.quantization import quantize, truncate
from models.search.canonical import best_of_document, order, score_pairs, tensor_of
from models.search.checks import checked_queries, max_norm

FaissIndex = Any
"""A faiss.Index or a faiss.IndexBinary: no class is above both, and each has members that the other lacks."""

# Components of the candidates that are brought to float32 at a time: 64 MiB.
_BLOCK_VALUES = 1 << 24


class Codes:
    """What memory holds of N embeddings; searched by faiss, on processors.

    Args:
        index: As ``build_index`` made it: of flat vectors, of bytes, or of bits.
        dimension: d, the components that it holds.
    """

    def __init__(self, index: FaissIndex, dimension: int) -> None:
        import faiss

        self.dimension = dimension
        self._index = index
        self._is_binary = isinstance(index, faiss.IndexBinary)

    def __len__(self) -> int:
        return int(self._index.ntotal)

    @property
    def num_bytes(self) -> int:
        """Bytes of all codes."""
        return len(self) * (self._index.code_size if self._is_binary else self._index.sa_code_size())

    def nearest(self, q_Qd: np.ndarray, count: int) -> np.ndarray:
        """Return the rows of the nearest codes, int64 [Q, count], nearest first.

        Bits are compared with the bits of the query, by Hamming distance, and of equal distances the smaller row comes
        first; bytes and flat vectors are multiplied with the query as it is.

        Args:
            q_Qd: float32 queries, of the components that are held.
            count: 1 to N.
        """
        q_QP = quantize(q_Qd, "ubinary") if self._is_binary else q_Qd
        rows: np.ndarray = self._index.search(q_QP, count)[1]
        return rows

    def decoded(self, rows: np.ndarray) -> np.ndarray:
        """Return what the codes of rows, int64 [P], stand for: float32 [P, d]; bits are -1 or 1, at unit length."""
        if not self._is_binary:
            vectors_Pd: np.ndarray = self._index.reconstruct_batch(rows)
            return vectors_Pd
        bits_Pd = np.unpackbits(self._bytes_NB[rows], axis=1, count=self.dimension)
        return (bits_Pd.astype(np.float32) * 2 - 1) / np.float32(self.dimension**0.5)

    @cached_property
    def _bytes_NB(self) -> np.ndarray:
        import faiss

        size = self._index.code_size
        bytes_NB: np.ndarray = faiss.rev_swig_ptr(self._index.xb.data(), len(self) * size).reshape(-1, size)
        return bytes_NB


@dataclass(frozen=True)
class RescoredDocuments:
    """Documents held as codes, the best of whose candidates are returned.

    Args:
        codes: Finds the candidates.
        dimension: D, components of a query.
        rescore_multiplier: Candidates for each document asked for, at least 1.
        emb_ND: What candidates are scored with, of any float dtype; of a file mapped into memory only the rows of
            candidates are read. None: with what their codes stand for.
        row_docs: Ordinal of every row, int64 [N], never falling; equal where rows are chunks of one document, which is
            scored by the best of its candidates. None: row i is document i.
    """

    codes: Codes
    dimension: int
    rescore_multiplier: int
    emb_ND: np.ndarray | None = None
    row_docs: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.codes)

    def top_k(self, q_QD: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the k best of ``rescore_multiplier * k`` candidates for every query.

        Args:
            q_QD: Query embeddings of any float dtype.
            k: Documents a query, at least 1.

        Returns:
            scores float32 [Q, k], falling, and docs int64 [Q, k]; of equal scores the smaller ordinal comes first; -inf
            and -1 where there are fewer than k documents.

        Raises:
            ModelError: k or the dimensions do not fit, or a query is not finite.
        """
        q_QD = checked_queries(q_QD, k, self.dimension)
        max_norm(q_QD, "queries")
        if not len(self) or not len(q_QD):
            return np.full((len(q_QD), k), -np.inf, np.float32), np.full((len(q_QD), k), -1, np.int64)
        held_Qd = q_QD if self.codes.dimension == self.dimension else truncate(q_QD, self.codes.dimension)
        # So many documents have so many rows, by and large.
        rows = -(-k * self.rescore_multiplier * len(self) // self._num_documents)
        return self._search(q_QD, held_Qd, k, min(len(self), rows))

    @cached_property
    def _num_documents(self) -> int:
        return len(self) if self.row_docs is None else len(np.unique(self.row_docs))

    def _search(
        self, q_QD: np.ndarray, held_Qd: np.ndarray, k: int, candidates: int
    ) -> tuple[np.ndarray, np.ndarray]:
        rows_QK = self.codes.nearest(held_Qd, candidates)
        scores_QK = self._scored(held_Qd if self.emb_ND is None else q_QD, rows_QK)
        if self.row_docs is None:
            return order(scores_QK, rows_QK, k)
        scores_QK, docs_QK = best_of_document(scores_QK, self.row_docs[rows_QK], k)
        # Chunks of a few documents can fill the candidates.
        few = np.flatnonzero(docs_QK[:, min(k, self._num_documents) - 1] < 0)
        if len(few):
            deeper = min(len(self), 2 * candidates)
            scores_QK[few], docs_QK[few] = self._search(q_QD[few], held_Qd[few], k, deeper)
        return scores_QK, docs_QK

    def _scored(self, q_QD: np.ndarray, rows_QK: np.ndarray) -> np.ndarray:
        """Return the scores of rows, float32 [Q, K]."""
        rows_P = rows_QK.reshape(-1)
        query_P = np.repeat(np.arange(len(rows_QK)), rows_QK.shape[1])
        scores_P = np.empty(len(rows_P), np.float32)
        block = max(1, _BLOCK_VALUES // q_QD.shape[1])
        for start in range(0, len(rows_P), block):
            part = slice(start, start + block)
            rows = rows_P[part]
            doc_PD = self.codes.decoded(rows) if self.emb_ND is None else self.emb_ND[rows]
            scores_P[part] = score_pairs(
                tensor_of(q_QD),
                tensor_of(doc_PD.astype(np.float32, copy=False)),
                torch.from_numpy(query_P[part]),
                torch.arange(len(rows)),
            ).numpy()
        return scores_P.reshape(rows_QK.shape)
