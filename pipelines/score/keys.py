"""Keys of texts and pairs: 128 bits a text, 256 a pair, a bucket by the document's first bits.

Shapes: N texts or pairs. A key is a numpy ``S16`` or ``S32``: ordered and compared byte by byte.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

NUM_BUCKETS = 4096
"""Buckets of the score store: 12 bits. A billion pairs make 244,000 a bucket, which a task reads in a moment."""


def text_keys(texts: Sequence[str]) -> np.ndarray:
    """Return the 128-bit BLAKE2b hash of each text, ``S16`` [N]."""
    digests = [hashlib.blake2b(text.encode(), digest_size=16).digest() for text in texts]
    return np.frombuffer(b"".join(digests), "S16")


def pair_keys(document_N: np.ndarray, query_N: np.ndarray) -> np.ndarray:
    """Return document key + query key, ``S32`` [N]: the pairs of a document are neighbours."""
    joined = np.empty(len(document_N), "S32")
    halves = joined.view(np.uint8).reshape(-1, 2, 16)
    halves[:, 0] = _bytes(document_N, 16)
    halves[:, 1] = _bytes(query_N, 16)
    return joined


def document_half(pair_N: np.ndarray) -> np.ndarray:
    """Return the document keys of pairs, ``S16`` [N]."""
    return np.ascontiguousarray(_bytes(pair_N, 32)[:, :16]).view("S16")[:, 0]


def query_half(pair_N: np.ndarray) -> np.ndarray:
    """Return the query keys of pairs, ``S16`` [N]."""
    return np.ascontiguousarray(_bytes(pair_N, 32)[:, 16:]).view("S16")[:, 0]


def buckets(keys_N: np.ndarray) -> np.ndarray:
    """Return the bucket of each document key or pair key, int64 [N] below NUM_BUCKETS."""
    first = _bytes(keys_N, keys_N.dtype.itemsize)[:, :2].astype(np.int64)
    return first[:, 0] << 4 | first[:, 1] >> 4


def to_arrow(keys_N: np.ndarray) -> pa.Array:
    """Return keys as a column of fixed-size binary."""
    kept = np.ascontiguousarray(keys_N)
    return pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(kept.dtype.itemsize), len(kept), [None, pa.py_buffer(kept)]
    )


def from_arrow(column: pa.ChunkedArray) -> np.ndarray:
    """Return a column of fixed-size binary as keys."""
    array = column.combine_chunks()
    width = array.type.byte_width
    return np.frombuffer(array.buffers()[1] or b"", f"S{width}", len(array), array.offset * width)


def find(sorted_M: np.ndarray, keys_N: np.ndarray) -> np.ndarray:
    """Return where each key stands in ``sorted_M`` (unique, ascending), int64 [N]; -1 where it does not."""
    if not len(sorted_M):
        return np.full(len(keys_N), -1, np.int64)
    at_N = np.minimum(np.searchsorted(sorted_M, keys_N), len(sorted_M) - 1)
    return np.where(sorted_M[at_N] == keys_N, at_N, -1)


def _bytes(keys_N: np.ndarray, width: int) -> np.ndarray:
    return np.ascontiguousarray(keys_N).view(np.uint8).reshape(-1, width)
