"""From mined groups to the artifact of a plan: tokenise every text once, order the batches, write both."""

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.artifacts import Artifact, ArtifactWriter
from pipelines import schemas
from pipelines.model import LocatedModel
from pipelines.train.checks import teacher_scores
from pipelines.train.config import PLANNED, TrainConfig
from pipelines.train.guide import guided
from pipelines.train.plan import Row, Scores, make_groups, plan_order
from pipelines.train.tokens import tokenize_unique


def write_plan(
    writer: ArtifactWriter,
    data: Artifact,
    groups: Artifact,
    model: LocatedModel,
    config: TrainConfig,
    guide: Artifact | None = None,
) -> tuple[dict[str, object], dict[str, int]]:
    """Write the table `order` and the files `queries/*.npy` and `documents/*.npy`.

    Args:
        writer: Takes them.
        data: Ingest artifact.
        groups: Of the stage select.
        model: Whose tokenizer is used.
        config: Of the training.
        guide: Embeddings of the teacher that guides a loss, if one does.

    Returns:
        Summary and counters for the manifest.
    """
    table = groups.read("groups", ["query", "positives", "negatives"])
    used = table.column("query").to_numpy()
    positives, negatives = (table.column(column).to_pylist() for column in ("positives", "negatives"))
    own, mined = ([[item["doc"] for item in row] for row in rows] for rows in (positives, negatives))
    labels = _labels(data, used)
    answered, dropped = allowed_answers(data, used, negatives, config.max_answers)
    queries = np.unique([*used.tolist(), *(query for row in answered for some in row for query in some)])
    documents = np.unique(np.fromiter(chain((doc for _, doc in labels), *own, *mined), np.int64))
    tokenizer = model.tokenizer()
    query_tokens, query_of = tokenize_unique(data, "query", queries, tokenizer)
    document_tokens, document_of = tokenize_unique(data, "document", documents, tokenizer)
    if guide is not None:
        query_tokens = guided(query_tokens, guide, data, "query")
        document_tokens = guided(document_tokens, guide, data, "document")

    of_query = dict(zip(queries.tolist(), query_of.tolist(), strict=True))
    of_document = dict(zip(documents.tolist(), document_of.tolist(), strict=True))
    known = _known_positives(chain(_pairs(used, own), labels), of_query, of_document)
    distinct = [without_copies(row, of_document) for row in mined]
    cleaned, counters = make_groups(
        [of_query[query] for query in used.tolist()],
        [[of_document[document] for document in row] for row in own],
        distinct,
        known,
        [_scores(of_document, [*kept, *other]) for kept, other in zip(positives, negatives, strict=True)],
        [_answers(of_document, of_query, *row) for row in zip(used.tolist(), mined, answered, strict=True)],
    )
    counters |= dropped
    counters["negatives_of_equal_text"] = sum(map(len, mined)) - sum(map(len, distinct))
    batches = plan_order(cleaned, known, **config.model_dump(include=PLANNED))
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
        "teachers": teacher_names(groups),
        "teacher_scores": teacher_scores(rows),
        "negatives_repeated": sum(len(row.negatives) - len(set(row.negatives)) for row in rows),
        "negatives_that_answer": sum(bool(queries) for row in rows for queries in row.answers),
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
        "scores": [[list(scores) for scores in row.scores] for _, row in rows],
        # A row that was made without answers has none for each negative.
        "answers": [[list(each) for each in row.answers or [()] * len(row.negatives)] for _, row in rows],
    }
    return pa.table(columns, schema=schemas.PLAN_ORDER)


def _pairs(queries: np.ndarray, documents: list[list[int]]) -> Iterator[tuple[int, int]]:
    for query, row in zip(queries.tolist(), documents, strict=True):
        yield from ((query, document) for document in row)


def _known_positives(
    pairs: Iterable[tuple[int, int]], of_query: Mapping[int, int], of_document: Mapping[int, int]
) -> dict[int, frozenset[int]]:
    known: dict[int, set[int]] = {query: set() for query in of_query.values()}
    for query, document in pairs:
        known[of_query[query]].add(of_document[document])
    return {query: frozenset(positives) for query, positives in known.items()}


def without_copies(documents: list[int], of_document: Mapping[int, int]) -> list[int]:
    """Return the canonical documents of a group without those that have the text of another one before them.

    A document that was chosen several times stays as often: it is to weigh more.
    """
    first: dict[int, int] = {}
    return [
        of_document[document]
        for document in documents
        if first.setdefault(of_document[document], document) == document
    ]


def teacher_names(groups: Artifact) -> list[str]:
    """Return the teachers' names in the order of their scores, as the groups' manifest has them."""
    names = groups.manifest.summary.get("teachers", [])
    assert isinstance(names, list)
    return [str(name) for name in names]


def allowed_answers(
    data: Artifact, used: np.ndarray, negatives: list[list[dict[str, Any]]], most: int
) -> tuple[list[list[list[int]]], dict[str, int]]:
    """Return of each negative the queries it answers, at most ``most``, and what was left out.

    Only queries of the splits that the groups are made of: training must not see those of another.
    """
    if not most:
        return [[[] for _ in row] for row in negatives], {}
    qrels = data.read("qrels", ["query", "split"])
    splits = pc.unique(qrels.filter(pc.is_in(qrels.column("query"), value_set=pa.array(used)))["split"])
    allowed = set(qrels.filter(pc.is_in(qrels.column("split"), value_set=splits))["query"].to_pylist())
    kept: list[list[list[int]]] = []
    counters = {"answers_of_another_split": 0, "answers_beyond_max_answers": 0}
    for row in negatives:
        found = [[query for query in item["answers"] if query in allowed] for item in row]
        counters["answers_of_another_split"] += sum(
            len(item["answers"]) - len(some) for item, some in zip(row, found, strict=True)
        )
        counters["answers_beyond_max_answers"] += sum(max(0, len(some) - most) for some in found)
        kept.append([sorted(some)[:most] for some in found])
    return kept, counters


def _scores(of_document: Mapping[int, int], items: list[dict[str, Any]]) -> dict[int, Scores]:
    scores: dict[int, Scores] = {}
    for item in items:
        scores.setdefault(of_document[item["doc"]], tuple(item["scores"]))
    return scores


def _answers(
    of_document: Mapping[int, int],
    of_query: Mapping[int, int],
    query: int,
    documents: list[int],
    answered: list[list[int]],
) -> dict[int, tuple[int, ...]]:
    answers: dict[int, tuple[int, ...]] = {}
    for document, queries in zip(documents, answered, strict=True):
        others = dict.fromkeys(of_query[each] for each in queries)
        others.pop(of_query[query], None)
        answers.setdefault(of_document[document], tuple(others))
    return answers


def _labels(data: Artifact, queries: np.ndarray) -> list[tuple[int, int]]:
    """Return the labelled (query, document) pairs of ``queries``, whatever their split."""
    qrels = data.read("qrels", ["query", "doc", "relevance"])
    qrels = qrels.filter(pc.greater(qrels.column("relevance"), 0))
    qrels = qrels.filter(pc.is_in(qrels.column("query"), value_set=pa.array(queries)))
    return list(zip(qrels.column("query").to_pylist(), qrels.column("doc").to_pylist(), strict=True))
