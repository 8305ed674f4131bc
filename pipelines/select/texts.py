"""Texts as numbers: equal where they are equal but for white space."""

import hashlib
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.artifacts import Artifact

# Everything that str.split takes for white space, RE2 has only a part of it in \s.
_SPACES = r"\t-\r\x1c-\x1f\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}"
_UNFOLDED = rf"^ |  | $|[{_SPACES}]"


def keys_of(texts: pa.ChunkedArray) -> np.ndarray:
    """Return uint64 [rows]: digests of the texts, their white space folded into single spaces.

    Only texts that have some to fold are split: most of the time goes there.
    """
    keys = np.empty(len(texts), np.uint64)
    start = 0
    for chunk in texts.chunks:
        unfolded = pc.match_substring_regex(chunk, _UNFOLDED).to_numpy(zero_copy_only=False)
        for row, (text, fold) in enumerate(zip(chunk.to_pylist(), unfolded.tolist(), strict=True), start):
            folded = " ".join(text.split()) if fold else text
            digest = hashlib.blake2b(folded.encode(), digest_size=8).digest()
            keys[row] = int.from_bytes(digest, "little")
        start += len(chunk)
    return keys


@dataclass(frozen=True)
class _Source:
    uri: str
    artifact: Artifact = field(compare=False)


def document_keys(data: Artifact) -> np.ndarray:
    """Return uint64 [num_documents], read-only; kept for the next selection from the same artifact in this process.

    Documents are read shard by shard; the keys stay in memory, 8 bytes a document.
    """
    return _document_keys(_Source(data.uri, data))


@lru_cache(maxsize=1)
def _document_keys(source: _Source) -> np.ndarray:
    data = source.artifact
    keys = np.empty(data.num_rows("documents"), np.uint64)
    starts = data.first_rows("documents")
    for index in range(data.num_shards("documents")):
        texts = data.read_shard("documents", index, columns=["text"]).column("text")
        keys[starts[index] : starts[index + 1]] = keys_of(texts)
    keys.setflags(write=False)
    return keys


def rows_between(data: Artifact, table: str, first: int, last: int) -> tuple[int, pa.Table]:
    """Return the shards of ``table`` that hold the rows ``first`` to ``last``, and the first row they hold."""
    starts = data.first_rows(table)
    low, high = (int(np.searchsorted(starts, row, side="right")) - 1 for row in (first, last))
    shards = [data.read_shard(table, index) for index in range(low, high + 1)]
    return int(starts[low]), pa.concat_tables(shards)
