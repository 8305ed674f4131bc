"""One shard: from what all teachers say of a range of queries to its groups, counters and facts.

Shapes: Q queries, E groups, n negatives, T teachers, P labelled pairs.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipelines.select.candidates import Candidates, distinct, split_by_depth
from pipelines.select.config import SelectConfig
from pipelines.select.decide import Decided, Rules, decide
from pipelines.select.examples import decisions
from pipelines.select.groups import groups_table
from pipelines.select.labels import Labels
from pipelines.select.survivors import Known
from pipelines.select.targets import pair_starts
from pipelines.select.tasks import judged_apart, labelled_elsewhere, settings_of

BLOCK = 4096
"""Labelled pairs decided at a time: bounds memory, and its arrays fit a cache."""


@dataclass(frozen=True)
class Queries:
    """The queries of a range of ordinals.

    Args:
        first: Ordinal of the first.
        text_Q: uint64, equal where texts are equal.
        task_Q: Task of each, as strings.
        dataset_Q: Data set of each, as strings.
    """

    first: int
    text_Q: np.ndarray
    task_Q: pa.Array
    dataset_Q: pa.Array


@dataclass(frozen=True)
class Corpus:
    """What is known of all documents and labels.

    Args:
        text_of_doc: uint64 [num_documents], on the scale of the queries' texts: 8 bytes a document, in memory.
        labels: Judgments.
    """

    text_of_doc: np.ndarray
    labels: Labels


@dataclass(frozen=True)
class Facts:
    """Sums over groups, one entry a teacher.

    Args:
        margin_sum_T: Positive's score minus negative's, float64, over pairs that the teacher scored.
        margin_count_T: How many these are, int64.
        supplied_T: Negatives it supplied, int64.
    """

    margin_sum_T: np.ndarray
    margin_count_T: np.ndarray
    supplied_T: np.ndarray

    @classmethod
    def none(cls, num_teachers: int) -> "Facts":
        """Return the sums over no group."""
        return cls(np.zeros(num_teachers), np.zeros(num_teachers, np.int64), np.zeros(num_teachers, np.int64))

    @classmethod
    def of(cls, decided: Decided) -> "Facts":
        """Return the sums over the groups that were decided."""
        margin_EnT = decided.targets.positive_ET[:, None, :] - decided.scores_EnT
        known_EnT = ~np.isnan(margin_EnT)
        margins_T = np.where(known_EnT, margin_EnT, 0.0).sum(axis=(0, 1), dtype=np.float64)
        teacher = decided.slots.teacher_En
        supplied_T = np.bincount(teacher[teacher >= 0], minlength=known_EnT.shape[2])
        return cls(margins_T, known_EnT.sum(axis=(0, 1)), supplied_T)

    def __add__(self, other: "Facts") -> "Facts":
        return Facts(
            self.margin_sum_T + other.margin_sum_T,
            self.margin_count_T + other.margin_count_T,
            self.supplied_T + other.supplied_T,
        )


@dataclass(frozen=True)
class Mined:
    """What became of one shard.

    Args:
        groups: Schema GROUPS, in order of query.
        starved_Q: Queries that have a group with too few survivors, ascending.
        shown: Decisions to pick examples from.
        counters: What was dropped, by reason.
        facts: Sums.
    """

    groups: pa.Table
    starved_Q: np.ndarray
    shown: pa.Table
    counters: Counter[str]
    facts: Facts


def mine_shard(
    tables: Sequence[pa.Table],
    deeper: Sequence[pa.Table | None],
    queries: Queries,
    corpus: Corpus,
    names: Sequence[str],
    config: SelectConfig,
) -> Mined:
    """Choose the negatives of all queries of one shard.

    Args:
        tables: Schema CANDIDATES, one a teacher.
        deeper: Of each teacher, the candidates of queries that were searched again; None where none were.
        queries: Holds all queries of the tables.
        corpus: Texts and labels.
        names: The teachers, in the order of ``tables``.
        config: The recipe's settings; those of a task are put in their place here.
    """
    counters, facts = Counter[str](), Facts.none(len(names))
    groups, starved, shown = [], [], []
    for part in split_by_depth(tables, deeper):
        asked = distinct(np.concatenate([table.column("query").to_numpy() for table in part]))
        found = Candidates.from_tables(part)
        counters["queries_without_positive"] += len(asked) - len(found.query_Q)
        for task, rows in _blocks(found, queries):
            settings = settings_of(task, config)
            rules = Rules.of(settings, names)
            mine, judged = judged_apart(found.take(rows), corpus.labels, task, config)
            counters["queries_without_positive"] += len(rows) - len(mine.query_Q)
            text_Q = queries.text_Q[mine.query_Q - queries.first]
            mine, answers = labelled_elsewhere(mine, corpus.labels, task, config)
            known = Known(answers, judged, corpus.text_of_doc, text_Q)
            decided = decide(mine, known, rules)
            row_E = pa.array(mine.query_Q[decided.targets.row_E] - queries.first)
            origin = queries.task_Q.take(row_E), queries.dataset_Q.take(row_E)
            groups.append(groups_table(mine, decided, corpus.labels, *origin, settings))
            starved.append(mine.query_Q[decided.targets.row_E[~decided.complete_E]])
            shown.append(decisions(mine, decided, rules))
            counters.update(decided.counters)
            facts = facts + Facts.of(decided)
    table = pa.concat_tables(groups).combine_chunks()
    order = np.argsort(table.column("query").to_numpy(), kind="stable")
    if not np.array_equal(order, np.arange(len(order))):
        table = table.take(pa.array(order))
    return Mined(table, np.unique(np.concatenate(starved)), pa.concat_tables(shown), counters, facts)


def _blocks(found: Candidates, queries: Queries) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the rows of each task in blocks of about BLOCK labelled pairs, at least one, be it empty."""
    coded = queries.task_Q.dictionary_encode()
    task_Q = coded.indices.to_numpy()[found.query_Q - queries.first]
    pairs_Q = np.diff(pair_starts(found.pairs, len(found.query_Q)))
    if not len(task_Q):
        yield "", np.zeros(0, np.int64)
    for task in np.unique(task_Q).tolist():
        rows = np.flatnonzero(task_Q == task)
        before = np.cumsum(pairs_Q[rows]) - pairs_Q[rows]
        for block in np.split(rows, np.flatnonzero(np.diff(before // BLOCK)) + 1):
            yield coded.dictionary[task].as_py(), block
