"""The loss of a recipe: its terms, each times its weight, added up.

Shapes: B rows of one rank, G documents of a group, K teachers.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from models.losses import LOSSES
from models.losses.batch import LossBatch
from pipelines.train.config import TrainConfig
from pipelines.train.loss_config import (
    BixseConfig,
    ClpConfig,
    InfonceConfig,
    MatryoshkaConfig,
    SoftLabelsConfig,
)

TEMPERED = (InfonceConfig, ClpConfig, SoftLabelsConfig, BixseConfig)
"""The losses that train.temperature divides the scores of."""


def objective(
    batch: LossBatch, teacher_BGK: torch.Tensor, teachers: Sequence[str], config: TrainConfig
) -> torch.Tensor:
    """Return this rank's part of the loss; the parts of all ranks add up to that of the global batch.

    Args:
        batch: Embeddings, masks and weights.
        teacher_BGK: The teachers' scores of each row's group, NaN where there is none.
        teachers: Their names, in that order.
        config: Names the losses.
    """

    def value(term: Any, rows: LossBatch) -> torch.Tensor:
        if isinstance(term, MatryoshkaConfig):
            return LOSSES[term.name](rows, loss=partial(total, term.of), **term.options)
        tempered = {"temperature": config.temperature} if isinstance(term, TEMPERED) else {}
        if hasattr(term, "teacher"):
            place = teachers.index(term.teacher) if term.teacher is not None else 0
            rows = replace(rows, teacher_BG=teacher_BGK[:, :, place])
        return LOSSES[term.name](rows, **tempered, **term.options)

    def total(terms: Sequence[Any], rows: LossBatch) -> torch.Tensor:
        first, *rest = (term.weight * value(term, rows) for term in terms)
        return torch.stack([first, *rest]).sum() if rest else first

    return total(config.loss, batch)
