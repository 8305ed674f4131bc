"""The groups of one data set as a plan needs them: canonical ordinals, tokens, known positives."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.artifacts import Artifact
from models.prompts import Kind
from pipelines.answers import allowed_answers
from pipelines.train.clusters import cluster_queries
from pipelines.train.config import TrainConfig
from pipelines.train.cross_encoder import LocatedTrained
from pipelines.train.guide import guided
from pipelines.train.plan import Group, Scores
from pipelines.train.sources import OpenSource
from pipelines.train.tokens import Seen, TokenStore, tokenize_unique


@dataclass(frozen=True)
class MinedSet:
    """What a data set brings to a plan; all ordinals are canonical and global.

    Args:
        groups: As they were mined, repeats apart.
        known: (query, document) pairs of known positives.
        queries: Tokens of the queries that no data set before it has.
        documents: The same of documents.
        teachers: Names of the teachers of the scores.
        counters: What was left out, by reason.
    """

    groups: list[Group]
    known: list[tuple[int, int]]
    queries: TokenStore
    documents: TokenStore
    teachers: list[str]
    counters: dict[str, int]


@dataclass(frozen=True)
class Texts:
    """The texts of one kind of a data set.

    Args:
        of: Ordinal of the data set's own -> canonical, global ordinal.
        store: Tokens of those that no data set before it has.
    """

    of: dict[int, int]
    store: TokenStore


def read_mined(
    source: OpenSource,
    firsts: Mapping[Kind, int],
    seen: Mapping[Kind, Seen],
    model: LocatedTrained,
    config: TrainConfig,
) -> MinedSet:
    """Read a data set's groups and labels, and tokenise the texts that no data set before it has.

    Args:
        source: The data set.
        firsts: What its ordinals are raised by.
        seen: Texts of the data sets before it; takes those of this one.
        model: Whose tokenizer is used.
        config: Of the training.
    """
    data = source.data
    table = source.groups.read("groups", ["query", "task", "positives", "negatives"])
    used = table.column("query").to_numpy()
    tasks, positives, negatives = (
        table.column(name).to_pylist() for name in ("task", "positives", "negatives")
    )
    own, mined = ([[item["doc"] for item in row] for row in rows] for rows in (positives, negatives))
    labels = _labels(data, used, mined)
    answered, counters = allowed_answers(data, used, negatives, config.max_answers)
    if source.drafted:
        answered, generated = with_drafts(mined, answered, source.drafted)
        counters |= generated

    model = model if source.prompts is None else replace(model, prompts=source.prompts)
    answers = (query for row in answered for some in row for query in some)
    queries = _tokens("query", np.unique([*used.tolist(), *answers]), source, firsts, seen, model)
    wanted = np.unique(np.fromiter(chain((doc for _, doc in labels), *own, *mined), np.int64))
    documents = _tokens("document", wanted, source, firsts, seen, model)

    distinct = [without_copies(row, documents.of) for row in mined]
    counters["negatives_of_equal_text"] = sum(map(len, mined)) - sum(map(len, distinct))
    clusters = _clusters(source, used, config)
    groups = [
        Group(
            query=queries.of[query],
            positives=tuple(documents.of[document] for document in own[row]),
            negatives=tuple(distinct[row]),
            scores=_scores(documents.of, [*positives[row], *negatives[row]]),
            answers=_answers(documents.of, queries.of, query, mined[row], answered[row]),
            dataset=source.name,
            task=tasks[row],
            cluster=clusters[query],
        )
        for row, query in enumerate(used.tolist())
    ]
    pairs = chain(
        ((query, doc) for query, row in zip(used.tolist(), own, strict=True) for doc in row), labels
    )
    return MinedSet(
        groups,
        [(queries.of[query], documents.of[document]) for query, document in pairs],
        queries.store,
        documents.store,
        teacher_names(source.groups),
        counters,
    )


def _tokens(
    kind: Kind,
    ordinals: np.ndarray,
    source: OpenSource,
    firsts: Mapping[Kind, int],
    seen: Mapping[Kind, Seen],
    model: LocatedTrained,
) -> Texts:
    store, canonical = tokenize_unique(
        source.data, kind, ordinals, model.tokenizer(), seen[kind], firsts[kind]
    )
    if source.guide is not None and len(store.ordinals):
        store = guided(store, source.guide, source.data, kind)
    of = dict(zip(ordinals.tolist(), canonical.tolist(), strict=True))
    return Texts(of, replace(store, ordinals=store.ordinals + firsts[kind]))


def _clusters(source: OpenSource, used: np.ndarray, config: TrainConfig) -> dict[int, int]:
    queries = np.unique(used)
    clusters = np.zeros(len(queries), np.int64)
    if config.batches.clusters is not None and source.clusters is not None:
        clusters = cluster_queries(source.clusters, source.data, queries, config.batches.clusters)
    return dict(zip(queries.tolist(), clusters.tolist(), strict=True))


def without_copies(documents: Sequence[int], of_document: Mapping[int, int]) -> list[int]:
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


def with_drafts(
    documents: list[list[int]], answered: list[list[list[int]]], drafted: Mapping[int, int]
) -> tuple[list[list[list[int]]], dict[str, int]]:
    """Return of each negative the queries that it answers: the generated one where there is no real one."""
    filled = [
        [
            queries or ([drafted[document]] if document in drafted else [])
            for document, queries in zip(row, some, strict=True)
        ]
        for row, some in zip(documents, answered, strict=True)
    ]
    count = sum(map(bool, chain.from_iterable(filled))) - sum(map(bool, chain.from_iterable(answered)))
    return filled, {"negatives_with_generated_query": count}


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


def _labels(data: Artifact, queries: np.ndarray, negatives: list[list[int]]) -> list[tuple[int, int]]:
    """Return the labelled (query, document) pairs of ``queries``, whatever their split.

    Labelled pairs among the ``negatives`` were judged to be of too low a relevance.
    """
    low = {(query, doc) for query, row in zip(queries.tolist(), negatives, strict=True) for doc in row}
    qrels = data.read("qrels", ["query", "doc", "relevance"])
    qrels = qrels.filter(pc.greater(qrels.column("relevance"), 0))
    qrels = qrels.filter(pc.is_in(qrels.column("query"), value_set=pa.array(queries)))
    pairs = zip(qrels.column("query").to_pylist(), qrels.column("doc").to_pylist(), strict=True)
    return [pair for pair in pairs if pair not in low]
