"""A row of work: a cut of one range of buckets, less what the store knows, and what becomes of its scores.

Shapes: N pairs of a row, U unique pairs (by text), M pairs that nobody has scored.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pyarrow as pa

from cluster.artifacts import ArtifactWriter
from pipelines import schemas
from pipelines.score.keys import document_half, find, from_arrow, query_half
from pipelines.score.store import Delta, ScoreStore
from pipelines.score.tables import DELTAS, SCORED

_DTYPES: dict[str, Any] = {
    "query_N": np.int64,
    "doc_N": np.int64,
    "code_N": np.int64,
    "pair_U": "S32",
    "score_U": np.float32,
    "origin_U": np.int64,
}


@dataclass(frozen=True)
class Portion:
    """The pairs of one row of work.

    Args:
        query_N: int64 ordinals.
        doc_N: int64 ordinals.
        code_N: Which unique pair each row is, int64.
        pair_U: Keys, ``S32``, ascending.
        score_U: float32, NaN where the store knew none.
        origin_U: Which of the deltas knew it, int64, -1 where none did.
    """

    query_N: np.ndarray
    doc_N: np.ndarray
    code_N: np.ndarray
    pair_U: np.ndarray
    score_U: np.ndarray
    origin_U: np.ndarray

    @property
    def new(self) -> np.ndarray:
        """The unique pairs that nobody has scored, int64 [M]."""
        return np.flatnonzero(self.origin_U < 0)

    def names(self) -> np.ndarray:
        """Return a query and a document, int64 [M, 2] ordinals, that each unknown pair stands for."""
        _, first = np.unique(self.code_N, return_index=True)
        rows = first[self.new]
        return np.stack([self.query_N[rows], self.doc_N[rows]], axis=1)

    def pack(self) -> dict[str, bytes]:
        """Return the arrays as bytes, for the way to another process."""
        return {field.name: getattr(self, field.name).tobytes() for field in fields(self)}

    @classmethod
    def unpack(cls, packed: Mapping[str, bytes]) -> "Portion":
        """Return what ``pack`` was given."""
        return cls(**{name: np.frombuffer(content, _DTYPES[name]) for name, content in packed.items()})


def take_portion(
    joined: pa.Table, cut: int, cuts: int, store: ScoreStore, deltas: list[Delta]
) -> tuple[Portion, list[tuple[str, str]]]:
    """Take the ``cut``-th of ``cuts`` like portions of a range of buckets and look its pairs up.

    Args:
        joined: Schema JOINED, all pieces of the range.
        cut: Portion, from 0; of the unique pairs in order of their keys, whatever the store knows.
        cuts: How many portions there are.
        store: Scores of this teacher.
        deltas: Where to look.

    Returns:
        The portion, and (query, document) of its M unknown pairs.
    """
    every_pair, every_code = np.unique(from_arrow(joined.column("pair")), return_inverse=True)
    begin, end = (number * len(every_pair) // cuts for number in (cut, cut + 1))
    rows = np.flatnonzero((every_code >= begin) & (every_code < end))
    pair_U = every_pair[begin:end]
    score_U, origin_U = store.look_up(pair_U, deltas)
    portion = Portion(
        query_N=joined.column("query").to_numpy()[rows],
        doc_N=joined.column("doc").to_numpy()[rows],
        code_N=every_code[rows] - begin,
        pair_U=pair_U,
        score_U=score_U,
        origin_U=origin_U,
    )
    return portion, _texts_of(joined, pair_U[portion.new])


def _texts_of(joined: pa.Table, pair_M: np.ndarray) -> list[tuple[str, str]]:
    every = from_arrow(joined.column("pair"))
    sides = []
    for column, half in (("query_text", query_half), ("document_text", document_half)):
        told = joined.column(column).combine_chunks()
        rows = np.flatnonzero(told.is_valid().to_numpy(zero_copy_only=False))
        keys, first = np.unique(half(every[rows]), return_index=True)
        at_M = rows[first][find(keys, half(pair_M))] if len(pair_M) else rows[:0]
        codes, code_M = np.unique(at_M, return_inverse=True)
        # One string for a document of many pairs.
        texts = told.take(pa.array(codes, pa.int64())).to_pylist()
        sides.append([texts[code] for code in code_M.tolist()])
    return list(zip(*sides, strict=True))


def settle(
    writer: ArtifactWriter,
    store: ScoreStore,
    row: int,
    portion: Portion,
    new_score_M: np.ndarray,
    deltas: list[Delta],
    tokens: int,
    seconds: float,
) -> None:
    """Add the new scores to the store, then write the scores of all pairs of the row.

    Args:
        writer: Of the artifact.
        store: Scores of this teacher.
        row: Number of the row, from 0.
        portion: Its pairs.
        new_score_M: float32, finite, in the order of ``portion.new``.
        deltas: What ``portion.origin_U`` counts.
        tokens: Tokens that were scored, without padding.
        seconds: What scoring them took.
    """
    new, score_U, origin_U = portion.new, portion.score_U.copy(), portion.origin_U.copy()
    paths = [delta.path for delta in deltas]
    if len(new):
        score_U[new], origin_U[new] = new_score_M, len(paths)
        paths.append(store.write(portion.pair_U[new], new_score_M).path)
    used, pairs = np.unique(origin_U, return_counts=True)
    told = pa.table({"delta": [paths[number] for number in used.tolist()], "pairs": pairs})
    writer.write_shard("read", row, schemas.conform(told, DELTAS))
    columns = {"query": portion.query_N, "doc": portion.doc_N, "score": score_U[portion.code_N]}
    counters = {
        "pairs_scored": len(new),
        "pairs_from_store": len(score_U) - len(new),
        "pairs_of_identical_texts": len(portion.code_N) - len(score_U),
        "tokens": tokens,
    }
    table = schemas.conform(pa.table(columns), SCORED)
    # Written last: it is what makes the row finished.
    writer.write_shard("scored", row, table, counters=counters, seconds=seconds)
