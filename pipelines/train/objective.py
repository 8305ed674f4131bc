"""The loss of a recipe: its terms, each times its weight, added up.

Shapes: B rows of one rank, G documents of a group, K teachers.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from models.losses import LOSSES
from models.losses.batch import Groups
from pipelines.train.loss_config import (
    BixseConfig,
    ClpConfig,
    InfonceConfig,
    MatryoshkaConfig,
    SoftLabelsConfig,
)

TEMPERED = (InfonceConfig, ClpConfig, SoftLabelsConfig, BixseConfig)
"""The losses whose scores the training's temperature divides."""


def objective(
    batch: Groups,
    teacher_BGK: torch.Tensor,
    teachers: Sequence[str],
    losses: Sequence[Any],
    temperature: float,
) -> torch.Tensor:
    """Return this rank's part of the loss; the parts of all ranks add up to that of the global batch.

    Args:
        batch: Embeddings or scores, masks and weights.
        teacher_BGK: The teachers' scores of each row's group, NaN where there is none.
        teachers: Their names, in that order.
        losses: Terms as a recipe names them.
        temperature: Divides the scores of the losses that have no temperature of their own.
    """

    def value(term: Any, rows: Groups) -> torch.Tensor:
        if isinstance(term, MatryoshkaConfig):
            return LOSSES[term.name](rows, loss=partial(total, term.of), **term.options)
        tempered = {"temperature": temperature} if isinstance(term, TEMPERED) else {}
        if hasattr(term, "teacher"):
            place = teachers.index(term.teacher) if term.teacher is not None else 0
            rows = replace(rows, teacher_BG=teacher_BGK[:, :, place])
        return LOSSES[term.name](rows, **tempered, **term.options)

    def total(terms: Sequence[Any], rows: Groups) -> torch.Tensor:
        first, *rest = (term.weight * value(term, rows) for term in terms)
        return torch.stack([first, *rest]).sum() if rest else first

    return total(losses, batch)
