"""The score store: what a teacher said of every pair it was ever shown; it outlives runs.

``<root>/scores/<label>-<teacher fingerprint>/<buckets>/<time>-<sha256>.parquet``: immutable deltas of sorted pair
keys and scores. A delta lies in a folder that names the first and the last bucket it holds (hex), and its name holds
the digest of its bytes, so that a reader knows what it has read. Nothing is ever rewritten: two runs at once add
two deltas. A pair that stands in both has the score of the delta that was written first.
"""

import hashlib
import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cluster.errors import UserError
from cluster.storage import MissingObject, Storage
from pipelines import schemas
from pipelines.score.keys import buckets, find, from_arrow, to_arrow
from pipelines.score.tables import DELTA

_PATH = re.compile(r"([0-9a-f]{3})-([0-9a-f]{3})/[0-9a-f]{11}-[0-9a-f]{32}\.parquet")


@dataclass(frozen=True)
class Delta:
    """One immutable file of the store.

    Args:
        path: Below the teacher's folder.
        first: Its first bucket.
        last: Its last bucket.
    """

    path: str
    first: int
    last: int

    @classmethod
    def at(cls, path: str) -> Self:
        """Read the buckets off a path."""
        found = _PATH.fullmatch(path)
        assert found, path
        return cls(path, int(found[1], 16), int(found[2], 16))

    @property
    def age(self) -> str:
        """Sorts by the time of writing: the first one's scores count."""
        return self.path.partition("/")[2]


class ScoreStore:
    """The scores of one teacher.

    Args:
        storage: Of the workspace.
        label: What a person recognises the teacher by.
        fp: Fingerprint of everything that its scores depend on.
    """

    def __init__(self, storage: Storage, label: str, fp: str) -> None:
        self.storage = storage
        self.key = f"scores/{label}-{fp}"

    def describe(self, identity: Mapping[str, object]) -> None:
        """Say beside the scores whose they are, for people."""
        content = json.dumps(identity, indent=1, sort_keys=True).encode()
        self.storage.create(f"{self.key}/teacher.json", content)

    def deltas(self) -> list[Delta]:
        """Return all deltas, first written first."""
        paths = [key.removeprefix(f"{self.key}/") for key in self.storage.list(self.key)]
        return sorted((Delta.at(path) for path in paths if _PATH.fullmatch(path)), key=lambda each: each.age)

    def read(self, delta: Delta) -> tuple[np.ndarray, np.ndarray]:
        """Return pair keys, ``S32`` [N] ascending, and scores, float32 [N].

        Raises:
            UserError: The file is gone, or has other bytes than were written.
        """
        where, fix = self.storage.locate(f"{self.key}/{delta.path}"), "run again"
        try:
            content = self.storage.read(f"{self.key}/{delta.path}")
        except MissingObject as error:
            raise UserError("a file of the score store is gone", where=where, fix=fix) from error
        if hashlib.sha256(content).hexdigest()[:32] != delta.path[-40:-8]:
            raise UserError(
                "a file of the score store is damaged",
                where=where,
                got=f"{len(content)} bytes of another sha256",
                expected="the digest in its name",
                fix="delete this file and run again: its pairs are scored again",
            )
        table = pq.read_table(pa.BufferReader(content))
        return from_arrow(table.column("pair")), table.column("score").to_numpy()

    def look_up(self, pair_N: np.ndarray, deltas: Sequence[Delta]) -> tuple[np.ndarray, np.ndarray]:
        """Find the scores of pairs, one delta in memory at a time.

        Args:
            pair_N: Keys, ``S32``, unique and ascending.
            deltas: Which to look in; of several scores that of the delta written first counts.

        Returns:
            Scores, float32 [N], NaN where there is none; and the delta it came from as a position in ``deltas``,
            int64 [N], -1 where there is none.
        """
        score_N, origin_N = np.full(len(pair_N), np.nan, np.float32), np.full(len(pair_N), -1, np.int64)
        if not len(pair_N):
            return score_N, origin_N
        first, last = buckets(pair_N[[0, -1]]).tolist()
        for number in sorted(range(len(deltas)), key=lambda each: deltas[each].age):
            if deltas[number].last < first or deltas[number].first > last:
                continue
            held_M, scores_M = self.read(deltas[number])
            at_N = find(held_M, pair_N)
            new_N = (at_N >= 0) & (origin_N < 0)
            score_N[new_N], origin_N[new_N] = scores_M[at_N[new_N]], number
        return score_N, origin_N

    def write(self, pair_N: np.ndarray, score_N: np.ndarray) -> Delta:
        """Add scores in one step.

        Args:
            pair_N: Keys, ``S32``, unique and ascending, at least one.
            score_N: float32, all finite.
        """
        assert len(pair_N) and np.isfinite(score_N).all()
        assert (pair_N[:-1] < pair_N[1:]).all()
        table = pa.table({"pair": to_arrow(pair_N), "score": score_N.astype(np.float32)})
        sink = pa.BufferOutputStream()
        # Hashes and scores repeat nothing that a dictionary could save.
        pq.write_table(schemas.conform(table, DELTA), sink, compression="zstd", use_dictionary=False)
        content = sink.getvalue().to_pybytes()
        first, last = buckets(pair_N[[0, -1]]).tolist()
        digest = hashlib.sha256(content).hexdigest()[:32]
        name = f"{time.time_ns() // 1_000_000:011x}-{digest}.parquet"
        delta = Delta.at(f"{first:03x}-{last:03x}/{name}")
        self.storage.write(f"{self.key}/{delta.path}", content)
        return delta
