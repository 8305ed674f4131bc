"""The Arrow schemas of what this stage keeps for itself: pieces on their way between tasks, and the store's deltas."""

import pyarrow as pa


def _table(name: str, fields: list[pa.Field]) -> pa.Schema:
    return pa.schema(fields, metadata={b"stope.table": name.encode(), b"stope.version": b"1"})


def _required(name: str, kind: pa.DataType) -> pa.Field:
    return pa.field(name, kind, nullable=False)


_PAIR = [_required("query", pa.int64()), _required("doc", pa.int64())]

ASKED = _table(
    "asked",
    [*_PAIR, _required("query_key", pa.binary(16)), pa.field("query_text", pa.string())],
)
"""Pairs whose documents lie in one group of document shards; a text stands at its first row of the piece only."""

JOINED = _table(
    "joined",
    [
        *_PAIR,
        _required("pair", pa.binary(32)),
        pa.field("query_text", pa.string()),
        pa.field("document_text", pa.string()),
    ],
)
"""Pairs of one range of buckets, with all that scoring needs; texts at their first row of the piece only."""

SCORED = _table("scored", [*_PAIR, _required("score", pa.float32())])
"""The pairs of one row of work."""

DELTAS = _table("deltas", [_required("delta", pa.string()), _required("pairs", pa.int64())])
"""Files of the score store that scores were read from or written to, and how many pairs each supplied."""

DELTA = _table("delta", [_required("pair", pa.binary(32)), _required("score", pa.float32())])
"""One file of the score store, ascending by pair."""
