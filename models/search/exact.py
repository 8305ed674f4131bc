"""Exact top-k by inner product: the same result, to the bit, for every backend, block size and sharding.

A fast matrix product finds k and some more survivors; they are scored again canonically, ordered by (score,
document) and cut. A query whose cut is not separated from the last survivor by more than rounding, as happens
when hundreds of documents are identical, is scanned once more against a threshold that cannot miss.

Shapes: Q queries, N documents, D dimensions, K survivors a query, B documents of one block.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch

from models.errors import ModelError
from models.search.canonical import order, rounding_bound, score_pairs

_QUERY_BLOCK = 1024
_DOCUMENT_BLOCK = 16_384


@dataclass(frozen=True)
class Documents:
    """The embeddings of a range of documents, made ready once for many searches.

    Args:
        doc_ND: Embeddings of any float dtype; kept as float32.
        first_document: Ordinal of row 0; row i is document ``first_document + i``.
        device: Where the torch backend computes, such as ``"cuda"``.
        document_block: Most documents of one matrix product of the torch backend and of a rescan.

    Raises:
        ModelError: An embedding holds a value that is not finite.
    """

    doc_ND: np.ndarray
    first_document: int = 0
    device: str = "cpu"
    document_block: int = _DOCUMENT_BLOCK
    max_norm: float = field(init=False)

    def __post_init__(self) -> None:
        doc_ND = _as_float32(self.doc_ND, "documents")
        object.__setattr__(self, "doc_ND", doc_ND)
        object.__setattr__(self, "max_norm", _max_norm(doc_ND, "documents", self.first_document))

    def __len__(self) -> int:
        return len(self.doc_ND)

    @cached_property
    def tensor_ND(self) -> torch.Tensor:
        """The embeddings on the device."""
        return _tensor(self.doc_ND).to(self.device)

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
        if k < 1:
            raise ModelError("k counts the documents to find", got=str(k), expected="at least 1")
        q_QD = _as_float32(q_QD, "queries")
        if len(self) and q_QD.shape[1] != self.doc_ND.shape[1]:
            raise ModelError(
                "queries and documents differ in dimension",
                got=f"{q_QD.shape[1]} and {self.doc_ND.shape[1]}",
                expected="embeddings of one model",
                fix="embed both with the same model and dimension",
            )
        scores_QK = np.full((len(q_QD), k), -np.inf, np.float32)
        docs_QK = np.full((len(q_QD), k), -1, np.int64)
        for start in range(0, len(q_QD) if len(self) else 0, _QUERY_BLOCK):
            rows = slice(start, start + _QUERY_BLOCK)
            scores_QK[rows], docs_QK[rows] = self._search_block(q_QD[rows], k, backend)
        return scores_QK, docs_QK

    def _search_block(self, q_QD: np.ndarray, k: int, backend: str) -> tuple[np.ndarray, np.ndarray]:
        bound = rounding_bound(q_QD.shape[1], _max_norm(q_QD, "queries", 0), self.max_norm)
        survivors = min(len(self), k + max(16, k // 8))
        raw_QK, rows_QK = SEARCHERS[backend](self, q_QD, survivors)
        queries = _tensor(q_QD).to(self.device)
        pairs = np.repeat(np.arange(len(q_QD)), survivors)
        scores_QK = self._score(queries, pairs, rows_QK.ravel()).reshape(rows_QK.shape)
        scores_QK, docs_QK = order(scores_QK, rows_QK, k)
        if survivors < len(self):
            # A document that did not survive has a raw score of at most the last survivor's.
            unsure = np.flatnonzero(scores_QK[:, -1] <= raw_QK.min(axis=1) + bound)
            for query in unsure:
                scores_QK[query], docs_QK[query] = self._rescan(
                    queries[query], scores_QK[query, -1] - bound, k
                )
        return scores_QK, np.where(docs_QK >= 0, docs_QK + self.first_document, -1)

    def _rescan(self, query_D: torch.Tensor, threshold: float, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Score every document that can be among the first k: its raw score reaches the threshold."""
        best = np.full((1, 0), 0, np.float32), np.full((1, 0), -1, np.int64)
        for start in range(0, len(self), self.document_block):
            raw_B = self.tensor_ND[start : start + self.document_block] @ query_D
            rows = start + torch.nonzero(raw_B >= threshold).ravel().cpu().numpy()
            scores = self._score(query_D[None], np.zeros_like(rows), rows)
            merged = np.concatenate([best[0], scores[None]], 1), np.concatenate([best[1], rows[None]], 1)
            best = order(*merged, k)
        return best[0][0], best[1][0]

    def _score(self, queries_QD: torch.Tensor, query_P: np.ndarray, document_P: np.ndarray) -> np.ndarray:
        queries = torch.from_numpy(query_P).to(self.device)
        documents = torch.from_numpy(document_P).to(self.device)
        return score_pairs(queries_QD, self.tensor_ND, queries, documents).cpu().numpy()


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
    queries, documents = _as_float32(queries_QD, "queries"), _as_float32(documents_ND, "documents")
    rows = [torch.from_numpy(np.array(rows_P, dtype=np.int64)) for rows_P in (query_rows, document_rows)]
    return score_pairs(_tensor(queries), _tensor(documents), *rows).numpy()


