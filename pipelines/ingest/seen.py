"""Which ids a stream has had: 24 bytes an id, where a dict of strings takes ten times that."""

import numpy as np

from pipelines.keys import find_keys, hash_keys, sort_keys

NEW, REPEATED, CONFLICTING = 0, 1, 2
"""Verdicts: an id not had before; had with the same text; had with another text."""


class SeenIds:
    """Remembers the ids of a stream and the digest of each one's text, in sorted runs that are merged as they grow.

    A run is uint64 [3, N]: the two halves of the id's hash, and half of the text's.
    """

    def __init__(self) -> None:
        self._runs: list[np.ndarray] = []

    def judge(self, ids: list[str], texts: list[str]) -> np.ndarray:
        """Return int8 [N], a verdict on each row of the next batch, and remember its ids.

        Args:
            ids: N ids, in the order of the stream.
            texts: N texts; what makes two rows of one id the same.
        """
        rows_3N = np.concatenate([hash_keys(ids, "id"), hash_keys(texts, "text")[:1]])
        order = np.lexsort((rows_3N[1], rows_3N[0]))
        sorted_3N = rows_3N[:, order]
        is_first = np.ones(len(ids), bool)
        is_first[1:] = (sorted_3N[:2, 1:] != sorted_3N[:2, :-1]).any(axis=0)
        # The text that an id is judged by: of its first row in this batch, unless an earlier batch had it.
        known_N = sorted_3N[2, np.maximum.accumulate(np.where(is_first, np.arange(len(ids)), 0))]
        is_new = is_first.copy()
        for run_3R in self._runs:
            place_N = find_keys(run_3R, sorted_3N[:2])
            hit = place_N >= 0
            known_N[hit] = run_3R[2, place_N[hit]]
            is_new &= ~hit
        verdicts = np.empty(len(ids), np.int8)
        verdicts[order] = np.where(is_new, NEW, np.where(sorted_3N[2] == known_N, REPEATED, CONFLICTING))
        self._remember(sorted_3N[:, is_new])
        return verdicts

    def _remember(self, run_3N: np.ndarray) -> None:
        while self._runs and self._runs[-1].shape[1] <= 2 * run_3N.shape[1]:
            run_3N = sort_keys(np.concatenate([self._runs.pop(), run_3N], axis=1))
        if run_3N.shape[1]:
            self._runs.append(np.ascontiguousarray(run_3N))
