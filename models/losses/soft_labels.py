"""Soft labels: the group's documents are told apart as a teacher tells them apart.

Shapes: B rows, G documents of a group.
"""

import torch

from models.losses.batch import Groups
from models.losses.groups import log_softmax_of, scored, teacher_log_probabilities


def soft_labels(batch: Groups, *, temperature: float, teacher_temperature: float = 1.0) -> torch.Tensor:
    """Take the cross entropy between the teacher's distribution over a group and the model's own.

    ``L = mean_i - sum_g softmax(t_ig / T_t) log_softmax(s_ig / t)``, the teacher without gradient: the KL
    divergence but for a constant; what LG-ANNA (arXiv 2506.07438) adds to InfoNCE. Averages over the rows of the
    global batch; a row with fewer than two scored documents has 0.

    Args:
        batch: With ``teacher_BG``; documents that the teacher did not score are left out.
        temperature: Divides the model's scores; above 0.
        teacher_temperature: Divides the teacher's; 1 for logits of a reranker, about 0.1 for scores in 0 to 1.

    Returns:
        A scalar, float32 (float64 stays float64).
    """
    own_BG = log_softmax_of(batch.scores_BG / temperature, scored(batch))
    teacher_BG = teacher_log_probabilities(batch, teacher_temperature).exp().to(own_BG.dtype)
    return batch.mean(-(teacher_BG * own_BG).sum(1))
