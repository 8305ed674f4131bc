"""BiXSE: binary cross entropy of every pair, with graded targets.

Shapes: B rows, N documents of the whole batch, G documents of a group.
"""

import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from models.losses.batch import LossBatch, exact
from models.losses.groups import scored
from models.losses.infonce import group_columns


def bixse(
    batch: LossBatch,
    *,
    temperature: float,
    midpoint: float = 0.5,
    sigmoid_targets: bool = False,
    in_batch_negatives: bool = True,
) -> torch.Tensor:
    """Treat every pair as a question of its own, whose answer is a probability.

    ``L = mean_i mean_j BCE(sigmoid((s_ij - midpoint) / t), y_ij)`` (arXiv 2508.06781): y is the teacher's score in
    the row's own group and 0 for documents of other rows. The inner mean runs over the row's scored documents and
    its in-batch negatives, the outer one over the rows of the global batch.

    Args:
        batch: With ``group_BG`` and ``teacher_BG``; documents that the teacher did not score are left out.
        temperature: Divides the scores; above 0.
        midpoint: The cosine that stands for a probability of one half.
        sigmoid_targets: Whether the teacher's scores are logits; else they lie in 0 to 1.
        in_batch_negatives: Whether documents of other rows count.

    Returns:
        A scalar, float32 (float64 stays float64).
    """
    assert batch.teacher_BG is not None
    (teacher_BG,) = exact(batch.teacher_BG.detach().nan_to_num())
    scores_BG, counted_BG = batch.scores_BG, scored(batch)
    targets_BG = (teacher_BG.sigmoid() if sigmoid_targets else teacher_BG).to(scores_BG.dtype)
    own_BG = binary_cross_entropy_with_logits(
        (scores_BG - midpoint) / temperature, targets_BG, reduction="none"
    )
    total_B, count_B = (own_BG * counted_BG).sum(1), counted_BG.sum(1)
    if in_batch_negatives:
        q_BD, doc_ND = exact(batch.q_BD, batch.doc_ND)
        others_BN = batch.mask_BN & ~group_columns(batch)
        logits_BN = (q_BD @ doc_ND.T - midpoint) / temperature
        others = binary_cross_entropy_with_logits(logits_BN, torch.zeros_like(logits_BN), reduction="none")
        total_B, count_B = total_B + (others * others_BN).sum(1), count_B + others_BN.sum(1)
    return batch.mean(total_B / count_B.clamp(min=1))
