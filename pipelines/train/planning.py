"""From mined groups to the artifact of a plan: tokenise every text once, order the batches, write both."""

import tempfile
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.artifacts import Artifact, ArtifactWriter
from pipelines import schemas
from pipelines.model import LocatedModel
from pipelines.train.config import PLANNED, TrainConfig
from pipelines.train.plan import Row, make_groups, plan_order
from pipelines.train.tokens import tokenize_unique


def write_plan(
    writer: ArtifactWriter, data: Artifact, groups: Artifact, model: LocatedModel, config: TrainConfig
) -> tuple[dict[str, object], dict[str, int]]:
    """Write the table `order` and the files `queries/*.npy` and `documents/*.npy`.

    Returns:
        Summary and counters for the manifest.
    """
    table = groups.read("groups", ["query", "positives", "negatives"])
    used = table.column("query").to_numpy()
    own, mined = (_documents(table, column) for column in ("positives", "negatives"))
    labels = _labels(data, used)
    queries = np.unique(used)
    documents = np.unique(np.fromiter(chain((doc for _, doc in labels), *own, *mined), np.int64))
    tokenizer = model.tokenizer()
    query_tokens, query_of = tokenize_unique(data, "query", queries, tokenizer)
    document_tokens, document_of = tokenize_unique(data, "document", documents, tokenizer)

    canonical_query = dict(zip(queries.tolist(), query_of.tolist(), strict=True))
    canonical = dict(zip(documents.tolist(), document_of.tolist(), strict=True))
    known: dict[int, set[int]] = {canonical_query[query]: set() for query in used.tolist()}
    for query, positives in chain(
        zip(used.tolist(), own, strict=True), ((query, [doc]) for query, doc in labels)
    ):
        known[canonical_query[query]].update(canonical[document] for document in positives)
    frozen = {query: frozenset(positives) for query, positives in known.items()}
    cleaned, counters = make_groups(
        [canonical_query[query] for query in used.tolist()],
        [[canonical[document] for document in row] for row in own],
        [[canonical[document] for document in row] for row in mined],
        frozen,
    )
    batches = plan_order(cleaned, frozen, **config.model_dump(include=PLANNED))
    writer.write_shard("order", 0, order_table(batches))
    with tempfile.TemporaryDirectory(prefix="stope-plan-") as directory:
        for name, store in (("queries", query_tokens), ("documents", document_tokens)):
            store.save(Path(directory) / name)
            writer.put_directory(name, Path(directory) / name)
    rows = [row for batch in batches for row in batch]
    counters["negatives_missing"] = sum(config.num_negatives - len(row.negatives) for row in rows)
    counters["known_positives_masked"] = sum(len(row.masked) for row in rows)
    summary: dict[str, object] = {
        "steps": len(batches),
        "rows": len(rows),
        "mean_query_tokens": round(float(query_tokens.tokens.lengths.mean()), 1),
        "mean_document_tokens": round(float(document_tokens.tokens.lengths.mean()), 1),
    }
    return summary, counters


def order_table(batches: list[list[Row]]) -> pa.Table:
    """Return the batches as a table of schema PLAN_ORDER, sorted by step."""
    rows = [(step, row) for step, batch in enumerate(batches) for row in batch]
    columns = {
        "step": [step for step, _ in rows],
        "query": [row.query for _, row in rows],
        "positive": [row.positive for _, row in rows],
        "negatives": [list(row.negatives) for _, row in rows],
        "masked": [list(row.masked) for _, row in rows],
    }
    return pa.table(columns, schema=schemas.PLAN_ORDER)


def _documents(groups: pa.Table, column: str) -> list[list[int]]:
    return [[item["doc"] for item in row] for row in groups.column(column).to_pylist()]


def _labels(data: Artifact, queries: np.ndarray) -> list[tuple[int, int]]:
    """Return the labelled (query, document) pairs of ``queries``, whatever their split."""
    qrels = data.read("qrels", ["query", "doc", "relevance"])
    qrels = qrels.filter(pc.greater(qrels.column("relevance"), 0))
    qrels = qrels.filter(pc.is_in(qrels.column("query"), value_set=pa.array(queries)))
    return list(zip(qrels.column("query").to_pylist(), qrels.column("doc").to_pylist(), strict=True))
