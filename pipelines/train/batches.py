"""A rank's share of a global batch, as padded tensors.

Shapes: B rows of one rank, M rows of all ranks with padding, N documents of the global batch with padding, Q
answered queries likewise, G documents of the largest group, K teachers, A answers of a negative at most, D
dimensions.
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import torch

from models.losses.batch import Guide, LossBatch
from pipelines.train.config import TrainConfig
from pipelines.train.dealing import DealtTexts, Inputs, cut_passes, cut_rows, deal, deal_texts, pad
from pipelines.train.gather import gather
from pipelines.train.groups import padded_groups, teacher_scores
from pipelines.train.objective import objective
from pipelines.train.order import Order
from pipelines.train.tokens import TokenStore


@dataclass(frozen=True)
class RankBatch:
    """What one rank computes in one step.

    Args:
        inputs: Padded tensors, pass by pass: of the queries, of the documents, of the answered queries.
        num_passes: Of each of the three.
        real: float32 [B] of each pass: 1, or 0 for a text that only fills up.
        positive_B: int64, the column of each row's positive among the gathered documents.
        mask_BN: bool, False where a document is no negative of the row.
        weights_B: 1, or 0 where the row is padding.
        places_B: int64, the place of each row in the global batch.
        other_BM: bool, True where a query may be pushed away from the row.
        positive_M: int64, the column of the positive of every gathered row.
        group_BG: int64, the columns of each row's positive and negatives.
        group_mask_BG: bool, False where a group has fewer.
        log_counts_BN: float32, logarithm of how often a negative stands in the row's group. None: never twice.
        teacher_BGK: float32, the teachers' scores; NaN where there is none.
        teachers: Their names.
        answers_BGA: int64, the columns of the answered queries; -1 for none.
        guide: A guide's embeddings of the texts; None where there is none.
        num_rows: Real rows of the global batch.
        num_tokens: Tokens of the global batch, padding not counted.
        queries: Ordinals of the global batch, for error messages.
    """

    inputs: list[Inputs]
    num_passes: tuple[int, int, int]
    real: list[torch.Tensor]
    positive_B: torch.Tensor
    mask_BN: torch.Tensor
    weights_B: torch.Tensor
    places_B: torch.Tensor
    other_BM: torch.Tensor
    positive_M: torch.Tensor
    group_BG: torch.Tensor
    group_mask_BG: torch.Tensor
    log_counts_BN: torch.Tensor | None
    teacher_BGK: torch.Tensor
    teachers: tuple[str, ...]
    answers_BGA: torch.Tensor
    guide: Guide | None
    num_rows: int
    num_tokens: int
    queries: np.ndarray

    def loss(self, embedded: list[torch.Tensor], config: TrainConfig) -> tuple[torch.Tensor, torch.Tensor]:
        """Return this rank's part of the loss, and the scores of its rows' negatives where those are dynamic.

        The parts of all ranks add up to the loss, and to the scores, of the global batch. Every rank must call it.

        Args:
            embedded: [B, D] of each pass.
            config: Names the losses.
        """
        q_BD, own_nD, own_aD = self.split(embedded)
        rows = self.with_embeddings(q_BD, gather(q_BD), gather(own_nD), gather(own_aD))
        teacher_BGK = self.teacher_BGK.to(q_BD.device)
        loss = objective(rows, teacher_BGK, self.teachers, config.loss, config.temperature)
        return loss, self.score_negatives(rows) if config.dynamic_negatives else loss.new_zeros(0)

    def split(self, embedded: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the embeddings of this rank's queries, documents and answered queries, from those of the passes."""
        of_queries, of_documents, of_answers = self.num_passes
        rest = embedded[of_queries:]
        q_BD = torch.cat(embedded[:of_queries])
        answer_nD = torch.cat(rest[of_documents:]) if of_answers else q_BD[:0]
        return q_BD, torch.cat(rest[:of_documents]), answer_nD

    def with_embeddings(
        self, q_BD: torch.Tensor, q_MD: torch.Tensor, doc_ND: torch.Tensor, answer_QD: torch.Tensor
    ) -> LossBatch:
        """Return what a loss is given; teachers apart, everything is on the embeddings' device."""
        device = q_BD.device
        return LossBatch(
            q_BD=q_BD,
            doc_ND=doc_ND,
            positive_B=self.positive_B.to(device),
            mask_BN=self.mask_BN.to(device),
            weights_B=self.weights_B.to(device),
            normalizer=self.num_rows,
            q_MD=q_MD,
            other_BM=self.other_BM.to(device),
            positive_M=self.positive_M.to(device),
            group_BG=self.group_BG.to(device),
            group_mask_BG=self.group_mask_BG.to(device),
            log_counts_BN=None if self.log_counts_BN is None else self.log_counts_BN.to(device),
            answer_QD=answer_QD,
            answers_BGA=self.answers_BGA.to(device),
            guide=self.guide and self.guide.to(device),
        )

    def score_negatives(self, rows: LossBatch) -> torch.Tensor:
        """Return the mean score of each row's own negatives, without gradient.

        Args:
            rows: Of this rank, as ``with_embeddings`` returns them.

        Returns:
            float32, one a row of the global batch; 0 for rows of other ranks and for those without a negative.
        """
        assert rows.group_mask_BG is not None
        negative_BG = rows.group_mask_BG[:, 1:]
        with torch.no_grad():
            scores_BG = rows.scores_BG[:, 1:].masked_fill(~negative_BG, 0.0)
        mean_B = scores_BG.sum(1) / negative_BG.sum(1).clamp(min=1)
        own = rows.weights_B > 0
        scores_n = mean_B.new_zeros(self.num_rows)
        scores_n[self.places_B.to(mean_B.device)[own]] = mean_B[own]
        return scores_n


