"""Random candidates: every query sees the corpus in an order of its own, without anybody scoring it.

The order is that of a keyed hash which maps the ordinals 0..N-1 onto themselves, one to one, so the candidate of
rank r is computed and not looked for: a Feistel network over a power of four, walked along its cycle until it
falls below N (Black and Rogaway, Ciphers with Arbitrary Finite Domains, 2002).

Shapes: Q queries, K candidates a query.
"""

import numpy as np

_ROUNDS = 6


def random_documents(seed: int, queries: np.ndarray, num_documents: int, depth: int) -> np.ndarray:
    """Return the first candidates of every query, each document at most once; a deeper call only adds to them.

    Args:
        seed: Of the draw.
        queries: Ordinals, int64 [Q].
        num_documents: Documents of the corpus, at least 1.
        depth: Candidates wanted.

    Returns:
        int64 [Q, K], K = min(depth, num_documents).
    """
    with np.errstate(over="ignore"):
        key_Q1 = _mix(_mix(np.array(seed, np.uint64)) ^ queries.astype(np.uint64))[:, None]
    half_bits = max(1, (int(num_documents - 1).bit_length() + 1) // 2)
    ranks_K = np.arange(min(depth, num_documents), dtype=np.uint64)
    docs_QK = _permute(np.broadcast_to(ranks_K, (len(queries), len(ranks_K))), key_Q1, half_bits)
    while True:
        row, column = np.nonzero(docs_QK >= num_documents)
        if not len(row):
            return docs_QK.astype(np.int64)
        docs_QK[row, column] = _permute(docs_QK[row, column], key_Q1[row, 0], half_bits)


def _permute(values: np.ndarray, keys: np.ndarray, half_bits: int) -> np.ndarray:
    """Permute the uint64 numbers below 4 ** half_bits, one permutation a key."""
    bits, mask = np.uint64(half_bits), np.uint64((1 << half_bits) - 1)
    left, right = values >> bits, values & mask
    with np.errstate(over="ignore"):
        for turn in range(_ROUNDS):
            left, right = right, left ^ (_mix(keys + np.uint64(turn) ^ _mix(right)) & mask)
    return (left << bits) | right


def _mix(values: np.ndarray) -> np.ndarray:
    """Return the SplitMix64 hash of uint64 values."""
    mixed = values + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
