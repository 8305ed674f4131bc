"""Listwise distillation: the KL divergence of a group, with a temperature on either side.

Shapes: B rows, G documents of a group.
"""

import torch

from models.losses.batch import Groups
from models.losses.groups import log_softmax_of, scored, teacher_log_probabilities


def listwise_kl(
    batch: Groups, *, student_temperature: float = 0.05, teacher_temperature: float = 1.0
) -> torch.Tensor:
    """Take the KL divergence from the model's distribution over a group to the teacher's.

    ``L = mean_i sum_g p_ig (log p_ig - log_softmax(s_ig / T_s))``, p the teacher's softmax(t / T_t), without
    gradient (arXiv 2502.19712). 0 where both agree. Averages over the rows of the global batch; a row with fewer
    than two scored documents has 0.

    Args:
        batch: With ``teacher_BG``; documents that the teacher did not score are left out.
        student_temperature: Divides the model's scores; above 0.
        teacher_temperature: Divides the teacher's; above 0.

    Returns:
        A scalar, float32 (float64 stays float64).
    """
    counted_BG = scored(batch)
    own_BG = log_softmax_of(batch.scores_BG / student_temperature, counted_BG)
    teacher_BG = teacher_log_probabilities(batch, teacher_temperature).to(own_BG.dtype)
    return batch.mean((teacher_BG.exp() * (teacher_BG - own_BG)).masked_fill(~counted_BG, 0.0).sum(1))
