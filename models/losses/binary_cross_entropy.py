"""Binary cross entropy: every pair of a group is a question of its own, relevant or not.

Shapes: B rows, G documents of a group.
"""

import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from models.losses.batch import Groups, exact


def binary_cross_entropy(batch: Groups, *, positive_weight: float = 1.0) -> torch.Tensor:
    """Ask of every document of a group whether it is the positive, which is the first one.

    ``L = mean_i mean_g BCE(sigmoid(s_ig), [g is the positive])``, the positive's term times ``positive_weight``
    (Nogueira and Cho, arXiv 1901.04085, eq. 1). The inner mean runs over the documents of the row's group, the outer
    one over the rows of the global batch.

    Args:
        batch: Scores that are logits: 0 stands for a probability of one half.
        positive_weight: Above 0; the number of negatives balances both sides.

    Returns:
        A scalar, float32 (float64 stays float64).
    """
    assert batch.group_mask_BG is not None
    (scores_BG,) = exact(batch.scores_BG)
    wanted_BG = torch.zeros_like(scores_BG)
    wanted_BG[:, 0] = 1.0
    terms_BG = binary_cross_entropy_with_logits(
        scores_BG, wanted_BG, reduction="none", pos_weight=scores_BG.new_tensor(positive_weight)
    )
    counted_BG = batch.group_mask_BG
    return batch.mean((terms_BG * counted_BG).sum(1) / counted_BG.sum(1).clamp(min=1))
