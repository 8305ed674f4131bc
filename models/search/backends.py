"""What multiplies: the raw scores of the best rows, by faiss or by torch, good to rounding.

Shapes: Q queries, N documents, D dimensions, K survivors a query, B documents of one block, L lanes of a block,
H hits.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch

from models.errors import ModelError
from models.search.canonical import tensor_of

if TYPE_CHECKING:
    from models.search.exact import Documents

# Columns whose greatest score stands for all: the scan for hits then costs a thirtieth of the product.
_LANE = 32
_FIRST_BLOCKS = 2
# The selection of faiss on a GPU holds at most so many candidates a query.
_FAISS_GPU_SURVIVORS = 2048


def use_threads(count: int, backend: str) -> None:
    """Let searches of this process by ``backend`` compute with ``count`` threads."""
    torch.set_num_threads(count)
    if backend == "faiss":
        import faiss

        faiss.omp_set_num_threads(count)


def search_faiss(documents: "Documents", q_QD: np.ndarray, survivors: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the scores, float32 [Q, K], and the rows, int64 [Q, K], of the best ``survivors`` documents."""
    try:
        import faiss
    except ImportError as error:
        raise ModelError(
            "faiss is not installed", fix='pip install -e ".[cpu]" or pip install -e ".[gpu]"'
        ) from error

    if documents.device.startswith("cuda") and faiss.get_num_gpus() > 0 and survivors <= _FAISS_GPU_SURVIVORS:
        return documents.gpu_index.search(q_QD, survivors)
    return faiss.knn(q_QD, documents.doc_ND, survivors, metric=faiss.METRIC_INNER_PRODUCT)


@torch.inference_mode()
def search_torch(documents: "Documents", q_QD: np.ndarray, survivors: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the scores, float32 [Q, K], and the rows, int64 [Q, K], of the best ``survivors`` documents.

    A block of scores is never sorted whole: only its lanes with a score above the query's worst survivor are
    looked at, a few after the first blocks.
    """
    queries_QD = tensor_of(q_QD).to(documents.device)
    best = _Best(len(q_QD), survivors, documents.device)
    # The first block is wide, so that its lanes give a close threshold to begin with.
    block, first = documents.document_block, _FIRST_BLOCKS * documents.document_block
    edges = [0, *range(first, len(documents), block), len(documents)]
    for start, stop in pairwise(edges):
        if start in (0, first):
            width = -(-(stop - start) // _LANE) * _LANE
            scores_QB = torch.empty(len(q_QD), width, device=documents.device)
        torch.mm(queries_QD, documents.tensor_ND[start:stop].T, out=scores_QB[:, : stop - start])
        scores_QB[:, stop - start :] = -torch.inf
        best.add(scores_QB, start)
    return best.result()


class _Best:
    """The best scores of every query so far, hits that wait to be merged, and the score that a hit must exceed.

    Args:
        num_queries: Q.
        survivors: K.
        device: Where the scores lie.
    """

    def __init__(self, num_queries: int, survivors: int, device: str) -> None:
        self._scores_QK = torch.full((num_queries, survivors), -torch.inf, device=device)
        self._rows_QK = torch.full((num_queries, survivors), -1, dtype=torch.int64, device=device)
        self._threshold_Q1 = torch.full((num_queries, 1), -torch.inf, device=device)
        self._counts_Q = torch.zeros(num_queries, dtype=torch.int64, device=device)
        self._waiting: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
        self._num_waiting = 0

    def add(self, scores_QB: torch.Tensor, first_row: int) -> None:
        """Look through a block of scores; its width is a multiple of the lane, -inf where it has no document."""
        num_queries, survivors = self._scores_QK.shape
        lanes_QLB = scores_QB.view(num_queries, -1, _LANE)
        greatest_QL = lanes_QLB.amax(2)
        if first_row == 0:
            if greatest_QL.shape[1] < 2 * survivors:
                block_QK, columns_QK = scores_QB.topk(min(survivors, scores_QB.shape[1]), dim=1, sorted=False)
                self._merge(block_QK, columns_QK)
                return
            # As many lanes as there are survivors hold a score of at least this: no survivor has less.
            bounds_QK = greatest_QL.topk(survivors, dim=1, sorted=False).values
            bounds_Q1 = bounds_QK.amin(1, keepdim=True)
            self._threshold_Q1 = torch.nextafter(bounds_Q1, torch.full_like(bounds_Q1, -torch.inf))
        hit_query, hit_lane = (greatest_QL > self._threshold_Q1).nonzero(as_tuple=True)
        lanes_HB = lanes_QLB[hit_query, hit_lane]
        hit, column = (lanes_HB > self._threshold_Q1[hit_query]).nonzero(as_tuple=True)
        if not len(hit):
            return
        query_H = hit_query[hit]
        self._waiting.append((query_H, lanes_HB[hit, column], first_row + hit_lane[hit] * _LANE + column))
        self._counts_Q += torch.bincount(query_H, minlength=num_queries)
        self._num_waiting += len(hit)
        # The second bound is on memory: a few queries may have most of the hits.
        if self._num_waiting > num_queries * survivors or int(self._counts_Q.max()) > 4 * survivors:
            self._flush()

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        """Return scores and rows, in no order."""
        self._flush()
        return self._scores_QK.cpu().numpy(), self._rows_QK.cpu().numpy()

    def _flush(self) -> None:
        if not self._waiting:
            return
        query_H, score_H, row_H = (torch.cat(parts) for parts in zip(*self._waiting, strict=True))
        order = torch.argsort(query_H, stable=True)
        place = torch.arange(len(order), device=order.device)
        place -= (self._counts_Q.cumsum(0) - self._counts_Q)[query_H[order]]
        shape = (len(self._counts_Q), int(self._counts_Q.max()))
        hits_QH = torch.full(shape, -torch.inf, device=order.device)
        rows_QH = torch.full(shape, -1, dtype=torch.int64, device=order.device)
        hits_QH[query_H[order], place], rows_QH[query_H[order], place] = score_H[order], row_H[order]
        self._waiting, self._num_waiting = [], 0
        self._counts_Q.zero_()
        self._merge(hits_QH, rows_QH)

    def _merge(self, scores_QH: torch.Tensor, rows_QH: torch.Tensor) -> None:
        survivors = self._scores_QK.shape[1]
        merged_QM = torch.cat([self._scores_QK, scores_QH], 1)
        rows_QM = torch.cat([self._rows_QK, rows_QH], 1)
        self._scores_QK, kept_QK = merged_QM.topk(survivors, dim=1, sorted=False)
        self._rows_QK = rows_QM.gather(1, kept_QK)
        self._threshold_Q1 = self._scores_QK.amin(1, keepdim=True)


Searcher = Callable[["Documents", np.ndarray, int], tuple[np.ndarray, np.ndarray]]
SEARCHERS: dict[str, Searcher] = {"faiss": search_faiss, "torch": search_torch}
