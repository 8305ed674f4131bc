"""Margin-MSE: the margins between positive and negatives become those of a teacher.

Shapes: B rows, G documents of a group.
"""

import torch

from models.losses.batch import Groups, exact
from models.losses.groups import scored


def margin_mse(batch: Groups, *, teacher_scale: float = 1.0) -> torch.Tensor:
    """Square the difference between the model's margins and the teacher's.

    ``L = mean_i mean_g ((s_i+ - s_ig) - c (t_i+ - t_ig))^2`` over the scored negatives g (Hofstaetter et al.,
    arXiv 2010.02666, eq. 4). Averages over the rows of the global batch; a row whose positive or whose negatives
    have no teacher score has 0.

    Args:
        batch: With ``teacher_BG``; documents that the teacher did not score are left out.
        teacher_scale: c; brings the teacher's margins to those of cosines, which lie between -2 and 2.

    Returns:
        A scalar, float32 (float64 stays float64).
    """
    assert batch.teacher_BG is not None
    scores_BG, (teacher_BG,) = batch.scores_BG, exact(batch.teacher_BG.detach().nan_to_num())
    counted_BG = scored(batch)
    counted_BG = (counted_BG & counted_BG[:, :1]).index_fill(
        1, torch.tensor([0], device=counted_BG.device), False
    )
    margin_BG = scores_BG[:, :1] - scores_BG
    wanted_BG = teacher_scale * (teacher_BG[:, :1] - teacher_BG)
    errors_BG = (margin_BG - wanted_BG.to(margin_BG.dtype)).square() * counted_BG
    return batch.mean(errors_BG.sum(1) / counted_BG.sum(1).clamp(min=1))
