"""The labelled pairs of an ingest artifact in batches, and which queries a split holds."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from cluster.artifacts import Artifact
from pipelines.exchange.lookup import Lookup
from pipelines.schemas import Split

BATCH_PAIRS = 65_536


@dataclass
class Judged:
    """The judgments of one split or of all, in the artifact's order: by split, query and document.

    Args:
        data: The ingest artifact.
        split: None for all.
    """

    data: Artifact
    split: Split | None = None

    def __post_init__(self) -> None:
        self.document_texts = Lookup(self.data, "documents", "text")
        self.query_texts = Lookup(self.data, "queries", "text")
        qrels = self.data.read("qrels")
        if self.split is not None:
            qrels = qrels.filter(pa.array(_in_split(qrels, self.split)))
        self.query_J = qrels.column("query").to_numpy()
        self.doc_J = qrels.column("doc").to_numpy()
        self.relevance_J = qrels.column("relevance").to_numpy()

    def batches(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Yield query and document ordinals and relevance of some judgments."""
        for start in range(0, len(self.query_J), BATCH_PAIRS):
            some = slice(start, start + BATCH_PAIRS)
            yield self.query_J[some], self.doc_J[some], self.relevance_J[some]

    def queries(self) -> np.ndarray:
        """Return bool [queries]: which have a judgment here."""
        found = np.zeros(self.data.num_rows("queries"), bool)
        found[self.query_J] = True
        return found


def _in_split(qrels: pa.Table, split: Split) -> np.ndarray:
    return np.asarray(qrels.column("split").to_numpy(zero_copy_only=False) == split, bool)
