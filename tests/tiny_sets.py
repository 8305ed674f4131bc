"""Small data sets for plans of several: ingest and select in one call."""

import numpy as np
import pyarrow as pa

from pipelines import schemas
from pipelines.steps import Step
from tests.tiny_training import WORDS

SIZE = 24
"""Queries of a set; it has twice as many documents, and document n answers query n."""


def text(seed, words):
    return " ".join(np.random.default_rng(seed).choice(WORDS, words, replace=False))


def set_step(name, first, documents=None, queries=None, task="retrieval", relevance=1.0):
    """Return ingest and select of a small set; `documents` and `queries` replace some of its texts."""
    texts = {n: text(first + n, 12) for n in range(2 * SIZE)} | (documents or {})
    asked = {n: text(first + 500 + n, 4) for n in range(SIZE)} | (queries or {})

    def write_data(work):
        for table, ordinal, rows, extra in (
            ("documents", "doc", texts, {"title": [None] * len(texts)}),
            ("queries", "query", asked, {"task": [task] * SIZE}),
        ):
            columns = {
                ordinal: list(rows), f"{ordinal}_id": [f"{name}-{n}" for n in rows], "text": list(rows.values()),
                "dataset": [name] * len(rows), "language": [None] * len(rows), **extra,
            }  # fmt: skip
            schema = schemas.DOCUMENTS if table == "documents" else schemas.QUERIES
            work.writer.write_shard(table, 0, pa.table(columns, schema=schema))
        low = [(n, SIZE + n, relevance - 1) for n in range(SIZE)] if relevance > 1 else []
        pairs = sorted([(n, n, relevance) for n in range(SIZE)] + low)
        columns = {
            "query": [q for q, _, _ in pairs], "doc": [d for _, d, _ in pairs],
            "relevance": [r for _, _, r in pairs], "split": ["train"] * len(pairs),
        }  # fmt: skip
        work.writer.write_shard("qrels", 0, pa.table(columns, schema=schemas.QRELS))
        return work.commit({"documents": 1, "queries": 1, "qrels": 1})

    def write_groups(work):
        rows = [
            {
                "query": n,
                "task": task,
                "dataset": name,
                "positives": [{"doc": n, "scores": [1.0]}],
                "negatives": [
                    {
                        "doc": SIZE + (n + k) % SIZE,
                        "scores": [0.1 * k],
                        "teacher": 0,
                        "rank": k,
                        "answers": [],
                    }
                    for k in range(3)
                ],
            }
            for n in range(SIZE)
        ]
        work.writer.write_shard("groups", 0, pa.Table.from_pylist(rows, schema=schemas.GROUPS))
        return work.commit({"groups": 1}, {"teachers": [f"{name}_teacher"]})

    identity = {
        "first": first,
        "documents": str(documents),
        "queries": str(queries),
        "task": task,
        "relevance": relevance,
    }
    data = Step("ingest", name, 1, identity, (), {}, write_data)
    return data, Step("select", name, 1, {}, (), {"data": data}, write_groups)
