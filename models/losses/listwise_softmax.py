"""Listwise softmax: the positive of a group is told from the group's negatives, as rerankers are trained.

Shapes: B rows, G documents of a group.
"""

import torch

from models.losses.batch import Groups, exact
from models.losses.groups import log_softmax_of


def listwise_softmax(batch: Groups) -> torch.Tensor:
    """Take the cross entropy of a softmax over a group's scores, whose first document is the positive.

    ``L = mean_i -log(exp(s_i+) / sum_g exp(s_ig))`` over the positive and the negatives of the row itself (ListNet,
    Cao et al. 2007, with one relevant document; the localized contrastive estimation of arXiv 2101.08751, eq. 4).
    A negative that stands there several times is as many terms of the sum. Averages over the rows of the global batch;
    a row without a negative has 0.

    Args:
        batch: Scores of any scale: they are logits.

    Returns:
        A scalar, float32 (float64 stays float64).
    """
    assert batch.group_mask_BG is not None
    (scores_BG,) = exact(batch.scores_BG)
    return batch.mean(-log_softmax_of(scores_BG, batch.group_mask_BG)[:, 0])
