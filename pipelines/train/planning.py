"""From mined groups to the artifact of a plan: tokenise every text once, order the batches, write both."""

import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

import pyarrow as pa

from cluster.artifacts import ArtifactWriter
from models.prompts import Kind
from pipelines import schemas
from pipelines.located_model import LocatedModel
from pipelines.texts import TABLES, read_texts
from pipelines.train.alike import SHINGLE_WORDS, Alike, near_pairs, stand_ins
from pipelines.train.checks import teacher_scores
from pipelines.train.config import TrainConfig
from pipelines.train.cross_encoder import LocatedTrained
from pipelines.train.few_shot import show_examples
from pipelines.train.mined import MinedSet, read_mined
from pipelines.train.phases import Batch, plan_order
from pipelines.train.plan import Group, Scores, clean_groups
from pipelines.train.sources import OpenSource
from pipelines.train.stages import resolve_stages
from pipelines.train.tokens import Seen, join_stores

KINDS: tuple[Kind, Kind] = ("query", "document")


def write_plan(
    writer: ArtifactWriter, sources: Sequence[OpenSource], model: LocatedTrained, config: TrainConfig
) -> tuple[dict[str, object], dict[str, int]]:
    """Write the table `order` and the files `queries/*.npy` and `documents/*.npy`; with few-shot `shown_queries/*.npy`.

    Ordinals are those of the first data set; those of the next ones are raised by the rows before them.

    Args:
        writer: Takes them.
        sources: The data sets.
        model: Whose tokenizer is used.
        config: Of the training.

    Returns:
        Summary and counters for the manifest.

    Raises:
        ModelError: The tokenizer reads a prompt in a way that no other library would.
        UserError: No query can be shown an example.
    """
    for source in sources:
        replace(model, prompts=source.prompts or model.prompts).check_prompts()
    firsts = first_ordinals(sources)
    seen: dict[Kind, Seen] = {kind: Seen() for kind in KINDS}
    mined = [
        read_mined(source, first, seen, model, config) for source, first in zip(sources, firsts, strict=True)
    ]
    queries, documents = (
        join_stores([each.queries for each in mined]),
        join_stores([each.documents for each in mined]),
    )
    alike = find_alike(sources, firsts, mined, seen, config)
    teachers = teachers_of_all(mined)
    known = known_positives(
        chain.from_iterable(each.known for each in mined), queries.ordinals.tolist(), alike, seen["query"]
    )
    groups, counters = clean_groups(
        [with_teachers(group, each.teachers, teachers) for each in mined for group in each.groups],
        known,
        alike,
    )
    stages = resolve_stages(config, {source.name: source.settings for source in sources})
    batches = plan_order(groups, known, stages, config.seed, alike)

    stores = {"queries": queries, "documents": documents}
    if config.few_shot:
        assert isinstance(model, LocatedModel)
        stores["shown_queries"], shown = show_examples(batches, sources, firsts, model, config)
        counters |= shown
    writer.write_shard("order", 0, order_table(batches))
    with tempfile.TemporaryDirectory(prefix="stope-plan-") as directory:
        for name, store in stores.items():
            store.save(Path(directory) / name)
            writer.put_directory(name, Path(directory) / name)
    dropped = sum((Counter(each.counters) for each in mined), Counter())
    counters |= {name: dropped[name] for each in mined for name in each.counters}
    rows = [row for batch in batches for row in batch]
    counters["negatives_missing"] = sum(
        stages[row.stage].sets[row.dataset].num_negatives - len(row.negatives) for row in rows
    )
    counters["known_positives_masked"] = sum(len(row.masked) for row in rows)
    summary: dict[str, object] = {
        "first_ordinals": {source.name: first for source, first in zip(sources, firsts, strict=True)},
        "teachers": teachers,
        "mean_query_tokens": round(float(queries.tokens.lengths.mean()), 1),
        "mean_document_tokens": round(float(documents.tokens.lengths.mean()), 1),
    }
    if config.few_shot:
        summary["mean_shown_query_tokens"] = round(float(stores["shown_queries"].tokens.lengths.mean()), 1)
    return summary | order_summary(batches, len(stages)), counters


def order_summary(batches: Sequence[Batch], num_stages: int) -> dict[str, object]:
    """Return small facts of an order, as JSON."""
    rows = [row for batch in batches for row in batch]
    return {
        "steps": len(batches),
        "stage_steps": [sum(batch[0].stage == place for batch in batches) for place in range(num_stages)],
        "rows": len(rows),
        "rows_of": dict(sorted(Counter(f"{row.dataset}.{row.task}" for row in rows).items())),
        "teacher_scores": teacher_scores(rows),
        "negatives_repeated": sum(len(row.negatives) - len(set(row.negatives)) for row in rows),
        "negatives_that_answer": sum(bool(queries) for row in rows for queries in row.answers),
    }


