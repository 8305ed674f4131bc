"""Retrieval on the dev cut, measured by all ranks between two steps, and what follows from its course.

Shapes: q queries and n documents of one rank, Q and N of all ranks with padding, D dimensions.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import distributed

from models.tokenization import padded_length
from pipelines.metrics import Ranking, per_query_metrics
from pipelines.train.board import Evaluation
from pipelines.train.dealing import DealtTexts, deal_texts
from pipelines.train.dev_cut import DevCut
from pipelines.train.engine import Trainable
from pipelines.train.gather import gather
from pipelines.train.tokens import TokenStore

TOKEN_BUDGET = {"cpu": 4096, "cuda": 32768}
"""Kind of device -> tokens of a forward pass at most, padding counted."""


class DevMetric:
    """One rank's part of measuring; every rank holds one.

    Args:
        trainable: Encoder and engine.
        cut: What to measure on.
        metric: ``ndcg@10``, for one.
    """

    def __init__(self, trainable: Trainable, cut: DevCut, metric: str) -> None:
        self._trainable, self._cut, self._metric = trainable, cut, metric
        self._queries, self._documents = (self._deal(store) for store in (cut.queries, cut.documents))

    def measure(self, steps: int) -> Evaluation:
        """Measure the weights as they are; every rank must call it, and all get the same value.

        Args:
            steps: How many the weights have behind them.
        """
        engine, device = self._trainable.engine, self._trainable.encoder.device
        engine.eval()
        try:
            with torch.no_grad():
                q_QD = gather(self._embed(self._queries))
                scores_NQ = gather(self._embed(self._documents) @ q_QD.T)
        finally:
            engine.train()
        value = torch.zeros(1, dtype=torch.float64, device=device)
        if distributed.get_rank() == 0:
            value.fill_(self._value(scores_NQ.T.cpu().numpy()))
        distributed.broadcast(value, 0)
        return Evaluation(steps, self._metric, float(value))

    def _deal(self, store: TokenStore) -> DealtTexts:
        longest = padded_length(int(store.tokens.lengths.max()))
        rows = max(1, TOKEN_BUDGET[self._trainable.encoder.device.type] // longest)
        return deal_texts(
            store, np.asarray(store.ordinals), distributed.get_rank(), distributed.get_world_size(), rows
        )

    def _embed(self, dealt: DealtTexts) -> torch.Tensor:
        # Pass by pass, as many on every rank: ZeRO-3 gathers the weights for each.
        return torch.cat([emb_BD for inputs in dealt.passes for emb_BD in self._trainable.engine([inputs])])

    def _value(self, scores_QN: np.ndarray) -> float:
        if not np.isfinite(scores_QN).all():
            return math.nan
        queries, documents = self._queries.column_of, self._documents.column_of
        chosen_QN = scores_QN[np.ix_(list(queries.values()), list(documents.values()))]
        ranking = Ranking(
            np.repeat(np.array(list(queries)), len(documents)),
            np.tile(np.array(list(documents)), len(queries)),
            chosen_QN.ravel(),
        )
        found = per_query_metrics(ranking, self._cut.relevance, [self._metric], self._cut.ignore)
        return float(found.values[self._metric].mean())


def is_due(steps: int, num_steps: int, every_steps: int) -> bool:
    """Say whether there is to be an evaluation after so many steps."""
    return steps == num_steps or steps % every_steps == 0


def best(evaluations: Sequence[Evaluation]) -> Evaluation | None:
    """Return the first of the highest, weights without a step behind them and NaN apart."""
    trained = [each for each in evaluations if each.steps and not math.isnan(each.value)]
    return max(trained, key=lambda each: each.value, default=None)


def is_exhausted(evaluations: Sequence[Evaluation], patience: int | None) -> bool:
    """Say whether the last ``patience`` evaluations brought no gain over those before; None: never.

    The weights that the training began with count as an evaluation to gain over.
    """
    if patience is None or len(evaluations) <= patience:
        return False
    values = [-math.inf if math.isnan(each.value) else each.value for each in evaluations]
    return max(values[-patience:]) <= max(values[:-patience])
