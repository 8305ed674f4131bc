"""InfoNCE over a batch of queries and the documents gathered for it.

Shapes: B queries of one rank, N documents of the whole batch, D dimensions.
"""

import torch

from models.errors import ModelError


def infonce(
    q_BD: torch.Tensor,
    doc_ND: torch.Tensor,
    positive_B: torch.Tensor,
    mask_BN: torch.Tensor,
    weights_B: torch.Tensor,
    *,
    temperature: float,
    normalizer: float,
    false_negative_margin: float | None = None,
) -> torch.Tensor:
    """Score every query against every document and ask for its positive.

    ``L = sum_i w_i * -log(exp(s_i+ / t) / sum_j m_ij exp(s_ij / t)) / normalizer``, s the inner product
    (van den Oord et al. 2018, arXiv 1807.03748, eq. 4). The average runs over ``normalizer`` rows and nothing
    else: with the row count of the global batch in its place the losses of all ranks ADD UP to the loss of the
    batch, so where gradients are averaged over ranks, as DeepSpeed does, the caller multiplies by the number of
    ranks.

    Args:
        q_BD: Query embeddings of unit length.
        doc_ND: Document embeddings of unit length; every document once.
        positive_B: int64, the row of ``doc_ND`` that is the query's positive.
        mask_BN: bool, False where a term is left out of the sum: padding, known positives of the query. The
            positive itself always counts.
        weights_B: Weight of each row; 0 for padding.
        temperature: Divides the scores; above 0.
        normalizer: What the weighted sum is divided by.
        false_negative_margin: Leave out a document that scores above the positive by more than this, strictly
            (arXiv 2506.05176, eq. 2, has 0.1). None: keep them all.

    Returns:
        A scalar; float32, because bfloat16 loses a sum over hundreds of terms (float64 stays float64).

    Raises:
        ModelError: The temperature is not above 0.
    """
    if not temperature > 0:
        raise ModelError(
            "the temperature divides the scores", got=str(temperature), expected="above 0", fix="0.05"
        )
    dtype = torch.promote_types(q_BD.dtype, torch.float32)
    scores_BN = q_BD.to(dtype) @ doc_ND.to(dtype).T
    own_BN = torch.zeros_like(mask_BN).scatter(1, positive_B.unsqueeze(1), True)
    positive_B1 = scores_BN.gather(1, positive_B.unsqueeze(1))
    keep_BN = mask_BN
    if false_negative_margin is not None:
        keep_BN = keep_BN & ~(scores_BN.detach() > positive_B1.detach() + false_negative_margin)
    logits_BN = (scores_BN / temperature).masked_fill(~(keep_BN | own_BN), float("-inf"))
    loss_B = torch.logsumexp(logits_BN, dim=1) - positive_B1.squeeze(1) / temperature
    return (loss_B * weights_B.to(dtype)).sum() / normalizer
