"""Which of its mined negatives a group takes: the next ones, once the model finds the present ones easy.

Dynamic hard negatives (Conan-embedding, arXiv 2408.15710). The paper looks at the scores every 100 steps; here it is
whenever the group is drawn, once an epoch, because the step that trains on negatives has their scores anyway. The ranks
of a training see the same scores, to the bit; those of another number of ranks differ in their rounding, as weights do.

Shapes: n rows of a global batch.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipelines.train.order import Order
from pipelines.train.stage_config import DynamicNegativesConfig


@dataclass(frozen=True)
class Turns:
    """How far each group is, changed by every step in the same way on all ranks.

    Args:
        starts: int64 [groups], the place of the first negative that is taken.
        counts: int64 [groups], how many were taken from there; 0 before they are.
        first_scores: float64 [groups], their mean score when they were taken first.
    """

    starts: np.ndarray
    counts: np.ndarray
    first_scores: np.ndarray

    def taken(self, order: Order, step: int) -> Order:
        """Return the order with the negatives whose turn it is in a step."""
        rows = order.rows(step)
        return order.starting(dict(zip(rows.tolist(), self._starts(order, rows).tolist(), strict=True)))

    def note(self, order: Order, step: int, config: DynamicNegativesConfig, scores_n: np.ndarray) -> int:
        """Take the scores of the negatives that a step took, and move on where they are easy.

        The last ones that were mined stay. Where a stage takes another number of them, their scores count anew.

        Args:
            order: The plan.
            step: That was made.
            config: Says what is easy.
            scores_n: The model's mean score of each row's negatives.

        Returns:
            How many negatives give way to others.
        """
        rows = order.rows(step)
        groups, count_n, start_n = order.groups[rows], order.taken[rows], self._starts(order, rows)
        new_n = (self.counts[groups] != count_n) | (self.starts[groups] != start_n)
        self.first_scores[groups[new_n]] = scores_n[new_n]
        easy_n = ~new_n & is_easy(scores_n, self.first_scores[groups], config)
        next_n = np.where(easy_n, np.minimum(start_n + count_n, order.num_mined(rows) - count_n), start_n)
        self.starts[groups] = next_n
        self.counts[groups] = np.where(next_n > start_n, 0, count_n)
        return int((next_n - start_n).sum())

    def save(self, path: Path) -> None:
        """Write an .npz file: 24 bytes a group."""
        np.savez(path, starts=self.starts, counts=self.counts, first_scores=self.first_scores)

    @classmethod
    def load(cls, path: Path) -> "Turns":
        """Read what ``save`` wrote."""
        with np.load(path) as arrays:
            return cls(**arrays)

    def _starts(self, order: Order, rows: np.ndarray) -> np.ndarray:
        return np.minimum(self.starts[order.groups[rows]], order.num_mined(rows) - order.taken[rows])


def begin_turns(order: Order) -> Turns:
    """Return the turns of a training's beginning: the first ranks of every group."""
    starts, counts = np.zeros((2, int(order.groups.max()) + 1), np.int64)
    return Turns(starts, counts, np.zeros(len(starts)))


def is_easy(score_n: np.ndarray, first_n: np.ndarray, config: DynamicNegativesConfig) -> np.ndarray:
    """Say of which negatives the score has fallen far enough since they were taken first.

    ``ratio * score < first`` and ``abs(score) < max_score``. The paper's product grows as a score below 0 is raised by
    it, so there it is the score less the same share of its size.

    Args:
        score_n: Mean scores now.
        first_n: Those of the first time.
        config: The ratio and the bound.

    Returns:
        bool [n].
    """
    score_n = score_n.astype(np.float64)
    raised_n = score_n + (config.ratio - 1) * np.abs(score_n)
    return (raised_n < first_n) & (np.abs(score_n) < config.max_score)
