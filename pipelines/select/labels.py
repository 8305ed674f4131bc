"""What the labels of the data say of documents: which queries they answer, and which pairs are judged low or high.

Shapes: M documents asked about, L labelled pairs.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

MAX_ANSWERS = 3
"""Queries listed for a negative: CLP averages over them, and one is enough."""


@dataclass(frozen=True)
class Labels:
    """Labelled pairs, ready to be looked up by document or by query.

    Args:
        answered: Documents of the training split's positive pairs, distinct and ascending, int64 [A].
        first_answer: The first query of each in ``answer_query_L``, and how many there are in all, int64 [A + 1].
        answer_query_L: Queries of these pairs, one document after the other.
        judged_query_L: Queries of the pairs of all splits but test, ascending, then by document.
        judged_doc_L: Their documents.
        relevance_L: Their relevance, float32.
    """

    answered: np.ndarray
    first_answer: np.ndarray
    answer_query_L: np.ndarray
    judged_query_L: np.ndarray
    judged_doc_L: np.ndarray
    relevance_L: np.ndarray

    @classmethod
    def of(cls, qrels: pa.Table, max_negative_relevance: float) -> "Labels":
        """Sort a table of schema QRELS; what was judged for test is never looked at.

        Args:
            qrels: Judgments of all splits.
            max_negative_relevance: A pair of at most this relevance is nobody's answer.
        """
        seen = qrels.filter(pc.not_equal(qrels.column("split"), "test"))
        query, doc, relevance = (seen.column(name).to_numpy() for name in ("query", "doc", "relevance"))
        training = pc.equal(seen.column("split"), "train").to_numpy(zero_copy_only=False)
        by_query = np.lexsort((doc, query))
        by_doc = np.lexsort((query, doc))
        by_doc = by_doc[(training & (relevance > max_negative_relevance))[by_doc]]
        answered, first = np.unique(doc[by_doc], return_index=True)
        first = np.append(first, len(by_doc))
        return cls(answered, first, query[by_doc], query[by_query], doc[by_query], relevance[by_query])

    def answers(self, doc_M: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the training queries that each document answers, the first MAX_ANSWERS of each by ordinal.

        Returns:
            The queries one document after the other, and how many there are of each, int64 [M].
        """
        at_M = np.searchsorted(self.answered, doc_M)
        known_M = at_M < len(self.answered)
        known_M[known_M] = self.answered[at_M[known_M]] == doc_M[known_M]
        start_M = self.first_answer[at_M]
        num_M = self.first_answer[np.minimum(at_M + 1, len(self.answered))] - start_M
        count_M = np.where(known_M, np.minimum(num_M, MAX_ANSWERS), 0)
        first_M = np.cumsum(count_M) - count_M
        at = np.arange(int(count_M.sum())) + np.repeat(start_M - first_M, count_M)
        return self.answer_query_L[at], count_M

    def judged_low(self, query_Q: np.ndarray, max_relevance: float) -> tuple[np.ndarray, np.ndarray]:
        """Return row and document of the pairs of ``query_Q`` (ascending) of at most ``max_relevance``."""
        row, doc, relevance = self._judged(query_Q)
        return row[relevance <= max_relevance], doc[relevance <= max_relevance]

    def judged_high(self, query_Q: np.ndarray, max_relevance: float) -> tuple[np.ndarray, np.ndarray]:
        """Return row and document of the pairs of ``query_Q`` (ascending) of more than ``max_relevance``."""
        row, doc, relevance = self._judged(query_Q)
        return row[relevance > max_relevance], doc[relevance > max_relevance]

    def _judged(self, query_Q: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        first, last = (int(query_Q[0]), int(query_Q[-1])) if len(query_Q) else (0, -1)
        low = int(np.searchsorted(self.judged_query_L, first))
        high = int(np.searchsorted(self.judged_query_L, last, side="right"))
        query = self.judged_query_L[low:high]
        asked = np.isin(query, query_Q)
        row = np.searchsorted(query_Q, query[asked])
        return row, self.judged_doc_L[low:high][asked], self.relevance_L[low:high][asked]
