"""A ranking of the first documents alone, and the others behind them in the order that they had."""

import numpy as np

from pipelines.evaluate.pipeline import continued
from pipelines.metrics import Ranking


def in_order(ranking, query):
    rows = np.flatnonzero(ranking.query == query)
    return ranking.doc[
        rows[np.lexsort((ranking.doc[rows], -ranking.score[rows].astype(np.float32)))]
    ].tolist()


def test_the_others_follow_in_their_order_even_where_scores_are_close():
    scores = np.array([0.9, 0.8, 0.70000002, 0.7, 0.7, 0.5, 0.4, 0.3])
    over = Ranking(np.array([0, 0, 0, 0, 0, 1, 1, 1]), np.array([5, 3, 9, 8, 7, 1, 2, 3]), scores)
    again = Ranking(np.array([0, 0, 1]), np.array([3, 5, 1]), np.array([-7.25, -9000.5, 3.0], np.float32))
    found = continued(again, over)
    assert in_order(found, 0) == [3, 5, 9, 7, 8]
    assert in_order(found, 1) == [1, 2, 3]


def test_nothing_ranked_again_leaves_the_order():
    over = Ranking(np.array([4, 4]), np.array([2, 1]), np.array([0.2, 0.1]))
    none = Ranking(*(np.zeros(0, kind) for kind in (np.int64, np.int64, np.float32)))
    assert in_order(continued(none, over), 4) == [2, 1]
