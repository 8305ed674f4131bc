"""Which of one teacher's candidates survive for each example, and why the others do not.

Shapes: E examples, C candidates of the teacher in order of rank, K survivors, P labelled pairs.
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from pipelines.select.candidates import Pairs, Ranking, locate
from pipelines.select.config import FilterConfig
from pipelines.select.filters import FILTERS


@dataclass(frozen=True)
class Known:
    """What is known of the queries of the examples besides scores.

    Args:
        positives: Labelled pairs, and those of other splits: no negative is one of them, or has the text of one.
        negatives: Pairs judged to be negatives.
        text_of_doc: uint64 [num_documents], equal where texts are equal.
        text_of_query_Q: On the same scale.
    """

    positives: Pairs
    negatives: Pairs
    text_of_doc: np.ndarray
    text_of_query_Q: np.ndarray


@dataclass(frozen=True)
class Survivors:
    """What is left of one teacher's candidates.

    Args:
        columns_EK: The first K that survive, in order of rank, -1 where there are fewer; int64.
        rejected_E: The first that the filter took for a false negative, -1 where there is none.
        counters: Candidates dropped, by reason; each under the first that holds.
    """

    columns_EK: np.ndarray
    rejected_E: np.ndarray
    counters: Counter[str]


def survive(
    ranking: Ranking,
    judge: Ranking | None,
    row_E: np.ndarray,
    positive_E: np.ndarray,
    known: Known,
    rule: FilterConfig,
    threshold: float,
    most: int,
) -> Survivors:
    """Drop what is labelled, identical, outside the ranks, without a score, or taken for a false negative.

    Args:
        ranking: The teacher's candidates, one row an example.
        judge: Candidates of the teacher whose scores the filter looks at, if it is another, one row an example.
        row_E: Row of each example's query.
        positive_E: Score of the positive, by the teacher that the filter looks at.
        known: Labels and texts.
        rule: The filter.
        threshold: The filter's threshold for this teacher.
        most: Survivors wanted, K.
    """
    counters: Counter[str] = Counter()
    open_EC = ranking.docs_QC >= 0

    def drop(dropped_EC: np.ndarray, reason: str) -> None:
        nonlocal open_EC
        gone_EC = open_EC & dropped_EC
        counters[reason] += int(np.count_nonzero(gone_EC))
        open_EC = open_EC & ~gone_EC

    if len(known.negatives.row_P):
        drop(is_paired(ranking.docs_QC, row_E, known.negatives), "judged_negative")
    drop(ranking.labelled_QC, "labelled_positive")
    drop(same_text(ranking.docs_QC, row_E, known), "identical_text")
    if rule.min_rank > 1 or rule.max_rank is not None:
        rank_C = np.arange(1, open_EC.shape[1] + 1)
        outside_C = (rank_C < rule.min_rank) | (rank_C > (rule.max_rank or len(rank_C)))
        drop(np.broadcast_to(outside_C, open_EC.shape), "outside_ranks")
    drop(np.isnan(ranking.scores_QC), "score_not_finite")
    scores_EC = ranking.scores_QC
    if judge is not None:
        at_EC = locate(ranking.docs_QC, judge.docs_QC)
        scores_EC = np.take_along_axis(judge.scores_QC, np.maximum(at_EC, 0), axis=1)
        scores_EC = np.where(at_EC >= 0, scores_EC, np.float32(np.nan))
        drop(np.isnan(scores_EC), f"not_scored_by_{rule.scores_of}")
    passed_EC = FILTERS[rule.method](scores_EC, positive_E, threshold, rule)
    rejected_E = first_columns(open_EC & ~passed_EC, 1)[:, 0]
    drop(~passed_EC, f"filter_{rule.method}")
    return Survivors(first_columns(open_EC, most), rejected_E, counters)


def first_columns(mask_EC: np.ndarray, most: int) -> np.ndarray:
    """Return int64 [E, most]: the first columns that are true, ascending, -1 where there are fewer."""
    left_EC, rows = mask_EC.copy(), np.arange(len(mask_EC))
    columns = np.full((len(mask_EC), most), -1, np.int64)
    # argmax of a bool row stops at the first true: cheaper than a running count over all columns.
    for place in range(min(most, mask_EC.shape[1])):
        column_E = left_EC.argmax(axis=1)
        there_E = left_EC[rows, column_E]
        columns[:, place] = np.where(there_E, column_E, -1)
        left_EC[rows, column_E] = False
    return columns


def same_text(docs_EC: np.ndarray, row_E: np.ndarray, known: Known) -> np.ndarray:
    """Return bool [E, C]: documents with the text of the query or of one of its positives."""
    text_EC = known.text_of_doc[docs_EC]
    same_EC = text_EC == known.text_of_query_Q[row_E][:, None]
    for rows, pair in _pairs_in_turn(row_E, known.positives):
        text_S = known.text_of_doc[known.positives.doc_P[pair]]
        same_EC[rows] |= text_EC[rows] == text_S[:, None]
    return same_EC


def is_paired(docs_EC: np.ndarray, row_E: np.ndarray, pairs: Pairs) -> np.ndarray:
    """Return bool [E, C]: documents that ``pairs`` pairs with the query."""
    paired_EC = np.zeros(docs_EC.shape, bool)
    for rows, pair in _pairs_in_turn(row_E, pairs):
        paired_EC[rows] |= docs_EC[rows] == pairs.doc_P[pair][:, None]
    return paired_EC


def _pairs_in_turn(row_E: np.ndarray, pairs: Pairs) -> "list[tuple[np.ndarray | slice, np.ndarray]]":
    """Return for j = 0, 1, ...: the examples whose query has more than j pairs, and the j-th pair of each."""
    start_E = np.searchsorted(pairs.row_P, row_E)
    count_E = np.searchsorted(pairs.row_P, row_E, side="right") - start_E
    turns: list[tuple[np.ndarray | slice, np.ndarray]] = []
    for turn in range(int(count_E.max(initial=0))):
        rows = np.flatnonzero(count_E > turn)
        everyone = len(rows) == len(row_E)
        turns.append((slice(None) if everyone else rows, start_E[rows] + turn))
    return turns