def first_ordinals(sources: Sequence[OpenSource]) -> list[dict[Kind, int]]:
    """Return of each data set what its ordinals are raised by: the rows of those before it."""
    firsts: list[dict[Kind, int]] = []
    next_first: dict[Kind, int] = dict.fromkeys(KINDS, 0)
    for source in sources:
        firsts.append(next_first)
        next_first = {kind: next_first[kind] + source.data.num_rows(TABLES[kind][0]) for kind in KINDS}
    return firsts


def find_alike(
    sources: Sequence[OpenSource],
    firsts: Sequence[Mapping[Kind, int]],
    mined: Sequence[MinedSet],
    seen: Mapping[Kind, Seen],
    config: TrainConfig,
) -> Alike:
    """Return which texts count as one: those that differ in their prompt alone, and near-duplicates if asked for."""
    pairs = {kind: list(seen[kind].twins) for kind in KINDS}
    jaccard = config.batches.near_duplicate_jaccard
    for kind in KINDS if jaccard else ():
        assert jaccard is not None
        ordinals: list[int] = []
        texts: list[str] = []
        for source, first, each in zip(sources, firsts, mined, strict=True):
            store = each.queries if kind == "query" else each.documents
            for found, own in read_texts(source.data, kind, store.ordinals - first[kind]):
                ordinals += (found + first[kind]).tolist()
                texts += own
        pairs[kind] += near_pairs(ordinals, texts, jaccard, SHINGLE_WORDS[kind], config.seed)
    return Alike(stand_ins(pairs["query"]), stand_ins(pairs["document"]))


def known_positives(
    pairs: Iterable[tuple[int, int]], queries: Iterable[int], alike: Alike, seen: Seen
) -> dict[int, frozenset[int]]:
    """Return the known positives of every query; of documents that are alike, the one that stands for them.

    Queries of one text share theirs, whatever their prompts; queries that are merely alike do not.

    Args:
        pairs: (query, document), canonical.
        queries: All that the plan has tokens of.
        alike: Documents that count as one.
        seen: Of the queries.
    """
    text_of = stand_ins(seen.twins)
    known: dict[int, set[int]] = {}
    for query, document in pairs:
        known.setdefault(text_of.get(query, query), set()).add(alike.document(document))
    shared = {query: frozenset(positives) for query, positives in known.items()}
    return {query: shared.get(text_of.get(query, query), frozenset()) for query in queries}


def teachers_of_all(mined: Sequence[MinedSet]) -> list[str]:
    """Return the names of all teachers, in the order in which they come."""
    return list(dict.fromkeys(name for each in mined for name in each.teachers))


def with_teachers(group: Group, own: Sequence[str], teachers: Sequence[str]) -> Group:
    """Return a group whose scores are in the order of ``teachers``, None of those that are not its ``own``."""
    if list(own) == list(teachers):
        return group
    places = [own.index(name) if name in own else None for name in teachers]

    def placed(scores: Scores) -> Scores:
        return tuple(None if place is None else scores[place] for place in places)

    return replace(group, scores={document: placed(scores) for document, scores in group.scores.items()})


def order_table(batches: Sequence[Batch]) -> pa.Table:
    """Return the batches as a table of schema PLAN_ORDER, sorted by step."""
    rows = [(step, row) for step, batch in enumerate(batches) for row in batch]
    columns = {
        "step": [step for step, _ in rows],
        "stage": [row.stage for _, row in rows],
        "query": [row.query for _, row in rows],
        "positive": [row.positive for _, row in rows],
        "group": [row.group for _, row in rows],
        "negatives": [list(row.documents[1:]) for _, row in rows],
        "taken": [len(row.negatives) for _, row in rows],
        "masked": [list(row.masked) for _, row in rows],
        "scores": [[list(scores) for scores in row.scores] for _, row in rows],
        # A row that was made without answers has none for each negative.
        "answers": [[list(each) for each in row.answers or [()] * len(row.documents[1:])] for _, row in rows],
        "dataset": [row.dataset for _, row in rows],
        "task": [row.task for _, row in rows],
        "scope": [row.scope for _, row in rows],
    }
    return pa.table(columns, schema=schemas.PLAN_ORDER)
