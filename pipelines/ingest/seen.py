"""Which ids a stream has had: 32 bytes an id, where a dict of strings takes eight times that."""

import numpy as np

from pipelines.keys import find_keys, hash_keys, sort_keys

NEW, REPEATED, CONFLICTING = 0, 1, 2
"""Verdicts: an id not had before; had with the same text; had with another text."""


class SeenIds:
    """Remembers the ids of a stream and the digest of each one's text, in sorted runs that are merged as they grow.

    A run is uint64 [4, N]: the two halves of the id's hash, half of the text's, and how many ids came before it.
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
        for run_4R in self._runs:
            place_N = find_keys(run_4R, sorted_3N[:2])
            hit = place_N >= 0
            known_N[hit] = run_4R[2, place_N[hit]]
            is_new &= ~hit
        verdicts = np.empty(len(ids), np.int8)
        verdicts[order] = np.where(is_new, NEW, np.where(sorted_3N[2] == known_N, REPEATED, CONFLICTING))
        # In the order of the stream, not of the hashes.
        before_N = np.cumsum(verdicts == NEW)[order] - 1 + len(self)
        self._remember(np.concatenate([sorted_3N, before_N[None].astype(np.uint64)])[:, is_new])
        return verdicts

    def find(self, ids: list[str]) -> np.ndarray:
        """Return int64 [M]: how many other ids came before each of M, -1 where it has not been had."""
        keys_2M = hash_keys(ids, "id")
        before_M = np.full(len(ids), -1, np.int64)
        for run_4R in self._runs:
            place_M = find_keys(run_4R, keys_2M)
            hit = place_M >= 0
            before_M[hit] = run_4R[3, place_M[hit]].astype(np.int64)
        return before_M

    def __len__(self) -> int:
        return sum(run_4R.shape[1] for run_4R in self._runs)

    def _remember(self, run_4N: np.ndarray) -> None:
        while self._runs and self._runs[-1].shape[1] <= 2 * run_4N.shape[1]:
            run_4N = sort_keys(np.concatenate([self._runs.pop(), run_4N], axis=1))
        if run_4N.shape[1]:
            self._runs.append(np.ascontiguousarray(run_4N))
