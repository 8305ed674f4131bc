"""BM25 over words of any script."""

from collections.abc import Sequence

import bm25s
import numpy as np
import regex  # type: ignore[import-untyped]

from models.search.canonical import order

# Combining marks belong to the word: without them Hindi and other scripts fall apart into single consonants.
_WORDS = regex.compile(r"[\p{L}\p{M}\p{N}]+")
K1 = 0.9
B = 0.4


def words(text: str) -> list[str]:
    """Return the lower-cased words of a text: runs of letters, combining marks and numbers; no stemming."""
    found: list[str] = _WORDS.findall(text.lower())
    return found


class Bm25:
    """An index of texts by their words, scored as Lucene does (k1 .9, b .4).

    Args:
        texts: The documents; text i is document ``first_document + i``.
        first_document: Ordinal of the first text.
    """

    def __init__(self, texts: Sequence[str], first_document: int = 0) -> None:
        self._first_document = first_document
        self._num_documents = len(texts)
        self._index = bm25s.BM25(k1=K1, b=B, method="lucene", backend="numpy")
        tokenized = [words(text) for text in texts]
        self._empty = not any(tokenized)
        if not self._empty:
            self._index.index(tokenized, show_progress=False)

    def search(self, queries: Sequence[str], k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the k best documents of every query.

        Args:
            queries: Q texts.
            k: Candidates a query.

        Returns:
            scores float32 [Q, k], falling, and docs int64 [Q, k]; of equal scores the smaller ordinal comes
            first; -inf and -1 where fewer than k documents share a word with the query.
        """
        scores_QK = np.full((len(queries), k), -np.inf, np.float32)
        docs_QK = np.full((len(queries), k), -1, np.int64)
        for row, query in enumerate(queries):
            known = [] if self._empty else [word for word in words(query) if word in self._index.vocab_dict]
            if known:
                scores_N = self._index.get_scores(known)
                docs = _at_least_kth(scores_N, k)
                scores, ordered = order(
                    scores_N[None, docs].astype(np.float32), docs[None].astype(np.int64), k
                )
                scores_QK[row], docs_QK[row] = scores[0], ordered[0]
        return scores_QK, np.where(docs_QK >= 0, docs_QK + self._first_document, -1)


def _at_least_kth(scores_N: np.ndarray, k: int) -> np.ndarray:
    """Return all documents that share a word and score no less than the k-th best, ties included."""
    kth = np.partition(scores_N, -k)[-k] if k < len(scores_N) else 0.0
    return np.flatnonzero((scores_N >= kth) & (scores_N > 0))
