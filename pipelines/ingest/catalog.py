"""The first pass over a source: which rows are used, under which ordinals.

It holds 40 bytes a document, three times that while it sorts them, and no text.
"""

from array import array
from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cluster.errors import UserError
from pipelines.ingest.config import SPLITS, JudgedConfig
from pipelines.ingest.rows import Collection, Quarantine
from pipelines.ingest.seen import SeenIds
from pipelines.ingest.selection import Judgments, draw, drawn_order, keep_documents, keep_queries
from pipelines.ingest.validate import good_documents, good_judgments, good_queries


@dataclass(frozen=True)
class Catalog:
    """What the second pass writes.

    Args:
        doc_rows: Row numbers of the documents kept, ascending; ordinal i is the i-th of them.
        query_rows: The same for the queries.
        judgments: The judgments kept, by ordinal, sorted by split, query and document.
        quarantine: The rows that cannot be used.
        cut: What could be used but is left out, by reason.
    """

    doc_rows: NDArray[np.int64]
    query_rows: NDArray[np.int64]
    judgments: Judgments
    quarantine: Quarantine
    cut: dict[str, int]


def read_catalog(collection: Collection, config: JudgedConfig) -> Catalog:
    """Read and judge every row once, then choose what is used.

    Raises:
        UserError: Nothing is left of the documents, the queries or the judgments.
    """
    quarantine = Quarantine()
    quarantine.rows.extend(collection.bad)
    documents, doc_rows, doc_draws, first_document = SeenIds(), array("q"), array("Q"), ""
    for document in good_documents(collection.documents(), quarantine, documents):
        first_document = first_document or document.doc_id
        doc_rows.append(document.row)
        if config.limit is not None:
            doc_draws.append(draw(document.doc_id, config.seed))
    _refuse_empty(documents, "documents", config, quarantine)
    queries = SeenIds()
    asked = [
        (query.source, query.row, query.query_id)
        for query in good_queries(collection.queries(), quarantine, queries)
    ]
    _refuse_empty(queries, "queries", config, quarantine)

    examples = f"queries such as {asked[0][2]!r}, documents such as {first_document!r}"
    judged = _judgments(collection, (queries, documents), examples, config, quarantine)
    answered = np.zeros(len(queries), bool)
    answered[judged.query[judged.relevance > 0]] = True
    usable = judged.take(answered[judged.query])
    for number in np.flatnonzero(~answered):
        source, row, query_id = asked[number]
        quarantine.add(source, row, "no positive in any split", query_id)

    query_order = drawn_order((draw(query_id, config.seed) for _, _, query_id in asked), len(asked))
    # Where all documents are kept, no order is asked for.
    all_docs = np.arange(len(documents))
    doc_order = drawn_order(doc_draws, len(documents)) if doc_draws else all_docs
    fewer = keep_queries(usable, query_order, config.max_queries)
    chosen, kept_docs = keep_documents(fewer, query_order, doc_order, config.limit)
    if not len(chosen.query):
        raise UserError(
            "no query is left",
            where="data.limit and data.max_queries",
            got=f"limit {config.limit}, max_queries {config.max_queries}",
            expected="room for at least one query with all its positives",
            fix="raise them, or set them to null",
        )
    kept_queries = np.zeros(len(queries), bool)
    kept_queries[chosen.query] = True
    left_out = {
        "left out: judgments of queries without a positive": len(judged.query) - len(usable.query),
        "left out: queries beyond max_queries": len(np.unique(usable.query)) - len(np.unique(fewer.query)),
        "left out: queries beyond limit": len(np.unique(fewer.query)) - int(kept_queries.sum()),
        "left out: documents beyond limit": int((~kept_docs).sum()),
        "left out: judgments of those": len(usable.query) - len(chosen.query),
    }
    return Catalog(
        doc_rows=np.frombuffer(doc_rows, np.int64)[kept_docs],
        query_rows=np.array([row for _, row, _ in asked], np.int64)[kept_queries],
        judgments=_renumbered(chosen, kept_queries, kept_docs),
        quarantine=quarantine,
        cut={reason: count for reason, count in left_out.items() if count},
    )


def _judgments(
    collection: Collection,
    known: tuple[SeenIds, SeenIds],
    examples: str,
    config: JudgedConfig,
    quarantine: Quarantine,
) -> Judgments:
    before = len(quarantine.rows)
    rows = [
        (query, document, row.relevance, SPLITS.index(row.split))
        for row, query, document in good_judgments(collection.judgments(), *known, quarantine)
    ]
    if not rows:
        set_aside = quarantine.rows[before:]
        excerpt = f"; the first: {set_aside[0].excerpt!r}" if set_aside else ""
        raise UserError(
            "no usable judgment",
            where=f"data {config.name}",
            got=_reasons(quarantine, before) + excerpt,
            expected=f"{examples}, a relevance above 0",
            fix="check that the judgments belong to this corpus and these queries",
        )
    columns = tuple(zip(*rows, strict=True))
    return Judgments(
        np.array(columns[0], np.int64),
        np.array(columns[1], np.int64),
        np.array(columns[2], np.float32),
        np.array(columns[3], np.int8),
    )


def _refuse_empty(found: SeenIds, what: str, config: JudgedConfig, quarantine: Quarantine) -> None:
    if not found:
        raise UserError(
            f"no usable {what}",
            where=f"data {config.name}",
            got=_reasons(quarantine, 0),
            expected="at least one row with an id and a text",
            fix="mend the rows of the file, or name the right one",
        )


def _reasons(quarantine: Quarantine, start: int) -> str:
    counts = Counter(f"{bad.source}: {bad.reason}" for bad in quarantine.rows[start:])
    return ", ".join(f"{reason} ({count} rows)" for reason, count in counts.most_common(3)) or "an empty file"


def _renumbered(judgments: Judgments, queries: NDArray[np.bool_], documents: NDArray[np.bool_]) -> Judgments:
    """Return the judgments under the dense ordinals of what is kept, in a fixed order."""
    query = (np.cumsum(queries) - 1)[judgments.query]
    doc = (np.cumsum(documents) - 1)[judgments.doc]
    order = np.lexsort((doc, query, judgments.split))
    return Judgments(query[order], doc[order], judgments.relevance[order], judgments.split[order])
