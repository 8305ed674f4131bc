"""Which part of a data set is used: draws by hash, so that a smaller cut lies inside a larger one."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from pipelines.ingest.config import SPLITS
from pipelines.schemas import Split


@dataclass(frozen=True)
class Judgments:
    """Usable judgments as columns; queries and documents by their position in the source.

    Args:
        query: int64 [J].
        doc: int64 [J].
        relevance: float32 [J], above zero; at most zero for a pair that is judged a negative.
        split: int8 [J], position in SPLITS.
    """

    query: NDArray[np.int64]
    doc: NDArray[np.int64]
    relevance: NDArray[np.float32]
    split: NDArray[np.int8]

    def take(self, mask: NDArray[np.bool_]) -> "Judgments":
        """Return the judgments where ``mask``, bool [J], is set."""
        return Judgments(self.query[mask], self.doc[mask], self.relevance[mask], self.split[mask])


def draw(name: str, seed: int) -> int:
    """Return a seeded hash of an id, 64 bits: its place in a random order, whatever the other ids."""
    key = seed.to_bytes(8, "little")
    return int.from_bytes(blake2b(name.encode(), digest_size=8, key=key).digest(), "little")


def drawn_order(draws: Iterable[int], count: int) -> NDArray[np.int64]:
    """Return the positions of ``count`` draws, the smallest draw first."""
    return np.argsort(np.fromiter(draws, np.uint64, count), kind="stable").astype(np.int64)


def keep_queries(
    judgments: Judgments, query_order: NDArray[np.int64], max_queries: int | Mapping[Split, int] | None
) -> Judgments:
    """Return the judgments of the first queries of each split, in drawn order.

    Args:
        judgments: All usable judgments.
        query_order: int64 [Q], the queries in drawn order.
        max_queries: Most queries of each split, or of those named.
    """
    if max_queries is None:
        return judgments
    position = np.empty(len(query_order), np.int64)
    position[query_order] = np.arange(len(query_order))
    keep = np.ones(len(judgments.query), bool)
    for code, split in enumerate(SPLITS):
        most = max_queries if isinstance(max_queries, int) else max_queries.get(split)
        if most is None:
            continue
        mine = judgments.split == code
        ranked = np.unique(position[judgments.query[mine]])
        keep[mine] = np.isin(position[judgments.query[mine]], ranked[:most])
    return judgments.take(keep)


def keep_documents(
    judgments: Judgments,
    query_order: NDArray[np.int64],
    doc_order: NDArray[np.int64],
    limit: int | None,
) -> tuple[Judgments, NDArray[np.bool_]]:
    """Keep at most ``limit`` documents, and only queries all of whose positives are among them.

    Queries are admitted in drawn order while their positives fit; then documents fill up in drawn order.

    Args:
        judgments: Judgments of the queries kept so far.
        query_order: int64 [Q], the queries in drawn order.
        doc_order: int64 [N], the documents in drawn order.
        limit: Most documents; None keeps all.

    Returns:
        The judgments left, and bool [N], the documents kept.
    """
    kept = np.zeros(len(doc_order), bool)
    if limit is None or limit >= len(doc_order):
        kept[:] = True
        return judgments, kept
    by_query = np.argsort(judgments.query, kind="stable")
    starts = np.searchsorted(judgments.query[by_query], np.arange(len(query_order) + 1))
    admitted = np.zeros(len(query_order), bool)
    num_kept = 0
    for query in query_order:
        positives = np.unique(judgments.doc[by_query[starts[query] : starts[query + 1]]])
        new = positives[~kept[positives]]
        if len(positives) and num_kept + len(new) <= limit:
            kept[new] = True
            admitted[query] = True
            num_kept += len(new)
    others = doc_order[~kept[doc_order]]
    kept[others[: limit - num_kept]] = True
    return judgments.take(admitted[judgments.query]), kept
