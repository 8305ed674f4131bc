"""The spread-out term: texts that have nothing to do with each other should be orthogonal.

Shapes: B queries of one rank, M queries of all ranks, D dimensions.
"""

import torch

from models.losses.batch import LossBatch, exact


def spread_out(batch: LossBatch) -> torch.Tensor:
    """Take the second moment of the cosines between unrelated texts.

    ``L = sum_i sum_{j != i} ((q_i q_j)^2 + (p_i p_j)^2) / (n (n - 1))``, p the positives, n the rows of the global
    batch; pairs that share a known positive are left out (the second moment of Zhang et al., arXiv 1708.06320, as
    EmbeddingGemma uses it, arXiv 2509.20354). Averages over the PAIRS of the global batch: 0 for a single row.

    Args:
        batch: With ``q_MD``, ``other_BM``, ``positive_M``.

    Returns:
        A scalar, float32 (float64 stays float64).
    """
    assert batch.q_MD is not None and batch.other_BM is not None and batch.positive_M is not None
    q_BD, q_MD, doc_ND = exact(batch.q_BD, batch.q_MD, batch.doc_ND)
    positive_BD, positive_MD = doc_ND[batch.positive_B], doc_ND[batch.positive_M]
    squares_BM = (q_BD @ q_MD.T).square() + (positive_BD @ positive_MD.T).square()
    return batch.mean((squares_BM * batch.other_BM).sum(1)) / max(batch.normalizer - 1, 1)
