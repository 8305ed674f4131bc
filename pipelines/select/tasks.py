"""Rules of their own for the queries of some tasks, as far as the tables can decide them.

Linq-Embed-Mistral (arXiv 2412.03223), section 3.1, on negatives by task. What is left to the recipe or to ingest:

- retrieval: ranks 30 to 100 under perc_pos is a setting (`filter.min_rank`, `filter.max_rank`), not a rule, since
  it suits synthetic queries more than labelled ones.
- classification: a document is a label, so two classes differ in their text; where documents are examples, ingest
  would have to read each one's class into a column, and the task is clustering.
- clustering: only documents with the text of a positive are known to be of its class.
- sts, nli: pairs judged 0 or less are kept by ingest for these tasks alone, and no teacher scores them.

Shapes: Q queries, P labelled pairs, T teachers.
"""

from dataclasses import dataclass

import numpy as np

from pipelines.select.candidates import Candidates, Pairs, Ranking
from pipelines.select.config import FilterConfig, SelectConfig
from pipelines.select.labels import Labels
from pipelines.select.survivors import is_paired


@dataclass(frozen=True)
class TaskRule:
    """What a task puts in the place of the recipe's settings.

    Args:
        unfiltered: Whether a document's score says nothing against it; rank windows stay.
        selection: How survivors are chosen; None as the recipe says.
        has_judged_negatives: Whether a labelled pair of low relevance is a negative.
        max_negative_relevance: How low where the recipe does not say; None: no pair is.
    """

    unfiltered: bool = False
    selection: str | None = None
    has_judged_negatives: bool = False
    max_negative_relevance: float | None = None


TASK_RULES: dict[str, TaskRule] = {
    "retrieval": TaskRule(),
    # Documents are labels: another label is wrong however near it is.
    "classification": TaskRule(unfiltered=True),
    "clustering": TaskRule(),
    # Pairs judged to be of low similarity; how low is the recipe's to say where 0 is too strict.
    "sts": TaskRule(has_judged_negatives=True, max_negative_relevance=0.0),
    # The contradiction.
    "nli": TaskRule(has_judged_negatives=True, max_negative_relevance=0.0),
    # The nearest sentence that is no translation.
    "bitext": TaskRule(unfiltered=True, selection="top"),
}


def rule_of(task: str, config: SelectConfig) -> TaskRule:
    """Return the rule of ``task``; one that changes nothing where rules are off or the task has none."""
    return TASK_RULES.get(task, TaskRule()) if config.task_rules else TaskRule()


def settings_of(task: str, config: SelectConfig) -> SelectConfig:
    """Return the settings for the queries of ``task``."""
    rule = rule_of(task, config)
    updates: dict[str, object] = {}
    if rule.unfiltered:
        kept = config.filter.model_dump(include={"max_positive_rank", "min_rank", "max_rank"})
        updates["filter"] = FilterConfig(method="naive", **kept)
    if rule.selection:
        updates["selection"] = rule.selection
    return config.model_copy(update=updates)


def _low_relevance(task: str, config: SelectConfig) -> float | None:
    """Return the relevance up to which a labelled pair of ``task`` is a negative; None: no pair is."""
    rule = rule_of(task, config)
    if config.max_negative_relevance is not None and rule.has_judged_negatives:
        return config.max_negative_relevance
    return rule.max_negative_relevance


def judged_apart(
    found: Candidates, labels: Labels, task: str, config: SelectConfig
) -> tuple[Candidates, Pairs]:
    """Take the pairs that are judged to be negatives out of the labelled pairs.

    Args:
        found: Candidates of queries of one task.
        labels: All judgments.
        task: Of these queries.
        config: May say which relevance is low.

    Returns:
        The candidates with positive pairs only, queries without one left out; and the negative pairs of the queries
        that stay, scored where a teacher scored the pair as a labelled one.
    """
    bound, pairs = _low_relevance(task, config), found.pairs
    none = pairs.take(np.zeros(0, np.int64))
    if bound is None:
        return found, none
    row_L, doc_L = labels.judged_low(found.query_Q, bound)
    num_docs = 1 + int(max(pairs.doc_P.max(initial=0), doc_L.max(initial=0)))
    key_P, key_L = pairs.row_P * num_docs + pairs.doc_P, np.unique(row_L * num_docs + doc_L)
    low_P = np.isin(key_P, key_L)
    shape = (len(key_L), pairs.scores_PT.shape[1])
    scores_LT, ranks_LT = np.full(shape, np.nan, np.float32), np.zeros(shape, np.int32)
    at = np.searchsorted(key_L, key_P[low_P])
    scores_LT[at], ranks_LT[at] = pairs.scores_PT[low_P], pairs.ranks_PT[low_P]
    judged = Pairs(key_L // num_docs, key_L % num_docs, scores_LT, ranks_LT)
    stays_Q = np.zeros(len(found.query_Q), bool)
    stays_Q[pairs.row_P[~low_P]] = True
    moved_Q = np.cumsum(stays_Q) - 1
    judged = judged.take(stays_Q[judged.row_P])
    kept = Candidates(found.query_Q, found.rankings, pairs.take(~low_P)).take(np.flatnonzero(stays_Q))
    return kept, Pairs(moved_Q[judged.row_P], judged.doc_P, judged.scores_PT, judged.ranks_PT)


def labelled_elsewhere(
    found: Candidates, labels: Labels, task: str, config: SelectConfig
) -> tuple[Candidates, Pairs]:
    """Mark the candidates that another split judges relevant, so that none becomes a negative; nor are they positives.

    Args:
        found: Candidates of queries of one task, with positive pairs only.
        labels: All judgments; those of test are not among them.
        task: Of these queries.
        config: May say which relevance is low.

    Returns:
        The candidates, their pairs as they were; and these pairs together with those of other splits, which have no
        score.
    """
    pairs = found.pairs
    row_L, doc_L = labels.judged_high(found.query_Q, max(0.0, _low_relevance(task, config) or 0.0))
    num_docs = 1 + int(max(pairs.doc_P.max(initial=0), doc_L.max(initial=0)))
    key_P, key_L = pairs.row_P * num_docs + pairs.doc_P, np.unique(row_L * num_docs + doc_L)
    key_L = key_L[~np.isin(key_L, key_P)]
    if not len(key_L):
        return found, pairs
    shape = (len(key_L), pairs.scores_PT.shape[1])
    scores_LT, ranks_LT = np.full(shape, np.nan, np.float32), np.zeros(shape, np.int32)
    other = Pairs(key_L // num_docs, key_L % num_docs, scores_LT, ranks_LT)
    rankings = tuple(_marked(ranking, other) for ranking in found.rankings)
    every = Pairs(
        np.concatenate([pairs.row_P, other.row_P]),
        np.concatenate([pairs.doc_P, other.doc_P]),
        np.concatenate([pairs.scores_PT, scores_LT]),
        np.concatenate([pairs.ranks_PT, ranks_LT]),
    )
    return Candidates(found.query_Q, rankings, pairs), every.take(np.lexsort((every.doc_P, every.row_P)))


def _marked(ranking: Ranking, pairs: Pairs) -> Ranking:
    paired_QC = is_paired(ranking.docs_QC, np.arange(len(ranking.docs_QC)), pairs)
    return Ranking(ranking.docs_QC, ranking.scores_QC, ranking.labelled_QC | paired_QC)
