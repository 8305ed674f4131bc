"""A rank's share of a global batch for a cross-encoder: pairs of a query and a document of its group.

Shapes: B rows of one rank, N pairs of the global batch with padding, G documents of the largest group, K teachers.
"""

from dataclasses import dataclass

import numpy as np
import torch

from models.losses.batch import GroupBatch
from models.reranking.pair_tokens import PairTokenizer, packed
from pipelines.train.config import TrainConfig
from pipelines.train.dealing import Inputs, deal, deal_texts
from pipelines.train.gather import gather
from pipelines.train.groups import padded_groups, teacher_scores
from pipelines.train.objective import objective
from pipelines.train.order import Order
from pipelines.train.tokens import TokenStore

LOGIT_TEMPERATURE = 1.0
"""A head has any scale it learns."""


@dataclass(frozen=True)
class PairBatch:
    """What one rank computes in one step.

    Args:
        inputs: Padded tensors of its pairs, pass by pass; the last one of each is 1 on the tokens of the document.
        num_passes: Their number, as a tuple of one kind.
        real: float32 [B] of each pass: 1, or 0 for a pair that only fills up.
        group_BG: int64, the columns of each row's positive and negatives among the gathered scores.
        group_mask_BG: bool, False where a group has fewer.
        weights_B: 1, or 0 where the row is padding.
        teacher_BGK: float32, the teachers' scores; NaN where there is none.
        teachers: Their names.
        num_rows: Real rows of the global batch.
        num_tokens: Tokens of the global batch, padding not counted.
        queries: Ordinals of the global batch, for error messages.
    """

    inputs: list[Inputs]
    num_passes: tuple[int]
    real: list[torch.Tensor]
    group_BG: torch.Tensor
    group_mask_BG: torch.Tensor
    weights_B: torch.Tensor
    teacher_BGK: torch.Tensor
    teachers: tuple[str, ...]
    num_rows: int
    num_tokens: int
    queries: np.ndarray

    def loss(self, scores: list[torch.Tensor], config: TrainConfig) -> tuple[torch.Tensor, torch.Tensor]:
        """Return this rank's part of the loss, and nothing beside it; see ``RankBatch.loss``.

        Every rank must call it.

        Args:
            scores: [B] of each pass.
            config: Names the losses.
        """
        assert config.cross_encoder is not None
        own_n = torch.cat(scores)
        score_N, device = gather(own_n[:, None])[:, 0], own_n.device
        batch = GroupBatch(
            scores_BG=score_N[self.group_BG.to(device)],
            group_mask_BG=self.group_mask_BG.to(device),
            weights_B=self.weights_B.to(device),
            normalizer=self.num_rows,
        )
        teacher_BGK = self.teacher_BGK.to(device)
        loss = objective(batch, teacher_BGK, self.teachers, config.cross_encoder.loss, LOGIT_TEMPERATURE)
        return loss, loss.new_zeros(0)


def pair_batch(
    order: Order,
    step: int,
    rank: int,
    world: int,
    queries: TokenStore,
    documents: TokenStore,
    tokenizer: PairTokenizer,
    max_rows: int | None = None,
) -> PairBatch:
    """Cut the share of ``rank`` out of the global batch of ``step``.

    The distinct pairs are dealt out, longest first, as documents are for an embedding model: every rank has the same
    work however ragged the groups are, and the scores, a number a pair, are gathered.

    Args:
        order: The plan.
        step: Which global batch.
        rank: Whose share is wanted.
        world: Number of ranks.
        queries: Tokens of all queries of the plan, without special tokens.
        documents: Tokens of all its documents, likewise.
        tokenizer: Joins them.
        max_rows: Pairs of one pass, at most. None: as many as are cheapest.
    """
    rows = order.rows(step)
    of_row = {row: [(int(order.queries[row]), document) for document in order.own_group(row)] for row in rows}
    pairs = sorted({pair for own in of_row.values() for pair in own})
    number = {pair: place for place, pair in enumerate(pairs)}
    joined = packed([tokenizer.join(_ids(queries, query), _ids(documents, doc)) for query, doc in pairs])
    store = TokenStore(np.arange(len(pairs)), joined)
    dealt = deal_texts(store, store.ordinals, rank, world, max_rows)
    own_rows, weights_B = deal(rows, rank, world)
    group_BG, group_mask_BG = padded_groups(
        [[dealt.column_of[number[pair]] for pair in of_row[row]] for row in own_rows]
    )
    return PairBatch(
        inputs=dealt.passes,
        num_passes=(len(dealt.passes),),
        real=dealt.real,
        group_BG=torch.from_numpy(group_BG),
        group_mask_BG=torch.from_numpy(group_mask_BG),
        weights_B=torch.from_numpy(weights_B),
        teacher_BGK=torch.from_numpy(teacher_scores(order, own_rows, group_BG.shape[1])),
        teachers=order.teachers,
        num_rows=len(rows),
        num_tokens=dealt.num_tokens,
        queries=order.queries[rows],
    )


def _ids(store: TokenStore, ordinal: int) -> list[int]:
    (row,) = store.rows(np.asarray([ordinal]))
    ids: list[int] = store.tokens.ids[store.tokens.offsets[row] : store.tokens.offsets[row + 1]].tolist()
    return ids