def _search_faiss(documents: Documents, q_QD: np.ndarray, survivors: int) -> tuple[np.ndarray, np.ndarray]:
    try:
        import faiss
    except ImportError as error:
        raise ModelError(
            "faiss is not installed", fix='pip install -e ".[cpu]" or pip install -e ".[gpu]"'
        ) from error

    metric = faiss.METRIC_INNER_PRODUCT
    # The GPU's selection holds at most 2,048 candidates a query.
    if documents.device.startswith("cuda") and faiss.get_num_gpus() > 0 and survivors <= 2048:
        resources = faiss.StandardGpuResources()
        return faiss.knn_gpu(resources, q_QD, documents.doc_ND, survivors, metric=metric)
    return faiss.knn(q_QD, documents.doc_ND, survivors, metric=metric)


@torch.inference_mode()
def _search_torch(documents: Documents, q_QD: np.ndarray, survivors: int) -> tuple[np.ndarray, np.ndarray]:
    queries_QD = _tensor(q_QD).to(documents.device)
    best_QK = torch.empty(len(q_QD), 0, device=documents.device)
    rows_QK = torch.empty(len(q_QD), 0, dtype=torch.int64, device=documents.device)
    for start in range(0, len(documents), documents.document_block):
        block_BD = documents.tensor_ND[start : start + documents.document_block]
        block_QB = queries_QD @ block_BD.T
        block_QK, columns_QK = block_QB.topk(min(survivors, len(block_BD)), dim=1, sorted=False)
        merged_QK = torch.cat([best_QK, block_QK], 1)
        merged_rows_QK = torch.cat([rows_QK, columns_QK + start], 1)
        best_QK, kept_QK = merged_QK.topk(min(survivors, merged_QK.shape[1]), dim=1, sorted=False)
        rows_QK = merged_rows_QK.gather(1, kept_QK)
    return best_QK.cpu().numpy(), rows_QK.cpu().numpy()


Searcher = Callable[[Documents, np.ndarray, int], tuple[np.ndarray, np.ndarray]]
SEARCHERS: dict[str, Searcher] = {"faiss": _search_faiss, "torch": _search_torch}


def _as_float32(x_ND: np.ndarray, name: str) -> np.ndarray:
    if x_ND.ndim != 2:
        raise ModelError(f"{name} are no matrix", got=f"shape {x_ND.shape}", expected="one embedding a row")
    return np.ascontiguousarray(x_ND, dtype=np.float32)


def _tensor(x_ND: np.ndarray) -> torch.Tensor:
    # torch warns of arrays that lie in read-only memory, such as a mapped file; nothing here writes to them.
    writable = x_ND if x_ND.flags.writeable else np.lib.stride_tricks.as_strided(x_ND, writeable=True)
    return torch.from_numpy(writable)


def _max_norm(x_ND: np.ndarray, name: str, first: int) -> float:
    norms_N = np.linalg.norm(x_ND, axis=1)
    bad = np.flatnonzero(~np.isfinite(norms_N))
    if len(bad):
        raise ModelError(
            f"{name} hold values that are not finite",
            where=f"row {first + bad[0]}",
            got=f"{len(bad)} such rows",
            expected="finite embeddings",
            fix="embed them again, in float32",
        )
    return float(norms_N.max(initial=0.0))
