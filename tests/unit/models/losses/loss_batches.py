"""Small batches for the tests of the losses, and what a loop over them needs."""

import math
from dataclasses import fields, replace

import torch
from torch.nn.functional import normalize

from models.losses.batch import Guide, LossBatch

NONE = float("nan")


def make_batch(dtype=torch.float64, num_rows=5, num_documents=9, dimension=6):
    """Return rows with ragged groups, missing scores, missing answers, a masked term and a row of weight 0."""
    generator = torch.Generator().manual_seed(7)

    def unit(count, width=dimension):
        return normalize(torch.randn(count, width, generator=generator, dtype=dtype), dim=-1)

    q_BD, doc_ND, answer_QD = unit(num_rows), unit(num_documents), unit(4)
    order = torch.randperm(num_documents, generator=generator)
    positive_B = order[:num_rows]
    group_BG = torch.stack(
        [positive_B, order[torch.arange(num_rows) - 4], order[torch.arange(num_rows) - 3]], 1
    )
    group_mask_BG = torch.tensor([[True, True, True]] * 3 + [[True, True, False], [True, False, False]])
    teacher_BG = torch.randn(num_rows, 3, generator=generator, dtype=dtype)
    teacher_BG[1, 2], teacher_BG[3, 0] = NONE, NONE
    answers_BGA = torch.full((num_rows, 3, 2), -1)
    answers_BGA[0, 1] = torch.tensor([2, 0])
    answers_BGA[0, 2, 0], answers_BGA[2, 1, 0] = 1, 3
    other_BM = ~torch.eye(num_rows, dtype=torch.bool)
    other_BM[0, 2] = other_BM[2, 0] = False
    return LossBatch(
        q_BD=q_BD, doc_ND=doc_ND, positive_B=positive_B,
        mask_BN=torch.rand(num_rows, num_documents, generator=generator) > 0.3,
        weights_B=torch.tensor([1.0, 1.0, 0.5, 0.0, 1.0], dtype=dtype), normalizer=4.0,
        q_MD=q_BD, other_BM=other_BM, positive_M=positive_B, group_BG=group_BG, group_mask_BG=group_mask_BG,
        teacher_BG=teacher_BG, answer_QD=answer_QD, answers_BGA=answers_BGA,
        guide=Guide(*(normalize(each @ unit(dimension, 4), dim=-1) for each in (q_BD, doc_ND, q_BD))),
    )  # fmt: skip


def with_repeats(batch):
    """Return the batch with documents that stand two and three times in a group."""
    group_BG, mask_BG = batch.group_BG.repeat(1, 2), batch.group_mask_BG.repeat(1, 2)
    # The positives' copies, and all copies in the second row but one.
    mask_BG[:, 3] = mask_BG[1, 4] = False
    group_BG[2, 5] = group_BG[2, 1]
    log_counts_BN = torch.zeros(batch.mask_BN.shape, dtype=batch.doc_ND.dtype)
    for i in range(len(group_BG)):
        columns = group_BG[i, 1:][mask_BG[i, 1:]].tolist()
        for column in columns:
            log_counts_BN[i, column] = math.log(columns.count(column))
    return replace(
        batch, group_BG=group_BG, group_mask_BG=mask_BG, log_counts_BN=log_counts_BN,
        teacher_BG=batch.teacher_BG.repeat(1, 2), answers_BGA=batch.answers_BGA.repeat(1, 2, 1),
    )  # fmt: skip


def rows_of(batch, rows):
    """Return the share of the rank that has ``rows``; what was gathered from all ranks stays as it is."""
    cut = {
        f.name: getattr(batch, f.name)[rows]
        for f in fields(batch)
        if f.name.rpartition("_")[2].startswith("B") and getattr(batch, f.name) is not None
    }
    guide = batch.guide and replace(batch.guide, q_BE=batch.guide.q_BE[rows])
    return replace(batch, guide=guide, **{n: v for n, v in cut.items() if n != "q_BD"}, q_BD=batch.q_BD[rows])


def dot(a, b):
    return sum(x * y for x, y in zip(a.tolist(), b.tolist(), strict=True))


def group_of(batch, row):
    """Return (column, teacher score or None) of the documents of a row's group."""
    return [
        (int(column), None if score != score else score)
        for column, present, score in zip(
            batch.group_BG[row], batch.group_mask_BG[row], batch.teacher_BG[row].tolist(), strict=True
        )
        if present
    ]


def mean_of(batch, loss_of_row):
    """Return the weighted sum of a row's loss over the rows, divided by the normalizer."""
    weights = batch.weights_B.tolist()
    return sum(w * loss_of_row(i) for i, w in enumerate(weights)) / batch.normalizer