def rank_batch(
    order: Order,
    step: int,
    rank: int,
    world: int,
    queries: TokenStore,
    documents: TokenStore,
    max_rows: int | None = None,
    shown: TokenStore | None = None,
) -> RankBatch:
    """Cut the share of ``rank`` out of the global batch of ``step``.

    Rows are dealt out one by one. So are the distinct documents, whosever positive or negative they are, because
    all embeddings are gathered anyway. Where a count does not divide, the last one is repeated with weight zero
    (rows) or masked (documents). Every rank has the same number of passes of as many texts.

    Args:
        order: The plan.
        step: Which global batch.
        rank: Whose share is wanted.
        world: Number of ranks.
        queries: Tokens of all queries of the plan.
        documents: Tokens of all its documents.
        max_rows: Texts of one pass, at most. None: as many as are cheapest.
        shown: Tokens of every row's query behind examples, by the row. None: no query has examples.
    """
    rows = order.rows(step)
    dealt = deal_texts(documents, order.documents(rows), rank, world, max_rows)
    answered = deal_texts(queries, order.answered(rows), rank, world, max_rows)
    asked = queries if shown is None else shown
    query_rows = queries.rows(order.queries[rows]) if shown is None else shown.rows(rows)
    query_lengths = asked.tokens.offsets[query_rows + 1] - asked.tokens.offsets[query_rows]
    # Behind examples queries differ in length as much as documents do, and are dealt out as those are.
    places = np.arange(len(rows)) if shown is None else np.argsort(-query_lengths, kind="stable")
    own_places, weights_B = deal(places, rank, world)
    own_rows = rows[own_places]
    everyone = [deal(places, each, world) for each in range(world)]
    places_M = np.concatenate([each for each, _ in everyone])
    counted_M = np.concatenate([weights for _, weights in everyone]) > 0
    cheapest = [] if shown is None else cut_passes(query_lengths[places][::world])
    cuts = cut_rows(cheapest, len(own_rows), max_rows)
    passes = [pad(asked, part) for part in np.split(query_rows[own_places], cuts)]
    columns = [[dealt.column_of[document] for document in order.own_group(row)] for row in own_rows]
    group_BG, group_mask_BG = padded_groups(columns)
    num_documents = group_BG.shape[1]
    return RankBatch(
        inputs=[*passes, *dealt.passes, *answered.passes],
        num_passes=(len(passes), len(dealt.passes), len(answered.passes)),
        real=[*(torch.from_numpy(part) for part in np.split(weights_B, cuts)), *dealt.real, *answered.real],
        positive_B=_columns(dealt.column_of, order.positives[own_rows]),
        mask_BN=torch.from_numpy(_negatives(order, own_rows, rows, dealt)),
        weights_B=torch.from_numpy(weights_B),
        places_B=torch.from_numpy(own_places),
        other_BM=torch.from_numpy(order.unrelated(own_rows, rows)[:, places_M] & counted_M),
        positive_M=_columns(dealt.column_of, order.positives[rows[places_M]]),
        group_BG=torch.from_numpy(group_BG),
        group_mask_BG=torch.from_numpy(group_mask_BG),
        log_counts_BN=_log_counts(order, own_rows, dealt),
        teacher_BGK=torch.from_numpy(teacher_scores(order, own_rows, num_documents)),
        teachers=order.teachers,
        answers_BGA=torch.from_numpy(_answers(order, own_rows, answered.column_of, num_documents)),
        guide=_guide(queries, order.queries[own_rows], order.queries[rows[places_M]], dealt.guide_NE),
        num_rows=len(rows),
        num_tokens=dealt.num_tokens + answered.num_tokens + int(query_lengths.sum()),
        queries=order.queries[rows],
    )


