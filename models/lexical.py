"""BM25 over words of any script."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Self

import bm25s
import numpy as np
import regex  # type: ignore[import-untyped]

from models.errors import ModelError
from models.search.canonical import order

# Combining marks belong to the word: without them Hindi and other scripts fall apart into single consonants.
_WORDS = regex.compile(r"[\p{L}\p{M}\p{N}]+")
_FACTS = "documents.json"
K1 = 0.9
B = 0.4


def words(text: str) -> list[str]:
    """Return the lower-cased words of a text: runs of letters, combining marks and numbers; no stemming."""
    found: list[str] = _WORDS.findall(text.lower())
    return found


class Bm25:
    """An index of texts by their words, scored as Lucene does (k1 .9, b .4).

    Equal texts give equal index files and equal scores, to the bit, in every process.

    Args:
        texts: The documents, read once; text i is document ``first_document + i``.
        first_document: Ordinal of the first text.
    """

    def __init__(self, texts: Iterable[str], first_document: int = 0) -> None:
        # Numbered as they first occur: an order by hash would differ between processes.
        vocabulary: dict[str, int] = {}
        tokens = [[vocabulary.setdefault(word, len(vocabulary)) for word in words(text)] for text in texts]
        self._first_document, self._num_documents = first_document, len(tokens)
        self._vocabulary = dict(vocabulary)
        self._index: bm25s.BM25 | None = None
        if vocabulary:
            self._index = bm25s.BM25(k1=K1, b=B, method="lucene", backend="numpy")
            self._index.index((tokens, vocabulary), show_progress=False)

    def __len__(self) -> int:
        return self._num_documents

    def save(self, directory: Path) -> None:
        """Write the index into a folder, from which any number of processes can map it."""
        directory.mkdir(parents=True, exist_ok=True)
        if self._index is not None:
            self._index.save(directory, show_progress=False)
        facts = {"num_documents": self._num_documents, "first_document": self._first_document}
        (directory / _FACTS).write_text(json.dumps(facts))

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Map the index that ``save`` wrote: its scores stay in the file and are shared between processes.

        Raises:
            ModelError: There is no index.
        """
        if not (directory / _FACTS).is_file():
            raise ModelError("no such lexical index", str(directory), fix="build the index first")
        facts = json.loads((directory / _FACTS).read_text())
        loaded = cls((), facts["first_document"])
        loaded._num_documents = facts["num_documents"]
        if (directory / "params.index.json").is_file():
            loaded._index = bm25s.BM25.load(directory, mmap=True, show_progress=False, verbosity=0)
            loaded._vocabulary = loaded._index.vocab_dict
            # Views of the mapped files: numpy's memmap type makes every slice dear.
            scores = loaded._index.scores
            scores |= {name: np.asarray(scores[name]) for name in ("data", "indices", "indptr")}
        return loaded

    def search(self, queries: Sequence[str], k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the k best documents of every query.

        Args:
            queries: Q texts.
            k: Candidates a query.

        Returns:
            scores float32 [Q, k], falling, and docs int64 [Q, k]; of equal scores the smaller ordinal comes
            first; -inf and -1 where fewer than k documents share a word with the query.
        """
        nothing = np.zeros(0, np.int64)
        scores_QK, docs_QK, _ = self.search_and_score(queries, k, nothing, nothing)
        return scores_QK, docs_QK

    def search_and_score(
        self, queries: Sequence[str], k: int, query_P: np.ndarray, docs_P: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the k best documents of every query, as ``search`` does, and the scores of given pairs.

        Args:
            queries: Q texts.
            k: Candidates a query.
            query_P: Row of each pair's query, int64.
            docs_P: Its document, int64.

        Returns:
            scores float32 [Q, k], docs int64 [Q, k] and the pairs' scores, float32 [P]: 0 without a common word.

        Raises:
            ModelError: A pair's document is not in the index.
        """
        rows_P = docs_P - self._first_document
        if np.any((rows_P < 0) | (rows_P >= self._num_documents)):
            raise ModelError("a document is not in the lexical index", got=str(docs_P.max()))
        scores_QK = np.full((len(queries), k), -np.inf, np.float32)
        docs_QK = np.full((len(queries), k), -1, np.int64)
        scores_P = np.zeros(len(query_P), np.float32)
        by_query = np.argsort(query_P, kind="stable")
        edges = np.searchsorted(query_P[by_query], np.arange(len(queries) + 1))
        for row, query in enumerate(queries):
            scores_N = self._scores(query)
            if scores_N is None:
                continue
            pairs = by_query[edges[row] : edges[row + 1]]
            scores_P[pairs] = scores_N[rows_P[pairs]]
            docs = _at_least_kth(scores_N, k)
            scores, ordered = order(scores_N[None, docs], docs[None].astype(np.int64), k)
            scores_QK[row], docs_QK[row] = scores[0], ordered[0]
        return scores_QK, np.where(docs_QK >= 0, docs_QK + self._first_document, -1), scores_P

    def _scores(self, query: str) -> np.ndarray | None:
        """Return the scores of all documents, float32, or None if no word of the query is known."""
        known = [self._vocabulary[word] for word in words(query) if word in self._vocabulary]
        if self._index is None or not known:
            return None
        scores_N: np.ndarray = self._index.get_scores(known).astype(np.float32, copy=False)
        return scores_N


def _at_least_kth(scores_N: np.ndarray, k: int) -> np.ndarray:
    """Return all documents that share a word and score no less than the k-th best, ties included."""
    kth = np.partition(scores_N, -k)[-k] if k < len(scores_N) else 0.0
    return np.flatnonzero((scores_N >= kth) & (scores_N > 0))
