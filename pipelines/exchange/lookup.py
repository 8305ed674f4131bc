"""Texts and ids by ordinal: shards read on demand, the last used kept, nothing collected."""

from collections import OrderedDict
from itertools import pairwise
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.artifacts import Artifact

CACHE_BYTES = 2**29
"""A corpus whose texts fit here is read once; a larger one once for every batch that needs all of it."""


class Lookup:
    """One column of an ingest artifact by ordinal.

    A call visits every shard it needs once, in order (a sorted join), and the Arrow arrays of the shards used last
    stay in memory up to ``cache_bytes``.

    Args:
        data: The ingest artifact.
        table: ``"documents"`` or ``"queries"``.
        column: ``"text"``, which is a document's title and text as models read them, or the id.
        cache_bytes: Most bytes kept.
    """

    def __init__(
        self,
        data: Artifact,
        table: Literal["documents", "queries"],
        column: Literal["text", "doc_id", "query_id"],
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self.data, self.table, self.column, self.cache_bytes = data, table, column, cache_bytes
        self._first = data.first_rows(table)
        self._kept: OrderedDict[int, pa.Array] = OrderedDict()

    def take(self, ordinals: np.ndarray) -> pa.Array:
        """Return the values at ``ordinals``, int64 in any order and repeated or not, as large strings."""
        unique, inverse = np.unique(ordinals, return_inverse=True)
        bounds = np.searchsorted(unique, self._first)
        parts = [
            self._shard(index).take(pa.array(unique[start:end] - self._first[index]))
            for index, (start, end) in enumerate(pairwise(bounds))
            if end > start
        ]
        values = pa.concat_arrays(parts) if parts else pa.array([], pa.large_string())
        return values.take(pa.array(inverse))

    def _shard(self, index: int) -> pa.Array:
        if index not in self._kept:
            self._kept[index] = self._read(index)
            while (
                sum(array.nbytes for array in self._kept.values()) > self.cache_bytes and len(self._kept) > 1
            ):
                self._kept.popitem(last=False)
        self._kept.move_to_end(index)
        return self._kept[index]

    def _read(self, index: int) -> pa.Array:
        titled = self.table == "documents" and self.column == "text"
        columns = [self.column, "title"] if titled else [self.column]
        table = self.data.read_shard(self.table, index, columns=columns)
        values = table.column(self.column).combine_chunks().cast(pa.large_string())
        if not titled:
            return values
        # As schemas.rendered_texts, without Python strings.
        title = pc.fill_null(table.column("title").combine_chunks().cast(pa.large_string()), "")
        joined = pc.binary_join_element_wise(title, values, pa.scalar(" ", pa.large_string()))
        return pc.if_else(pc.equal(title, ""), values, joined)
