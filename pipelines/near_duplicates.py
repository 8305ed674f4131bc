"""Find near-duplicate texts: MinHash proposes pairs, the exact Jaccard of their shingles decides.

Broder, "On the resemblance and containment of documents", 1997; banding after Leskovec, Rajaraman and Ullman,
"Mining of Massive Datasets", section 3.4.
"""

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
import regex  # type: ignore[import-untyped]
from numpy.typing import NDArray

# Scripts written without spaces give one word a character; a word keeps its combining marks.
_WORD = regex.compile(
    r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Khmer}\p{Lao}\p{Myanmar}]|[\p{L}\p{M}\p{N}]+"
)
_NUM_BANDS = 64
_CHUNK_TEXTS = 4096
# Members of a larger bucket are compared with the bucket's first member and their neighbour only: boilerplate
# shared by thousands of texts would otherwise cost the square of its number.
_MAX_BUCKET = 64
# Fibonacci hashing: 2**64 divided by the golden ratio.
_MIX = np.uint64(0x9E3779B97F4A7C15)


class Shingles:
    """The distinct shingles of every text, as sorted runs of 32-bit hashes.

    Args:
        texts: N texts.
        width: Words of one shingle; a shorter text is one shingle.
    """

    def __init__(self, texts: Sequence[str], width: int) -> None:
        words: dict[str, int] = {}
        runs = [_shingles(text, width, words) for text in texts]
        self.offsets = np.concatenate([[0], np.cumsum([len(run) for run in runs], dtype=np.int64)])
        self.hashes = np.concatenate(runs) if runs else np.empty(0, np.uint32)

    def of(self, text: int) -> NDArray[np.uint32]:
        """Return the shingles of one text, sorted."""
        return self.hashes[self.offsets[text] : self.offsets[text + 1]]

    def jaccard(self, first: int, second: int) -> float:
        """Return the share of their shingles that two texts have in common, 0 to 1."""
        left, right = self.of(first), self.of(second)
        common = len(np.intersect1d(left, right, assume_unique=True))
        return common / (len(left) + len(right) - common)


def near_duplicates(
    texts: Sequence[str], threshold: float, width: int = 5, seed: int = 0
) -> NDArray[np.int64]:
    """Return pairs of texts whose shingles have a Jaccard similarity of at least ``threshold``.

    A pair at a similarity of exactly one half is proposed with probability .9998, a closer one with more. Of
    a group of more than 64 alike, enough pairs are returned to connect the group, not all.

    Args:
        texts: N texts.
        threshold: Least similarity, above 0 to 1.
        width: Words of one shingle.
        seed: Seed of the hash functions.

    Returns:
        int64 [P, 2], first < second, sorted, without repetition.
    """
    if len(texts) < 2:
        return np.empty((0, 2), np.int64)
    shingles = Shingles(texts, width)
    # Fewer rows in a band propose more pairs, which a low threshold needs.
    rows = 3 if threshold >= 0.5 else 2 if threshold >= 0.25 else 1
    proposed = _proposals(_band_keys(shingles, rows, seed))
    close = [shingles.jaccard(first, second) >= threshold for first, second in proposed.tolist()]
    return proposed[np.asarray(close, dtype=bool)]


def _shingles(text: str, width: int, words: dict[str, int]) -> NDArray[np.uint32]:
    tokens = _WORD.findall(text.lower())
    for token in tokens:
        if token not in words:
            words[token] = int.from_bytes(blake2b(token.encode(), digest_size=8).digest(), "little")
    codes = np.array([words[token] for token in tokens], dtype=np.uint64)
    count = max(len(codes) - width + 1, 1)
    hashes = np.zeros(count, np.uint64)
    for position in range(min(width, len(codes))):
        hashes = (hashes ^ codes[position : position + count]) * _MIX
        hashes ^= hashes >> np.uint64(29)
    return np.unique((hashes >> np.uint64(32)).astype(np.uint32))


def _band_keys(shingles: Shingles, rows: int, seed: int) -> NDArray[np.uint64]:
    """Return uint64 [bands, N]: texts with an equal key in a band are proposed as a pair."""
    generator = np.random.default_rng(seed)
    num_hashes = _NUM_BANDS * rows
    factors = generator.integers(1, 2**63, size=num_hashes, dtype=np.uint64) | np.uint64(1)
    terms = generator.integers(0, 2**63, size=num_hashes, dtype=np.uint64)
    num_texts = len(shingles.offsets) - 1
    keys = np.zeros((_NUM_BANDS, num_texts), np.uint64)
    for start in range(0, num_texts, _CHUNK_TEXTS):
        end = min(start + _CHUNK_TEXTS, num_texts)
        offsets = shingles.offsets[start : end + 1]
        hashes = shingles.hashes[offsets[0] : offsets[-1]].astype(np.uint64)
        starts = offsets[:-1] - offsets[0]
        for number in range(num_hashes):
            # Multiply-shift: the high half of factor * x + term, modulo 2**64.
            mixed = (hashes * factors[number] + terms[number]) >> np.uint64(32)
            smallest = np.minimum.reduceat(mixed, starts)
            band = number // rows
            keys[band, start:end] = (keys[band, start:end] ^ smallest) * _MIX
    return keys


def _proposals(keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    pairs: list[NDArray[np.int64]] = []
    for band in keys:
        order = np.argsort(band, kind="stable").astype(np.int64)
        sorted_keys = band[order]
        starts = np.flatnonzero(np.concatenate([[True], sorted_keys[1:] != sorted_keys[:-1]]))
        sizes = np.diff(np.append(starts, len(band)))
        for start, size in zip(starts[sizes > 1], sizes[sizes > 1], strict=True):
            members = order[start : start + size]
            if size <= _MAX_BUCKET:
                first, second = np.triu_indices(size, 1)
                pairs.append(np.column_stack([members[first], members[second]]))
            else:
                pairs.append(np.column_stack([members[:-1], members[1:]]))
                pairs.append(np.column_stack([np.full(size - 1, members[0]), members[1:]]))
    if not pairs:
        return np.empty((0, 2), np.int64)
    return np.unique(np.sort(np.concatenate(pairs), axis=1), axis=0)
