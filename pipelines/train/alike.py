"""Texts that count as one: they never meet in a batch."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from models.prompts import Kind
from pipelines.near_duplicates import near_duplicates

SHINGLE_WORDS: dict[Kind, int] = {"query": 1, "document": 5}
"""Queries are short, and alike whatever the order of their words."""


@dataclass(frozen=True)
class Alike:
    """Ordinals of texts that count as one with another text's; the others stand for themselves.

    Args:
        queries: Canonical query -> the one that stands for it and for all that are alike.
        documents: The same of documents.
    """

    queries: Mapping[int, int] = field(default_factory=dict)
    documents: Mapping[int, int] = field(default_factory=dict)

    def query(self, ordinal: int) -> int:
        """Return the query that stands for this one."""
        return self.queries.get(ordinal, ordinal)

    def document(self, ordinal: int) -> int:
        """Return the document that stands for this one."""
        return self.documents.get(ordinal, ordinal)


ALL_DIFFER = Alike()
"""No two texts are alike."""


def near_pairs(
    ordinals: Sequence[int], texts: Sequence[str], jaccard: float, width: int, seed: int
) -> list[tuple[int, int]]:
    """Return pairs of ordinals whose texts are near-duplicates.

    Args:
        ordinals: Of the texts.
        texts: All in memory.
        jaccard: Least similarity of their shingles.
        width: Words of a shingle.
        seed: Of the hash functions.
    """
    pairs = near_duplicates(texts, jaccard, width, seed).tolist()
    return [(ordinals[first], ordinals[second]) for first, second in pairs]


def stand_ins(pairs: Iterable[tuple[int, int]]) -> dict[int, int]:
    """Return of every ordinal in some pair the smallest one that a chain of pairs connects it with."""
    above: dict[int, int] = {}

    def top(ordinal: int) -> int:
        while above.setdefault(ordinal, ordinal) != ordinal:
            above[ordinal] = above[above[ordinal]]
            ordinal = above[ordinal]
        return ordinal

    for first, second in pairs:
        low, high = sorted((top(first), top(second)))
        above[high] = low
    return {ordinal: top(ordinal) for ordinal in sorted(above)}
