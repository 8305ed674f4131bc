"""128-bit keys of texts: hashed, sorted and found again in arrays, without a dict that grows with the corpus.

Shapes: N keys that are sorted, M keys that are looked for; C = 2 or more rows: high half, low half, payload.
"""

from collections.abc import Iterable
from hashlib import blake2b

import numpy as np

KEY_BYTES = 16


def hash_keys(texts: Iterable[str], kind: str) -> np.ndarray:
    """Return uint64 [2, N]: the high and the low half of a 128-bit hash of each text.

    Args:
        texts: N texts.
        kind: What the texts are, at most 16 bytes; equal texts of two kinds have different keys.
    """
    person = kind.encode()
    digests = b"".join(
        blake2b(text.encode(), digest_size=KEY_BYTES, person=person).digest() for text in texts
    )
    return np.ascontiguousarray(np.frombuffer(digests, dtype=">u8").reshape(-1, 2).T.astype(np.uint64))


def sort_keys(keys_CN: np.ndarray) -> np.ndarray:
    """Return the columns in the order of their keys; those of equal keys keep their order."""
    return np.ascontiguousarray(keys_CN[:, np.lexsort((keys_CN[1], keys_CN[0]))])


def find_keys(sorted_CN: np.ndarray, keys_2M: np.ndarray) -> np.ndarray:
    """Find keys in sorted ones.

    Args:
        sorted_CN: uint64, of ``sort_keys``; may be a memory map, of which only what is looked at is read.
        keys_2M: uint64 [2, M], in any order.

    Returns:
        int64 [M]: the first column of an equal key, -1 where there is none.
    """
    high_N, low_N = sorted_CN[0], sorted_CN[1]
    found_M = np.full(keys_2M.shape[1], -1, np.int64)
    place_M = np.searchsorted(high_N, keys_2M[0])
    pending = np.arange(keys_2M.shape[1])
    # One round, and another for each pair of keys that share their high half, which chance never makes.
    while len(pending):
        pending = pending[place_M[pending] < len(high_N)]
        pending = pending[high_N[place_M[pending]] == keys_2M[0, pending]]
        is_equal = low_N[place_M[pending]] == keys_2M[1, pending]
        found_M[pending[is_equal]] = place_M[pending[is_equal]]
        pending = pending[~is_equal]
        place_M[pending] += 1
    return found_M
