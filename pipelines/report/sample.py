"""The queries whose texts are read: what every method chose for them, and what the texts say of it.

Shapes: Q queries, P positives, N negatives of one method, U distinct (query, negative) of all methods.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from cluster.artifacts import Artifact
from pipelines.report.known import fold
from pipelines.report.members import Members
from pipelines.report.overlap import jaccard, shingle_matrix

# Steps of the golden ratio through the ordinals: any share of the queries, spread evenly over all shards.
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


class Sample:
    """The decisions about an even sample of the queries.

    Args:
        methods: Names.
        num_queries: Queries there are.
        max_queries: Queries kept, about; None keeps all.
        num_docs: Documents there are, for keys that stand for (query, document).
    """

    def __init__(
        self, methods: tuple[str, ...], num_queries: int, max_queries: int | None, num_docs: int
    ) -> None:
        self.num_docs = num_docs
        self._share = 1.0 if max_queries is None else max_queries / max(num_queries, 1)
        self._negatives: dict[str, list[np.ndarray]] = {name: [] for name in methods}
        self._queries: dict[str, list[np.ndarray]] = {name: [] for name in methods}
        self._positives: list[np.ndarray] = []
        self._shard_of: list[np.ndarray] = []

    def add(self, shard: int, method: str, members: Members) -> None:
        """Keep what ``method`` decided about the sampled queries of one shard."""
        kept_Q = _place(members.query_Q) < self._share
        query_Q = members.query_Q[kept_Q]
        self._queries[method].append(query_Q)
        self._shard_of.append(np.stack([query_Q, np.full(len(query_Q), shard)], axis=1))
        self._negatives[method].append(members.negative_keys(self.num_docs)[kept_Q[members.negative_row_N]])
        self._positives.append(members.positive_keys(self.num_docs)[kept_Q[members.positive_row_P]])

    def queries(self, method: str) -> np.ndarray:
        """Return the sampled queries for which ``method`` made a group, int64 [Q], ascending."""
        return np.sort(_joined(self._queries[method]))

    def negatives(self, method: str) -> np.ndarray:
        """Return int64 [N], a key for every (query, document) that ``method`` chose, repeated ones too."""
        return _joined(self._negatives[method])

    def distinct_negatives(self) -> np.ndarray:
        """Return int64 [U], ascending: what any method chose."""
        return np.unique(_joined([key for keys in self._negatives.values() for key in keys]))

    def positives(self) -> np.ndarray:
        """Return int64 [P], ascending: a key for every (query, positive)."""
        return np.unique(_joined(self._positives))

    def shards(self) -> dict[int, int]:
        """Return query -> the shard that holds it."""
        return dict(_joined(self._shard_of).reshape(-1, 2).tolist())


def _place(query_Q: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return (query_Q.astype(np.uint64) * _GOLDEN >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(parts) if parts else np.empty(0, np.int64)


@dataclass(frozen=True)
class Findings:
    """What the texts say of (query, negative) pairs.

    Args:
        key_U: int64, ascending.
        flags: ``identical``, ``near_duplicate``, ``answer_false`` -> bool [U].
    """

    key_U: np.ndarray
    flags: Mapping[str, np.ndarray]

    def of(self, flag: str, keys: np.ndarray) -> np.ndarray:
        """Return the flag of keys that are all among ``key_U``, bool."""
        return self.flags[flag][np.searchsorted(self.key_U, keys)]


def examine(
    data: Artifact,
    key_U: np.ndarray,
    positives: np.ndarray,
    answers: Mapping[int, tuple[str, ...]] | None,
    min_jaccard: float,
) -> Findings:
    """Compare negatives with the positives and the answers of their queries.

    Args:
        data: Documents; those that are needed must fit memory.
        key_U: int64, ascending: query * num_docs + document.
        positives: int64, ascending: the same for the positives of these queries, and maybe of others.
        answers: Query -> folded answer strings.
        min_jaccard: Overlap of 5-word shingles from which two texts are near-duplicates.
    """
    num_docs = data.num_rows("documents")
    query_U, doc_U = np.divmod(key_U, num_docs)
    query_P, doc_P = np.divmod(positives, num_docs)
    mine_P = np.isin(query_P, query_U)
    query_P, doc_P = query_P[mine_P], doc_P[mine_P]
    doc_D = np.unique(np.concatenate([doc_U, doc_P]))
    texts_D = read_texts(data, doc_D)
    row_U, row_P = np.searchsorted(doc_D, doc_U), np.searchsorted(doc_D, doc_P)
    first_U, last_U = np.searchsorted(query_P, query_U), np.searchsorted(query_P, query_U, side="right")
    pair_U = np.repeat(np.arange(len(key_U)), last_U - first_U)
    within = np.arange(len(pair_U)) - np.searchsorted(pair_U, pair_U)
    pair_P = first_U[pair_U] + within
    codes: dict[str, int] = {}
    text_D = np.array([codes.setdefault(text, len(codes)) for text in texts_D], np.int64)
    identical_U, near_U = np.zeros(len(key_U), bool), np.zeros(len(key_U), bool)
    left, right = row_U[pair_U], row_P[pair_P]
    identical_U[pair_U[text_D[left] == text_D[right]]] = True
    near_U[pair_U[jaccard(shingle_matrix(texts_D), left, right) >= min_jaccard]] = True
    flags = {"identical": identical_U, "near_duplicate": near_U & ~identical_U}
    if answers is not None:
        folded_D = [text.casefold() for text in texts_D]
        flags["answer_false"] = np.array(
            [
                any(answer in folded_D[row] for answer in answers.get(query, ()))
                for query, row in zip(query_U.tolist(), row_U.tolist(), strict=True)
            ],
            bool,
        )
    return Findings(key_U, flags)


def read_texts(data: Artifact, doc_D: np.ndarray) -> list[str]:
    """Return the texts of documents, white space folded; each shard that holds one is read once.

    Args:
        data: The documents.
        doc_D: int64, ascending.
    """
    starts = data.first_rows("documents")
    shard_D = np.searchsorted(starts, doc_D, side="right") - 1
    texts: list[str] = []
    for index in np.unique(shard_D).tolist():
        wanted = pa.array(doc_D[shard_D == index] - starts[index])
        column = data.read_shard("documents", index, columns=["text"]).column("text")
        texts += [fold(text) for text in column.take(wanted).to_pylist()]
    return texts
