"""What every loss is given: the embeddings of a batch, or the scores of its groups, and who belongs to whom.

Shapes: B queries of one rank, M queries of all ranks, N documents of the whole batch, G documents of the largest
group, A answers of a negative at most, Q answered queries of the whole batch, D dimensions, E of the guide.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.nn.functional import normalize


@dataclass(frozen=True)
class Guide:
    """Embeddings of unit length that another, frozen model gives to the same texts.

    Args:
        q_BE: Of this rank's queries.
        doc_NE: Of the documents, as they stand in ``LossBatch.doc_ND``.
        q_ME: Of all ranks' queries, as they stand in ``LossBatch.q_MD``.
    """

    q_BE: torch.Tensor
    doc_NE: torch.Tensor
    q_ME: torch.Tensor

    def to(self, device: torch.device) -> "Guide":
        """Return the same on another device."""
        return Guide(self.q_BE.to(device), self.doc_NE.to(device), self.q_ME.to(device))


@dataclass(frozen=True)
class LossBatch:
    """One rank's rows, and what was gathered from all ranks.

    A loss adds up over the B rows, each times its weight, and divides by ``normalizer``. With the row count of the
    global batch in its place the losses of all ranks ADD UP to the loss of the batch, so where gradients are
    averaged over ranks, as DeepSpeed does, the caller multiplies by the number of ranks.

    Args:
        q_BD: Query embeddings of unit length.
        doc_ND: Document embeddings of unit length; every document once, padding apart.
        positive_B: int64, the row of ``doc_ND`` that is the query's positive.
        mask_BN: bool, False where a document is no negative of the row: padding, known positives of the query.
        weights_B: Weight of each row; 0 for padding.
        normalizer: What the weighted sum is divided by.
        q_MD: Query embeddings of all ranks.
        other_BM: bool, True where a query of the batch may be pushed away from the row: neither padding, nor the
            row's own query, nor one that shares a known positive with it.
        positive_M: int64, the row of ``doc_ND`` that is the positive of each of the M.
        group_BG: int64, the rows of ``doc_ND`` in the row's own group: its positive, then its negatives.
        group_mask_BG: bool, False where a group has fewer documents.
        log_counts_BN: Logarithm of how often a negative stands in the row's group, 0 for all other documents. None:
            none stands there more than once.
        teacher_BG: Scores that a teacher gave to query and document; NaN where it gave none.
        answer_QD: Embeddings of the queries that negatives answer.
        answers_BGA: int64, the rows of ``answer_QD`` that each document of the group answers; -1 for none.
        guide: What a guide makes of the texts.
    """

    q_BD: torch.Tensor
    doc_ND: torch.Tensor
    positive_B: torch.Tensor
    mask_BN: torch.Tensor
    weights_B: torch.Tensor
    normalizer: float
    q_MD: torch.Tensor | None = None
    other_BM: torch.Tensor | None = None
    positive_M: torch.Tensor | None = None
    group_BG: torch.Tensor | None = None
    group_mask_BG: torch.Tensor | None = None
    log_counts_BN: torch.Tensor | None = None
    teacher_BG: torch.Tensor | None = None
    answer_QD: torch.Tensor | None = None
    answers_BGA: torch.Tensor | None = None
    guide: Guide | None = None

    @property
    def scores_BG(self) -> torch.Tensor:
        """The inner products of every query with its own group, in float32 at least."""
        assert self.group_BG is not None
        q_BD, doc_ND = exact(self.q_BD, self.doc_ND)
        return torch.einsum("bd,bgd->bg", q_BD, doc_ND[self.group_BG])

    def prefix(self, dimension: int) -> "LossBatch":
        """Return the batch with every embedding cut to its first components and brought to unit length."""

        def cut(emb: torch.Tensor) -> torch.Tensor:
            return normalize(emb[:, :dimension], dim=-1)

        return replace(
            self,
            q_BD=cut(self.q_BD),
            doc_ND=cut(self.doc_ND),
            q_MD=None if self.q_MD is None else cut(self.q_MD),
            answer_QD=None if self.answer_QD is None else cut(self.answer_QD),
        )

    def mean(self, loss_B: torch.Tensor) -> torch.Tensor:
        """Return the sum over the rows, each times its weight, divided by ``normalizer``."""
        return weighted_mean(loss_B, self.weights_B, self.normalizer)


@dataclass(frozen=True)
class GroupBatch:
    """One rank's rows where a model scores pairs: no embeddings, and no documents but those of a row's own group.

    A loss adds up over the rows as over those of a LossBatch.

    Args:
        scores_BG: Of every query with its own group, its positive first; float32 at least.
        group_mask_BG: bool, False where a group has fewer documents.
        weights_B: Weight of each row; 0 for padding.
        normalizer: What the weighted sum is divided by.
        teacher_BG: Scores that a teacher gave to query and document; NaN where it gave none.
    """

    scores_BG: torch.Tensor
    group_mask_BG: torch.Tensor
    weights_B: torch.Tensor
    normalizer: float
    teacher_BG: torch.Tensor | None = None

    def mean(self, loss_B: torch.Tensor) -> torch.Tensor:
        """Return the sum over the rows, each times its weight, divided by ``normalizer``."""
        return weighted_mean(loss_B, self.weights_B, self.normalizer)


Groups = LossBatch | GroupBatch
"""What a loss that looks at a row's own group alone is given."""
Loss = Callable[..., torch.Tensor]
"""A batch and the loss's own settings in, a scalar out."""


def weighted_mean(loss_B: torch.Tensor, weights_B: torch.Tensor, normalizer: float) -> torch.Tensor:
    """Return the sum over the rows, each times its weight, divided by ``normalizer``."""
    return (loss_B * weights_B.to(loss_B.dtype)).sum() / normalizer


def exact(*tensors: Any) -> list[Any]:
    """Return the tensors in float32 at least: bfloat16 loses a sum over hundreds of terms."""
    return [tensor.to(torch.promote_types(tensor.dtype, torch.float32)) for tensor in tensors]
