"""Decisions to read: a query, its positives, and what the methods chose or passed over."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.artifacts import Artifact
from pipelines import schemas
from pipelines.report.sample import Findings, Sample, examine, read_texts
from pipelines.report.tables import EXAMPLES

EXCERPT = 480
MAX_POSITIVES = 3
MAX_REJECTED = 6
_MIX = np.uint64(0xBF58476D1CE4E5B9)
FLAG_TEXTS = {
    "listed": "listed as false negative",
    "answer_false": "holds an answer",
    "identical": "same text as a positive",
    "near_duplicate": "near-duplicate of a positive",
}


@dataclass(frozen=True)
class Decision:
    """One document of an example, ordinals only."""

    query: int
    doc: int
    role: str
    score: float | None
    rank: int | None
    methods: tuple[str, ...]


def pick_queries(
    sample: Sample, methods: tuple[str, ...], findings: Findings, listed_keys: np.ndarray, count: int
) -> list[int]:
    """Choose queries worth reading, of which no two share a positive.

    Queries about which the methods differ and of which a negative is likely false come first, then those about
    which they merely differ, then others; within a kind the order is that of a hash.

    Args:
        sample: What every method chose.
        methods: Names.
        findings: What the texts say.
        listed_keys: Pairs known to be false negatives.
        count: Queries at most.
    """
    key_U, num_docs = findings.key_U, sample.num_docs
    if not len(key_U) or not count:
        return []
    query_Q, row_U = np.unique(key_U // num_docs, return_inverse=True)
    chosen_UM = np.stack([np.isin(key_U, sample.negatives(name)) for name in methods], axis=1)
    false_U = np.isin(key_U, listed_keys) | findings.flags.get("answer_false", np.zeros(len(key_U), bool))
    differs_Q = np.bincount(row_U, ~chosen_UM.all(axis=1), len(query_Q)) > 0
    suspect_Q = np.bincount(row_U, false_U, len(query_Q)) > 0
    with np.errstate(over="ignore"):
        hash_Q = query_Q.astype(np.uint64) * _MIX
    order = np.lexsort((hash_Q, -(2 * (differs_Q & suspect_Q) + differs_Q).astype(int)))
    query_P, doc_P = np.divmod(sample.positives(), num_docs)
    picked: list[int] = []
    shown: set[int] = set()
    for query in query_Q[order].tolist():
        docs = doc_P[np.searchsorted(query_P, query) : np.searchsorted(query_P, query, side="right")].tolist()
        if not shown.intersection(docs):
            shown.update(docs)
            picked.append(query)
        if len(picked) == count:
            break
    return picked


def decisions(query: int, candidates: pa.Table, chosen: Mapping[str, set[int]]) -> list[Decision]:
    """Return what became of one query's documents, positives first, then by rank.

    Args:
        query: Its ordinal.
        candidates: Its rows of one teacher, schema CANDIDATES.
        chosen: Method -> the documents it chose.
    """
    rows = sorted(candidates.to_pylist(), key=lambda row: (row["rank"] or np.inf, row["doc"]))
    known = {row["doc"]: (row["score"], row["rank"] or None) for row in rows}
    positives = [row["doc"] for row in rows if row["is_positive"]][:MAX_POSITIVES]
    by_doc: dict[int, list[str]] = {}
    for name, docs in chosen.items():
        for doc in docs:
            by_doc.setdefault(doc, []).append(name)
    deepest = max((known[doc][1] or 0 for doc in by_doc if doc in known), default=0)
    passed_over = [
        row["doc"]
        for row in rows
        if not row["is_positive"] and row["doc"] not in by_doc and 0 < row["rank"] < deepest
    ][:MAX_REJECTED]
    found = [Decision(query, doc, "positive", *known[doc], ()) for doc in positives]
    others = [(doc, "rejected") for doc in passed_over] + [(doc, "negative") for doc in by_doc]
    others.sort(key=lambda other: (known.get(other[0], (0, None))[1] or np.inf, other[0]))
    for doc, role in others:
        score, rank = known.get(doc, (None, None))
        found.append(Decision(query, doc, role, score, rank, tuple(by_doc.get(doc, ()))))
    return found


def chosen_of(sample: Sample, methods: tuple[str, ...], queries: list[int]) -> dict[int, dict[str, set[int]]]:
    """Return query -> method -> the documents it chose."""
    found: dict[int, dict[str, set[int]]] = {query: {name: set() for name in methods} for query in queries}
    for name in methods:
        query_N, doc_N = np.divmod(sample.negatives(name), sample.num_docs)
        mine = np.isin(query_N, queries)
        for query, doc in zip(query_N[mine].tolist(), doc_N[mine].tolist(), strict=True):
            found[query][name].add(doc)
    return found


def examples_table(
    data: Artifact,
    made: list[Decision],
    positives: np.ndarray,
    listed_keys: np.ndarray,
    answers: Mapping[int, tuple[str, ...]] | None,
    min_jaccard: float,
) -> pa.Table:
    """Return the decisions with their texts, schema EXAMPLES.

    Args:
        data: Documents and queries.
        made: The decisions.
        positives: int64, ascending keys of the labelled pairs.
        listed_keys: Pairs known to be false negatives.
        answers: Query -> folded answer strings.
        min_jaccard: As for the measure `near_duplicate`.
    """
    num_docs = data.num_rows("documents")
    doc_D = np.unique(np.array([each.doc for each in made], np.int64))
    texts = dict(zip(doc_D.tolist(), read_texts(data, doc_D), strict=True))
    doc_ids = _lookup(data, "documents", "doc_id", doc_D)
    query_D = np.unique(np.array([each.query for each in made], np.int64))
    query_ids, query_texts = (_lookup(data, "queries", name, query_D) for name in ("query_id", "text"))
    keys = np.unique(
        np.array([each.query * num_docs + each.doc for each in made if each.role != "positive"], np.int64)
    )
    findings = examine(data, keys, positives, answers, min_jaccard)
    flags = {**findings.flags, "listed": np.isin(keys, listed_keys)}
    flags_of = {
        key: [text for name, text in FLAG_TEXTS.items() if name in flags and flags[name][place]]
        for place, key in enumerate(keys.tolist())
    }
    rows = [
        {
            "query": each.query,
            "query_id": query_ids[each.query],
            "query_text": query_texts[each.query],
            "doc": each.doc,
            "doc_id": doc_ids[each.doc],
            "text": _excerpt(texts[each.doc]),
            "role": each.role,
            "score": each.score,
            "rank": each.rank,
            "methods": list(each.methods),
            "flags": flags_of.get(each.query * num_docs + each.doc, []),
        }
        for each in made
    ]
    return schemas.conform(pa.Table.from_pylist(rows, schema=EXAMPLES), EXAMPLES)


def _excerpt(text: str) -> str:
    return text if len(text) <= EXCERPT else f"{text[:EXCERPT].rpartition(' ')[0] or text[:EXCERPT]} ..."


def _lookup(data: Artifact, table: str, column: str, ordinals: np.ndarray) -> dict[int, str]:
    starts = data.first_rows(table)
    shard = np.searchsorted(starts, ordinals, side="right") - 1
    found: dict[int, str] = {}
    for index in np.unique(shard).tolist():
        mine = ordinals[shard == index]
        values = data.read_shard(table, index, columns=[column]).column(column)
        taken = values.take(pa.array(mine - starts[index])).to_pylist()
        found.update(zip(mine.tolist(), taken, strict=True))
    return found


def candidates_of(teacher: Artifact, shard: int, queries: list[int]) -> dict[int, pa.Table]:
    """Return query -> its candidates, from one shard of a teacher."""
    table = teacher.read_shard("candidates", shard)
    mine = table.filter(pc.is_in(table.column("query"), pa.array(queries, pa.int64())))
    return {query: mine.filter(pc.equal(mine.column("query"), query)) for query in queries}
