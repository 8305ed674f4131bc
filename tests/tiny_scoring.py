"""A small collection with candidates to rerank: texts that repeat, an empty one, a huge one, ids with newlines."""

import numpy as np
import pyarrow as pa

from pipelines import schemas
from pipelines.steps import Step, Work
from tests.tiny_rerankers import WORDS

NUM_QUERIES, NUM_DOCUMENTS, DEPTH = 14, 40, 6


def texts(seed: int = 0) -> tuple[list[str], list[str]]:
    """Return queries and documents."""
    generator = np.random.default_rng(seed)
    queries = [" ".join(generator.choice(WORDS, 3)) for _ in range(NUM_QUERIES)]
    documents = [" ".join(generator.choice(WORDS, generator.integers(2, 20))) for _ in range(NUM_DOCUMENTS)]
    queries[4], queries[9] = "", queries[2]
    documents[7], documents[11], documents[30] = "", "w1 w2 " * 100_000, documents[3]
    return queries, documents


def data_step(
    name: str = "tiny", queries: list[str] | None = None, documents: list[str] | None = None
) -> Step:
    """Return a step that writes a collection in several shards; one document in three has a title."""
    made = texts()
    asked, answered = queries or made[0], documents or made[1]

    def write(work: Work):
        for index, docs in enumerate(np.array_split(np.arange(len(answered)), 3)):
            words = [answered[i].split(" ", 1) for i in docs]
            titled = [i % 3 == 0 and len(parts) == 2 for i, parts in zip(docs, words, strict=True)]
            columns = {
                "doc": docs,
                "doc_id": [f"d\n{i}" for i in docs],
                "title": [parts[0] if yes else None for yes, parts in zip(titled, words, strict=True)],
                "text": [
                    parts[1] if yes else answered[i]
                    for yes, i, parts in zip(titled, docs, words, strict=True)
                ],
                "dataset": ["tiny"] * len(docs),
                "language": [None] * len(docs),
            }
            work.writer.write_shard("documents", index, pa.table(columns, schema=schemas.DOCUMENTS))
        for index, numbers in enumerate(np.array_split(np.arange(len(asked)), 2)):
            columns = {
                "query": numbers,
                "query_id": [f"q\n{i}" for i in numbers],
                "text": [asked[i] for i in numbers],
                "dataset": ["tiny"] * len(numbers),
                "task": [""] * len(numbers),
                "language": [None] * len(numbers),
            }
            work.writer.write_shard("queries", index, pa.table(columns, schema=schemas.QUERIES))
        return work.commit({"documents": 3, "queries": 2})

    return Step("ingest", name, 1, {"queries": asked, "documents": [d[:99] for d in answered]}, (), {}, write)


def candidate_rows(seed: int = 0, num_documents: int = NUM_DOCUMENTS, depth: int = DEPTH) -> list[dict]:
    """Return rows of CANDIDATES: for each query ``depth`` of them; query 5 has none, and two positives each."""
    generator = np.random.default_rng(seed)
    rows = []
    for query in range(NUM_QUERIES):
        docs = generator.permutation(num_documents)[: depth + 1].tolist()
        if query == 5:
            continue
        positives = {docs[1], docs[depth]}
        rows += [
            {"query": query, "doc": doc, "rank": rank, "score": 1 / rank, "is_positive": doc in positives}
            for rank, doc in enumerate(docs[:depth], 1)
        ]
        rows.append({"query": query, "doc": docs[depth], "rank": 0, "score": 0.0, "is_positive": True})
    return rows


def over_step(data: Step, seed: int = 0) -> Step:
    """Return a step that writes those candidates in two shards, cut as the queries are."""

    def write(work: Work):
        rows, half = candidate_rows(seed), NUM_QUERIES // 2
        for index in range(2):
            mine = [row for row in rows if (row["query"] >= half) == bool(index)]
            work.writer.write_shard(
                "candidates", index, pa.Table.from_pylist(mine, schema=schemas.CANDIDATES)
            )
        return work.commit({"candidates": 2})

    return Step("search", "tiny", 1, {"seed": seed}, (), {"data": data}, write)


def naive_rerank(rows: list[dict], depth: int, score) -> list[tuple]:
    """Return (query, doc, rank, score, is_positive) as the table must hold them; ``score(query, doc)`` judges."""
    out = []
    for query in sorted({row["query"] for row in rows}):
        mine = [row for row in rows if row["query"] == query]
        told = [(score(query, row["doc"]), row) for row in mine if 0 < row["rank"] <= depth]
        told.sort(key=lambda each: (-each[0], each[1]["doc"]))
        out += [(query, row["doc"], rank, s, row["is_positive"]) for rank, (s, row) in enumerate(told, 1)]
        beyond = [row for row in mine if row["is_positive"] and not 0 < row["rank"] <= depth]
        out += [
            (query, r["doc"], 0, score(query, r["doc"]), True) for r in sorted(beyond, key=lambda r: r["doc"])
        ]
    return out
