"""Search in a release: its index, and its documents by the position of their embeddings in the index."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cluster.errors import UserError
from models.release import ReleaseManifest
from models.search.index import read_codes, read_index
from models.search.rescored import RescoredDocuments
from serve.protocol import SearchResult

DOCUMENTS_FILE = "documents.parquet"
COLUMNS = ["doc_id", "title", "text"]
CHUNKS_COLUMN = "chunks"

TopK = Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]
"""Query embeddings and k -> scores and documents, [Q, K] each."""


class DocumentTable:
    """What answers show of the documents; the rows of the index stand in their order.

    Args:
        path: Parquet with the columns doc_id, title and text, and `chunks` where a document has several rows of
            the index: how many.
        num_rows: Rows of the index.

    Raises:
        UserError: No such table, or it does not belong to an index of so many rows.
    """

    def __init__(self, path: Path, num_rows: int) -> None:
        try:
            is_chunked = CHUNKS_COLUMN in pq.read_schema(path).names
            columns = [*COLUMNS, CHUNKS_COLUMN] if is_chunked else COLUMNS
            table: pa.Table = pq.read_table(path, columns=columns).combine_chunks()
        except (OSError, pa.ArrowException) as error:
            raise UserError(
                "no usable documents table", str(path), got=str(error).splitlines()[0],
                expected=f"Parquet with the columns {', '.join(COLUMNS)}", fix="create the release again",
            ) from error  # fmt: skip
        self._table = table.select(COLUMNS)
        self.row_docs: np.ndarray | None = None
        """int64: the document of each row of the index; None where document i is row i."""
        if is_chunked:
            self.row_docs = np.repeat(np.arange(len(self)), table.column(CHUNKS_COLUMN).to_numpy())
        expected_rows = len(self) if self.row_docs is None else len(self.row_docs)
        if expected_rows != num_rows:
            raise UserError(
                "documents and index differ in length", str(path), got=f"{expected_rows} rows of documents",
                expected=str(num_rows), fix="create the release again",
            )  # fmt: skip

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def results(self, docs_K: np.ndarray, scores_K: np.ndarray) -> list[SearchResult]:
        """Return the documents of one query, best first.

        Args:
            docs_K: int64, position of each document; -1 where fewer than K were found.
            scores_K: float32.
        """
        found = docs_K >= 0
        taken = self._table.take(pa.array(docs_K[found])).to_pylist()
        return [
            SearchResult(
                doc_id=row["doc_id"], score=float(score), title=row["title"] or None, text=row["text"]
            )
            for row, score in zip(taken, scores_K[found], strict=True)
        ]


class Retrieval:
    """What a release finds: index and documents, in memory but for what the manifest says is mapped.

    Args:
        manifest: Of a release that has an index.
        directory: Of the release.
        device: Where an exact index is searched; codes are searched by processors.

    Raises:
        ModelError: The index is not the one that the manifest describes.
        UserError: The documents are not those of the index.
    """

    def __init__(self, manifest: ReleaseManifest, directory: Path, device: str) -> None:
        assert manifest.index is not None
        entry, path = manifest.index, directory / manifest.index.path
        rescore = entry.rescore
        if rescore is None:
            exact = read_index(path, device)
            self.documents = DocumentTable(directory / DOCUMENTS_FILE, len(exact))
            # Chunks of a document count as one: it is found once, by the best of them.
            exact = replace(exact, row_docs=self.documents.row_docs)
            self._top_k: TopK = partial(exact.top_k, backend="faiss" if device == "cpu" else "torch")
            return
        codes = read_codes(path, entry.kind, entry.dimension or manifest.dimension)
        self.documents = DocumentTable(directory / DOCUMENTS_FILE, len(codes))
        whole_ND = np.load(directory / rescore.embeddings.path, mmap_mode="r") if rescore.embeddings else None
        self._top_k = RescoredDocuments(
            codes, manifest.dimension, rescore.multiplier, whole_ND, self.documents.row_docs
        ).top_k

    def find(self, q_QD: np.ndarray, k: int) -> list[list[SearchResult]]:
        """Return the k best documents of every query, fewer where there are fewer, best first."""
        scores_QK, docs_QK = self._top_k(q_QD, min(k, max(1, len(self.documents))))
        return [
            self.documents.results(docs_K, scores_K)
            for docs_K, scores_K in zip(docs_QK, scores_QK, strict=True)
        ]
