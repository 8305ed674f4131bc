"""InfoNCE over a batch of queries and the documents gathered for it.

Shapes: B queries of one rank, M queries of all ranks, N documents of the whole batch, D dimensions.
"""

from collections.abc import Sequence

import torch

from models.errors import ModelError
from models.losses.batch import LossBatch, exact

Block = tuple[torch.Tensor, torch.Tensor]
"""Scores, and where they count; both [B, N] or [B, M]."""


def infonce(
    batch: LossBatch,
    *,
    temperature: float,
    false_negative_margin: float | None = None,
    guide_margin: float | None = None,
    hardness: float = 0.0,
    partitions: Sequence[str] = ("q-d",),
    in_batch_negatives: bool = True,
) -> torch.Tensor:
    """Score every query against every document and ask for its positive.

    ``L = mean_i -log(exp(s_i+ / t) / (exp(s_i+ / t) + sum_j m_ij exp(s_ij / t + hardness * s_ij)))``, s the inner
    product (van den Oord et al. 2018, arXiv 1807.03748, eq. 4), the last s_ij without gradient. A document that stands
    several times in the row's group is as many terms of the sum. The average runs over the rows of the global batch
    and nothing else; see LossBatch for how that adds up over ranks.

    Args:
        batch: The masks say which terms may count; the positive always does.
        temperature: Divides the scores; above 0.
        false_negative_margin: Leave out a term that scores above the positive by more than this, strictly
            (arXiv 2506.05176, eq. 2, has 0.1). None: keep them all.
        guide_margin: Leave out a term that the guide scores above its score of the positive minus this, strictly
            (GISTEmbed, arXiv 2402.16829). None: no guide.
        hardness: Weigh a negative by exp(hardness * its score), the weight without gradient (EmbeddingGemma,
            arXiv 2509.20354, has 5; LLaVE, arXiv 2503.04812, has 9). 0: all weigh the same.
        partitions: What the denominator holds beside the positive: documents of the batch (``q-d``), other queries
            (``q-q``), documents against the positive (``d-d``), other queries against the positive (``d-q``); all
            in one sum, as in GTE (arXiv 2308.03281, eq. 4).
        in_batch_negatives: Whether documents of other rows are negatives; else those of the row's group alone.

    Returns:
        A scalar; float32, because bfloat16 loses a sum over hundreds of terms (float64 stays float64).

    Raises:
        ModelError: The temperature is not above 0.
    """
    if not temperature > 0:
        raise ModelError(
            "the temperature divides the scores", got=str(temperature), expected="above 0", fix="0.05"
        )
    q_BD, doc_ND = exact(batch.q_BD, batch.doc_ND)
    scores_BN = q_BD @ doc_ND.T
    own_B1 = batch.positive_B.unsqueeze(1)
    own_BN = torch.zeros_like(batch.mask_BN).scatter(1, own_B1, True)
    positive_B1 = scores_BN.gather(1, own_B1)
    mask_BN = batch.mask_BN if in_batch_negatives else batch.mask_BN & group_columns(batch)
    blocks = {"q-d": (scores_BN, mask_BN), **_further_blocks(batch, partitions, mask_BN & ~own_BN)}
    guides = _guide_scores(batch, partitions) if guide_margin is not None else {}
    logits = []
    for partition, (scores, keep) in blocks.items():
        if partition not in partitions:
            keep = torch.zeros_like(keep)
        if false_negative_margin is not None:
            keep = keep & ~(scores.detach() > positive_B1.detach() + false_negative_margin)
        if guide_margin is not None:
            guide_B1 = guides["q-d"].gather(1, own_B1)
            keep = keep & ~(guides[partition] > guide_B1 - guide_margin)
        block = scores / temperature
        if hardness:
            extra = hardness * scores.detach()
            block = block + (extra.masked_fill(own_BN, 0.0) if partition == "q-d" else extra)
        if batch.log_counts_BN is not None and partition in ("q-d", "d-d"):
            block = block + batch.log_counts_BN.to(block.dtype)
        logits.append(block.masked_fill(~(keep | own_BN if partition == "q-d" else keep), float("-inf")))
    loss_B = torch.logsumexp(torch.cat(logits, dim=1), dim=1) - positive_B1.squeeze(1) / temperature
    return batch.mean(loss_B)


def group_columns(batch: LossBatch) -> torch.Tensor:
    """Return bool [B, N]: the documents of the row's own group."""
    assert batch.group_BG is not None and batch.group_mask_BG is not None
    counts_BN = torch.zeros(batch.mask_BN.shape, dtype=torch.int64, device=batch.mask_BN.device)
    return counts_BN.scatter_add(1, batch.group_BG, batch.group_mask_BG.long()) > 0


def _further_blocks(
    batch: LossBatch, partitions: Sequence[str], documents_BN: torch.Tensor
) -> dict[str, Block]:
    q_BD, doc_ND = exact(batch.q_BD, batch.doc_ND)
    positive_BD = doc_ND[batch.positive_B]
    blocks: dict[str, Block] = {}
    if "d-d" in partitions:
        blocks["d-d"] = positive_BD @ doc_ND.T, documents_BN
    for partition, rows_BD in (("q-q", q_BD), ("d-q", positive_BD)):
        if partition in partitions:
            assert batch.q_MD is not None and batch.other_BM is not None
            blocks[partition] = rows_BD @ exact(batch.q_MD)[0].T, batch.other_BM
    return blocks


def _guide_scores(batch: LossBatch, partitions: Sequence[str]) -> dict[str, torch.Tensor]:
    guide = batch.guide
    assert guide is not None
    q_BE, doc_NE, q_ME = exact(guide.q_BE, guide.doc_NE, guide.q_ME)
    positive_BE = doc_NE[batch.positive_B]
    pairs = {
        "q-d": (q_BE, doc_NE),
        "q-q": (q_BE, q_ME),
        "d-d": (positive_BE, doc_NE),
        "d-q": (positive_BE, q_ME),
    }
    return {name: a @ b.T for name, (a, b) in pairs.items() if name == "q-d" or name in partitions}
