"""The documents of a row's own group: which of them a teacher has scored, and distributions over them.

Shapes: B rows, G documents of a group.
"""

import torch

from models.losses.batch import Groups, exact


def scored(batch: Groups) -> torch.Tensor:
    """Return bool [B, G]: the documents of the group that have a finite teacher score."""
    assert batch.group_mask_BG is not None and batch.teacher_BG is not None
    return batch.group_mask_BG & batch.teacher_BG.isfinite()


def log_softmax_of(logits_BG: torch.Tensor, counted_BG: torch.Tensor) -> torch.Tensor:
    """Return the log softmax over the counted documents; 0 elsewhere, and in rows without any.

    Not -inf elsewhere: what it is multiplied by is 0 there, and 0 times infinity is no number.
    """
    logits_BG = logits_BG.masked_fill(~counted_BG, torch.finfo(logits_BG.dtype).min)
    return torch.log_softmax(logits_BG, dim=1).masked_fill(~counted_BG, 0.0)


def teacher_log_probabilities(batch: Groups, temperature: float) -> torch.Tensor:
    """Return the teacher's log softmax over the scored documents, [B, G], without gradient."""
    assert batch.teacher_BG is not None
    (teacher_BG,) = exact(batch.teacher_BG.detach())
    return log_softmax_of(teacher_BG.nan_to_num() / temperature, scored(batch))
