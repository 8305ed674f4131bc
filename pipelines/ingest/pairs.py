"""Pairs of texts as a collection: equal texts joined, ids made of them, splits drawn where none are given."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import numpy as np

from pipelines.ingest.config import PairColumns, PairsConfig, SplitRatios, Task
from pipelines.ingest.readers import existing, read_records, require_columns
from pipelines.ingest.rows import BadRow, Collection, Document, Judgment, Query
from pipelines.ingest.split import split_queries
from pipelines.ingest.validate import (
    SPLIT_NAMES,
    RowError,
    bad_row,
    content,
    optional_content,
    relevance,
)


@dataclass(frozen=True)
class Pair:
    """A query and a document that answers it; ``split`` is empty where it is still to be drawn."""

    row: int
    query: str
    document: str
    title: str | None = None
    relevance: float = 1.0
    split: str = ""
    name: str = ""


@dataclass
class JoinedPairs:
    """Pairs with equal texts joined, whatever their white space."""

    queries: dict[str, Query] = field(default_factory=dict)
    documents: dict[str, Document] = field(default_factory=dict)
    judgments: list[Judgment] = field(default_factory=list)


def join_pairs(pairs: Iterable[Pair | BadRow], source: str) -> tuple[JoinedPairs, list[BadRow]]:
    """Join equal texts: a query then has several positives, a document several queries.

    Args:
        pairs: The pairs; a pair's ``name`` becomes the ids of its texts, else they are digests of the texts.
        source: Name of the file in the quarantine table.

    Returns:
        The joined texts and the rows set aside.
    """
    joined, bad = JoinedPairs(), []
    for pair in pairs:
        if isinstance(pair, BadRow):
            bad.append(pair)
            continue
        query_key = folded(pair.query)
        document_key = f"{folded(pair.title or '')}\n{folded(pair.document)}"
        if query_key not in joined.queries:
            # Never a document's id: evaluations drop a document that bears the id of the query.
            query_id = f"query:{pair.name}" if pair.name else f"q-{_digest(query_key)}"
            joined.queries[query_key] = Query(source, pair.row, query_id, pair.query)
        if document_key not in joined.documents:
            doc_id = pair.name or f"d-{_digest(document_key)}"
            joined.documents[document_key] = Document(source, pair.row, doc_id, pair.title, pair.document)
        joined.judgments.append(
            Judgment(
                source,
                pair.row,
                joined.queries[query_key].query_id,
                joined.documents[document_key].doc_id,
                pair.relevance,
                pair.split,
            )
        )
    return joined, bad


def folded(text: str) -> str:
    """Return ``text`` with every run of white space as one space."""
    return " ".join(text.split())


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:16]


def draw_splits(
    joined: JoinedPairs, ratios: SplitRatios, jaccard: float, seed: int
) -> tuple[list[Judgment], dict[str, object]]:
    """Return the judgments with their splits drawn, and what was found on the way."""
    queries, documents = list(joined.queries.values()), list(joined.documents.values())
    query_of = {query.query_id: number for number, query in enumerate(queries)}
    doc_of = {document.doc_id: number for number, document in enumerate(documents)}
    edges = np.array(
        [(query_of[row.query_id], doc_of[row.doc_id]) for row in joined.judgments], dtype=np.int64
    ).reshape(-1, 2)
    splits = split_queries(
        [query.text for query in queries],
        [document.text for document in documents],
        edges,
        ratios,
        jaccard,
        seed,
    )
    judgments = [row._replace(split=splits.of_query[query_of[row.query_id]]) for row in joined.judgments]
    facts: dict[str, object] = {
        "near_duplicate_pairs": splits.num_near_duplicates,
        "components": len(splits.component_sizes),
        "largest_components": splits.component_sizes[:5],
    }
    return judgments, facts


def pairs_file(config: PairsConfig) -> dict[str, Path]:
    """Return the file by role.

    Raises:
        UserError: It is missing or lacks a column.
    """
    path = existing(Path(config.path), "file of pairs")
    required = (config.columns.query, config.columns.document)
    require_columns(path, required, "name the file's own columns: data.columns.query, data.columns.document")
    return {"pairs": path}


def read_pairs(config: PairsConfig, path: Path) -> Collection:
    """Return the file as a collection; where no row has a split, all are drawn by ``splits``."""
    pairs = list(_pairs(path, config.columns, config.task))
    drawn = not any(isinstance(pair, Pair) and pair.split for pair in pairs)
    if not drawn:
        pairs = [_with_split(pair, path.name) for pair in pairs]
    joined, bad = join_pairs(pairs, path.name)
    judgments, facts = joined.judgments, dict[str, object]()
    if drawn and judgments:
        judgments, facts = draw_splits(joined, config.splits, config.near_duplicate_jaccard, config.seed)
    return Collection(
        documents=lambda: iter(joined.documents.values()),
        queries=lambda: iter(joined.queries.values()),
        judgments=lambda: iter(judgments),
        bad=tuple(bad),
        facts=facts,
    )


def _with_split(pair: Pair | BadRow, source: str) -> Pair | BadRow:
    if isinstance(pair, BadRow) or pair.split:
        return pair
    return BadRow(source, pair.row, "no split, unlike other rows", f"{pair.query}\t{pair.document}")


def _pairs(path: Path, columns: PairColumns, task: Task) -> Iterator[Pair | BadRow]:
    wanted = (columns.query, columns.document, columns.score, columns.split, columns.title)
    for record in read_records(path, path.name, wanted):
        if isinstance(record, BadRow):
            yield record
            continue
        try:
            split = optional_content(record, columns.split) or ""
            if split and split not in SPLIT_NAMES:
                raise RowError("unknown split")
            yield Pair(
                row=record.row,
                query=content(record, columns.query),
                document=content(record, columns.document),
                title=optional_content(record, columns.title),
                relevance=relevance(record, columns.score, task, default=1.0),
                split=SPLIT_NAMES.get(split, ""),
            )
        except RowError as error:
            yield bad_row(path.name, record, error)
