"""The documents of a release, found by the position of their embeddings in the index."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cluster.errors import UserError
from serve.protocol import SearchResult

COLUMNS = ["doc_id", "title", "text"]


class DocumentTable:
    """What answers show of the documents; row i is row i of the index.

    Args:
        path: Parquet with the columns doc_id, title and text.
        num_documents: Rows of the index.

    Raises:
        UserError: No such table, or it has not as many rows as the index.
    """

    def __init__(self, path: Path, num_documents: int) -> None:
        try:
            self._table: pa.Table = pq.read_table(path, columns=COLUMNS).combine_chunks()
        except (OSError, pa.ArrowException) as error:
            raise UserError(
                "no usable documents table", str(path), got=str(error).splitlines()[0],
                expected=f"Parquet with the columns {', '.join(COLUMNS)}", fix="create the release again",
            ) from error  # fmt: skip
        if self._table.num_rows != num_documents:
            raise UserError(
                "documents and index differ in length", str(path), got=f"{self._table.num_rows} documents",
                expected=str(num_documents), fix="create the release again",
            )  # fmt: skip

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def results(self, rows_K: np.ndarray, scores_K: np.ndarray) -> list[SearchResult]:
        """Return the documents of one query, best first.

        Args:
            rows_K: int64 rows; -1 where fewer than K were found.
            scores_K: float32.
        """
        found = rows_K >= 0
        taken = self._table.take(pa.array(rows_K[found])).to_pylist()
        return [
            SearchResult(
                doc_id=row["doc_id"], score=float(score), title=row["title"] or None, text=row["text"]
            )
            for row, score in zip(taken, scores_K[found], strict=True)
        ]