def _negatives(order: Order, own_rows: np.ndarray, rows: np.ndarray, dealt: DealtTexts) -> np.ndarray:
    """Return mask_BN: the documents within each row's scope, without those that the plan masks."""
    mask_BN = np.zeros((len(own_rows), dealt.num_columns), dtype=bool)
    columns: dict[tuple[str, int], list[int]] = {}
    for index, row in enumerate(own_rows):
        scope = order.scope_of(row)
        if scope not in columns:
            found = order.documents(rows[order.within(scope, rows)])
            columns[scope] = [dealt.column_of[document] for document in found.tolist()]
        mask_BN[index, columns[scope]] = True
        # Masked is whatever the batch may hold, of which it holds those that are taken.
        masked = (dealt.column_of.get(document) for document in order.masked_of(row))
        mask_BN[index, [column for column in masked if column is not None]] = False
    return mask_BN


def _columns(column_of: dict[int, int], ordinals: np.ndarray) -> torch.Tensor:
    return torch.tensor([column_of[ordinal] for ordinal in ordinals.tolist()])


def _log_counts(order: Order, rows: np.ndarray, dealt: DealtTexts) -> torch.Tensor | None:
    negatives = [order.negatives_of(row).tolist() for row in rows]
    if all(len(set(some)) == len(some) for some in negatives):
        return None
    counts_BN = np.ones((len(rows), dealt.num_columns), np.float32)
    for index, some in enumerate(negatives):
        for document, count in Counter(some).items():
            counts_BN[index, dealt.column_of[document]] = count
    return torch.from_numpy(np.log(counts_BN))


def _guide(
    store: TokenStore, queries_B: np.ndarray, queries_M: np.ndarray, doc_NE: torch.Tensor | None
) -> Guide | None:
    if store.vectors is None or doc_NE is None:
        return None
    q_BE, q_ME = (store.vectors[store.rows(each)].astype(np.float32) for each in (queries_B, queries_M))
    return Guide(torch.from_numpy(q_BE), doc_NE, torch.from_numpy(q_ME))


def _answers(order: Order, rows: np.ndarray, columns: dict[int, int], size: int) -> np.ndarray:
    """Return answers_BGA of some rows, whose largest group has ``size`` documents."""
    # The positive answers the row's own query, which is no penalty's concern.
    answers = [[[], *order.answers_of(row)] for row in rows]
    num_answers = max(len(each) for row in answers for each in row)
    answers_BGA = np.full((len(rows), size, num_answers), -1, np.int64)
    for index, row in enumerate(answers):
        for place, queries in enumerate(row):
            answers_BGA[index, place, : len(queries)] = [columns[query] for query in queries]
    return answers_BGA
