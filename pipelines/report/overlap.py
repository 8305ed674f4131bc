"""Near-duplicates: the exact Jaccard of 5-word shingles, for given pairs of texts.

Broder, "On the resemblance and containment of documents", 1997. Shapes: D texts, S distinct shingles, M pairs.
"""

from collections import defaultdict
from collections.abc import Sequence
from itertools import count
from typing import TYPE_CHECKING

import numpy as np
import regex  # type: ignore[import-untyped]

if TYPE_CHECKING:
    from scipy.sparse import csr_array

# Scripts written without spaces give one word a character; a word keeps its combining marks.
_WORD = regex.compile(
    r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Khmer}\p{Lao}\p{Myanmar}]|[\p{L}\p{M}\p{N}]+"
)
# Multiplier of the polynomial that stands for a run of words: odd, bits well spread (golden ratio).
_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_CHUNK_PAIRS = 65_536


def shingle_matrix(texts: Sequence[str], width: int = 5) -> "csr_array":
    """Return which text holds which shingle.

    Args:
        texts: D texts.
        width: Words of one shingle; a shorter text is one shingle, a text without words has none.

    Returns:
        int32 [D, S] of zeros and ones.
    """
    from scipy.sparse import csr_array

    # A word is numbered when it is first looked up; 0 fills up texts that are shorter than a shingle.
    vocabulary: defaultdict[str, int] = defaultdict(count(1).__next__)
    codes: list[int] = []
    lengths = np.zeros(len(texts), np.int64)
    for number, text in enumerate(texts):
        words = _WORD.findall(text.casefold())
        codes += map(vocabulary.__getitem__, words)
        if words:
            codes += [0] * (width - len(words))
        lengths[number] = max(len(words), width) if words else 0
    codes_W = np.array(codes, np.uint64)
    keys = np.zeros(max(len(codes_W) - width + 1, 0), np.uint64)
    for position in range(width):
        keys = keys * _FACTOR + codes_W[position : position + len(keys)]
    text_W = np.repeat(np.arange(len(texts)), lengths)
    # A run that begins in one text and ends in the next is no shingle.
    whole = text_W[: len(keys)] == text_W[width - 1 :] if len(keys) else np.empty(0, bool)
    shingles, column = np.unique(keys[whole], return_inverse=True)
    row = text_W[: len(keys)][whole]
    held = csr_array((np.ones(len(row), np.int32), (row, column)), shape=(len(texts), len(shingles)))
    held.sum_duplicates()
    held.data[:] = 1
    return held


def jaccard(held: "csr_array", first_M: np.ndarray, second_M: np.ndarray) -> np.ndarray:
    """Return float64 [M], the share of their shingles that two texts have in common; 0 for texts without any.

    Args:
        held: Shingles of the texts.
        first_M: Row of one text.
        second_M: Row of the other.
    """
    sizes_D = np.diff(held.indptr)
    found_M = np.zeros(len(first_M))
    for start in range(0, len(first_M), _CHUNK_PAIRS):
        first, second = first_M[start : start + _CHUNK_PAIRS], second_M[start : start + _CHUNK_PAIRS]
        common = np.asarray(held[first].multiply(held[second]).sum(axis=1)).ravel()
        union = sizes_D[first] + sizes_D[second] - common
        found_M[start : start + _CHUNK_PAIRS] = common / np.maximum(union, 1)
    return found_M
