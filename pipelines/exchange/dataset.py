"""A data set in BEIR's layout in the making: documents, queries, judgments and negatives, row by row.

Memory holds ids and digests, never texts.
"""

from collections.abc import Callable
from hashlib import blake2b, sha256
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.errors import UserError
from pipelines.exchange.rows import ParquetRows, Rejects
from pipelines.ingest.config import SPLITS
from pipelines.ingest.rows import BadRow

CORPUS = pa.schema([("_id", pa.string()), ("title", pa.string()), ("text", pa.string())])
QUERIES = pa.schema([("_id", pa.string()), ("text", pa.string())])
PAIRS = pa.schema([("query-id", pa.string()), ("corpus-id", pa.string()), ("score", pa.float32())])


def folded(text: str) -> str:
    """Return ``text`` with every run of white space as one space."""
    return " ".join(text.split())


def text_id(prefix: str, text: str) -> str:
    """Return an id made of a text alone: equal texts, but for white space, have equal ids on every machine."""
    return f"{prefix}-{sha256(folded(text).encode()).hexdigest()[:20]}"


def _pair(query_id: str, doc_id: str) -> bytes:
    return blake2b(f"{query_id}\n{doc_id}".encode(), digest_size=12).digest()


def _digest(text: str) -> bytes:
    return blake2b(text.encode(), digest_size=8).digest()


class DataSet:
    """A directory in BEIR's layout in the making.

    Args:
        folder: Where it is built.
        ratios: Shares of train, dev and test among queries that come without a split.
    """

    def __init__(self, folder: Path, ratios: tuple[float, float, float] = (1.0, 0.0, 0.0)) -> None:
        self.folder, self.ratios = folder, ratios
        self.rejects = Rejects(folder / "quarantine.parquet")
        self.corpus = ParquetRows(folder / "corpus.parquet", CORPUS)
        self.queries = ParquetRows(folder / "queries.parquet", QUERIES)
        self.qrels: dict[str, ParquetRows] = {
            split: ParquetRows(folder / "qrels" / f"{split}.parquet", PAIRS) for split in SPLITS
        }
        self.negatives = ParquetRows(folder / "negatives.parquet", PAIRS)
        self._found_negatives = ParquetRows(folder / ".negatives", PAIRS)
        self._documents: dict[str, bytes] = {}
        self._queries: dict[str, bytes] = {}
        self._positives: dict[str, set[bytes]] = {split: set() for split in SPLITS}
        self._negatives: set[bytes] = set()

    def document(
        self, origin: tuple[str, int], text: str, title: str | None = None, doc_id: str | None = None
    ) -> str | None:
        """Add a document unless it is there, and return its id; None where its id has another text already.

        Args:
            origin: File and line, for the quarantine.
            text: Not empty.
            title: None where it has none.
            doc_id: None makes one of title and text.
        """
        key = doc_id or text_id("d", f"{title or ''}\n{text}")
        digest = _digest(f"{title or ''}\n{text}") if doc_id else b""
        if not self._is_known(self._documents, key, digest, origin, text):
            self.corpus.add(key, title or "", text)
        return key if self._documents[key] == digest else None

    def query(self, origin: tuple[str, int], text: str, query_id: str | None = None) -> str | None:
        """Add a query unless it is there, and return its id; None where its id has another text already."""
        key = query_id or text_id("q", text)
        digest = _digest(text) if query_id else b""
        if not self._is_known(self._queries, key, digest, origin, text):
            self.queries.add(key, text)
        return key if self._queries[key] == digest else None

    def _is_known(
        self, known: dict[str, bytes], key: str, digest: bytes, origin: tuple[str, int], text: str
    ) -> bool:
        if key not in known:
            known[key] = digest
            return False
        if known[key] != digest:
            self.rejects.add(BadRow(*origin, "duplicate id, other text", f"{key}\t{text}"))
        return True

    def has_document(self, doc_id: str) -> bool:
        """Return whether a document has this id."""
        return doc_id in self._documents

    def has_query(self, query_id: str) -> bool:
        """Return whether a query has this id."""
        return query_id in self._queries

    def positive(self, query_id: str, doc_id: str, relevance: float, split: str | None) -> None:
        """Judge a document relevant; the first judgment of a pair in a split counts.

        Args:
            query_id: Of a query added before.
            doc_id: Of a document added before.
            relevance: Above zero.
            split: None draws it by a hash of the query's id.
        """
        split = split or self._drawn(query_id)
        pair = _pair(query_id, doc_id)
        if pair in self._positives[split]:
            self.rejects.merge("pair judged before")
            return
        self._positives[split].add(pair)
        self.qrels[split].add(query_id, doc_id, relevance)

    def _drawn(self, query_id: str) -> str:
        place = int.from_bytes(_digest(query_id), "little") / 2.0**64
        for split, share in zip(SPLITS, self.ratios, strict=True):
            if place < share:
                return split
            place -= share
        return SPLITS[max(index for index, share in enumerate(self.ratios) if share)]

    def negative(self, query_id: str, doc_id: str, score: float | None) -> None:
        """Note a hard negative, with its teacher's score where there is one; the first of a pair counts."""
        pair = _pair(query_id, doc_id)
        if pair in self._negatives:
            self.rejects.merge("negative seen before")
            return
        self._negatives.add(pair)
        self._found_negatives.add(query_id, doc_id, score)

    def close(self, advance: Callable[[int], None]) -> None:
        """Finish all files; negatives that are positives of the same query are left out.

        Args:
            advance: Told how many negatives were checked.

        Raises:
            UserError: There is no judgment.
        """
        for rows in (self.corpus, self.queries, *self.qrels.values(), self._found_negatives):
            rows.close()
        if self._found_negatives.num_rows:
            self._check_negatives(advance)
        self.rejects.close()
        if not any(rows.num_rows for rows in self.qrels.values()):
            reasons = ", ".join(f"{reason} ({count})" for reason, count in self.rejects.counts.most_common(3))
            raise UserError(
                "no usable judgment",
                got=reasons or "no row that judges a document relevant",
                expected="at least one query with a positive",
                fix="check --from and --column",
            )

    def _check_negatives(self, advance: Callable[[int], None]) -> None:
        path = self._found_negatives.path
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=65_536):
                for query_id, doc_id, score in zip(*(column.to_pylist() for column in batch), strict=True):
                    pair = _pair(query_id, doc_id)
                    if any(pair in positives for positives in self._positives.values()):
                        self.rejects.merge("negative that is a positive of the query")
                    else:
                        self.negatives.add(query_id, doc_id, score)
                advance(batch.num_rows)
        self.negatives.close()
        path.unlink()
