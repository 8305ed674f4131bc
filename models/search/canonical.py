"""One score a (query, document) pair, whoever computes it: the same bits on every device and for every grid.

A matrix product sums in an order that depends on its shape, its library and its device, so two runs may order
near ties differently. Here a score is a float32 sum by repeated halving: multiplications and additions one by
one, which IEEE 754 rounds alike everywhere, in an order that depends on the dimension alone.

Shapes: Q queries, N documents, D dimensions, K candidates a query, P pairs.
"""

from types import SimpleNamespace

import numpy as np
import torch

# Products of one pass: 4 MB, which stay in a processor's cache, and enough to keep a GPU busy.
_BLOCK_VALUES = {"cpu": 1 << 20, "cuda": 1 << 26}
_NARROW = 32


def score_pairs(
    q_QD: torch.Tensor, doc_ND: torch.Tensor, query_P: torch.Tensor, document_P: torch.Tensor
) -> torch.Tensor:
    """Score pairs.

    Args:
        q_QD: float32 queries.
        doc_ND: float32 documents, on the same device.
        query_P: int64 row numbers of queries.
        document_P: int64 row numbers of documents.

    Returns:
        float32 [P].
    """
    scores_P = torch.empty(len(query_P), dtype=torch.float32, device=q_QD.device)
    block = max(1, _BLOCK_VALUES[q_QD.device.type] // q_QD.shape[1])
    for start in range(0, len(query_P), block):
        rows = slice(start, start + block)
        products_PD = doc_ND.index_select(0, document_P[rows])
        products_PD.mul_(q_QD.index_select(0, query_P[rows]))
        scores_P[rows] = _halving_sum(products_PD)
    return scores_P


def score_rows(q_QD: torch.Tensor, doc_ND: torch.Tensor, rows_QK: torch.Tensor) -> torch.Tensor:
    """Score the same number of documents for every query; the bits of ``score_pairs``, at less cost.

    Args:
        q_QD: float32 queries.
        doc_ND: float32 documents, on the same device.
        rows_QK: int64 row numbers of documents.

    Returns:
        float32 [Q, K].
    """
    scores_QK = torch.empty(rows_QK.shape, dtype=torch.float32, device=q_QD.device)
    width, dimension = rows_QK.shape[1], q_QD.shape[1]
    block = max(1, _BLOCK_VALUES[q_QD.device.type] // max(1, width * dimension))
    for start in range(0, len(rows_QK), block):
        queries = slice(start, start + block)
        products_PD = doc_ND.index_select(0, rows_QK[queries].reshape(-1))
        products_PD.view(-1, width, dimension).mul_(q_QD[queries, None])
        scores_QK[queries] = _halving_sum(products_PD).view(-1, width)
    return scores_QK


def rounding_bound(dimension: int, max_query_norm: float, max_document_norm: float) -> float:
    """Return how far two float32 evaluations of one inner product can lie apart.

    Each is off by at most ``n u / (1 - n u) * sum |q_i d_i|`` with n additions and u = 2^-24 (Higham,
    Accuracy and Stability of Numerical Algorithms, 3.1), and the sum is at most the product of the norms.
    """
    return 2.2 * (dimension + 1) * 2.0**-24 * max_query_norm * max_document_norm


def order(scores_QK: np.ndarray, docs_QK: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Sort candidates by score, the greater first, then by document ordinal, the smaller first, and cut at k.

    Args:
        scores_QK: float32; -inf where there is no candidate.
        docs_QK: int64 ordinals, each at most once a query; -1 where there is no candidate.
        k: Columns of the result.

    Returns:
        scores float32 [Q, k] and docs int64 [Q, k], padded with -inf and -1.
    """
    found = docs_QK.shape[1]
    if found < k:
        scores_QK = np.pad(scores_QK, ((0, 0), (0, k - found)), constant_values=-np.inf)
        docs_QK = np.pad(docs_QK, ((0, 0), (0, k - found)), constant_values=-1)
    # As unsigned numbers, -1 is the greatest: padding comes last.
    columns_QK = np.lexsort((docs_QK.view(np.uint64), -scores_QK), axis=-1)[:, :k]
    return np.take_along_axis(scores_QK, columns_QK, 1), np.take_along_axis(docs_QK, columns_QK, 1)


def best_of_document(scores_QK: np.ndarray, docs_QK: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Keep the best candidate of each document, then sort and cut as ``order`` does.

    Args:
        scores_QK: float32; -inf where there is no candidate.
        docs_QK: int64 ordinals, any number of times a query; -1 where there is no candidate.
        k: Columns of the result.

    Returns:
        scores float32 [Q, k] and docs int64 [Q, k], padded with -inf and -1.
    """
    columns_QK = np.lexsort((-scores_QK, docs_QK), axis=-1)
    scores_QK, docs_QK = (np.take_along_axis(x_QK, columns_QK, 1) for x_QK in (scores_QK, docs_QK))
    again_QK = np.zeros(docs_QK.shape, bool)
    again_QK[:, 1:] = docs_QK[:, 1:] == docs_QK[:, :-1]
    return order(
        np.where(again_QK, np.float32(-np.inf), scores_QK), np.where(again_QK, np.int64(-1), docs_QK), k
    )


def tensor_of(x_ND: np.ndarray) -> torch.Tensor:
    """Return the array as a tensor over the same memory, which must not be written to."""
    if x_ND.flags.writeable:
        return torch.from_numpy(x_ND)
    # torch warns of read-only arrays, such as a mapped file or a column of a table. The same memory is shown to it
    # as writable, by an owner that keeps the array.
    interface = {**x_ND.__array_interface__, "data": (x_ND.__array_interface__["data"][0], False)}
    return torch.from_numpy(np.asarray(SimpleNamespace(__array_interface__=interface, array=x_ND)))


def _halving_sum(x_PD: torch.Tensor) -> torch.Tensor:
    """Sum each row by adding its upper half to its lower half, in place, until one value is left."""
    width = x_PD.shape[1]
    while width > _NARROW:
        half = (width + 1) // 2
        x_PD[:, : width - half] += x_PD[:, half:width]
        width = half
    # Narrow rows are turned, or every step would touch a few values a row; the order of the sum is the same.
    x_DP = x_PD[:, :width].t().contiguous()
    while width > 1:
        half = (width + 1) // 2
        x_DP[: width - half] += x_DP[half:width]
        width = half
    return x_DP[0]
