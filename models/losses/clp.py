"""Contrastive learning with penalty: a negative stays close to the queries that it does answer.

Shapes: B rows, G documents of a group, A answers of a document, Q answered queries of the batch, D dimensions.
"""

import torch

from models.losses.batch import LossBatch, exact
from models.losses.infonce import infonce


def clp(
    batch: LossBatch,
    *,
    temperature: float,
    lam: float = 0.1,
    false_negative_margin: float | None = None,
    in_batch_negatives: bool = True,
) -> torch.Tensor:
    """Mix InfoNCE with the distance of negatives from the queries they answer.

    ``L = (1 - lam) * infonce + lam * mean_i mean_j mean_a (1 - cos(e(nq_ija), e(n_ij)))`` over the negatives j of
    row i that answer a query, and the queries a they answer (arXiv 2412.17364; its printed formula has a sign
    error, this is what its code computes, which works at batch size 1 only). No temperature in the penalty;
    gradients flow to both sides. The penalty of a row whose negatives answer nothing is 0. Averages over the rows
    of the global batch.

    Args:
        batch: With ``group_BG``, ``answers_BGA`` and ``answer_QD``.
        temperature: Of the cross entropy; above 0.
        lam: Weight of the penalty, 0 to 1.
        false_negative_margin: As in infonce.
        in_batch_negatives: As in infonce; False and one row is the paper's.

    Returns:
        A scalar, float32 (float64 stays float64).
    """
    assert batch.answers_BGA is not None and batch.answer_QD is not None and batch.group_BG is not None
    contrast = infonce(
        batch,
        temperature=temperature,
        false_negative_margin=false_negative_margin,
        in_batch_negatives=in_batch_negatives,
    )
    known_BGA = batch.answers_BGA >= 0
    if not len(batch.answer_QD):
        return (1 - lam) * contrast
    doc_ND, answer_QD = exact(batch.doc_ND, batch.answer_QD)
    cosines_BGA = torch.einsum(
        "bgd,bgad->bga", doc_ND[batch.group_BG], answer_QD[batch.answers_BGA.clamp(min=0)]
    )
    far_BGA = (1 - cosines_BGA) * known_BGA
    far_BG = far_BGA.sum(2) / known_BGA.sum(2).clamp(min=1)
    far_B = far_BG.sum(1) / known_BGA.any(2).sum(1).clamp(min=1)
    return (1 - lam) * contrast + lam * batch.mean(far_B)
