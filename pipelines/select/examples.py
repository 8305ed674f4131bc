"""A few decisions to look at: a query, its positive, a rejected candidate and a chosen one."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from pipelines.select.candidates import Candidates
from pipelines.select.decide import Decided, Rules

Example = dict[str, float | int]

_PARTS = ("positive", "rejected", "chosen")


def decisions(found: Candidates, decided: Decided, rules: Rules) -> pa.Table:
    """Return the groups that have a rejected candidate and a chosen one: documents and scores, one row a group.

    Scores are those that the filter looked at: of the judge, or else of the teacher that was consulted first.
    """
    targets, slots, rows = decided.targets, decided.slots, np.arange(len(decided.shown_E))
    scorer_E = decided.shown_E if rules.judge is None else np.full(len(rows), rules.judge)
    chosen_E = decided.scores_EnT[rows, 0, scorer_E]
    known_E = ~np.isnan(chosen_E) & ~np.isnan(targets.positive_ET[rows, scorer_E])
    shown = np.flatnonzero((decided.rejected_doc_E >= 0) & known_E)
    pair, best = _best_pairs(found, decided, shown, scorer_E[shown], rules)
    return pa.table(
        {
            "query": found.query_Q[targets.row_E[shown]],
            "positive": found.pairs.doc_P[pair],
            "positive_score": best.astype(np.float64),
            "rejected": decided.rejected_doc_E[shown],
            "rejected_score": decided.rejected_score_E[shown].astype(np.float64),
            "chosen": slots.doc_En[shown, 0],
            "chosen_score": chosen_E[shown].astype(np.float64),
        }
    )


def _best_pairs(
    found: Candidates, decided: Decided, shown: np.ndarray, scorer: np.ndarray, rules: Rules
) -> tuple[np.ndarray, np.ndarray]:
    """Return the highest scored positive of each shown group and its score."""
    targets, pairs = decided.targets, found.pairs
    if rules.config.positives == "per_example":
        pair = targets.pair_E[shown]
        return pair, pairs.scores_PT[pair, scorer]
    pair = np.empty(len(shown), np.int64)
    for teacher in np.unique(scorer).tolist():
        score_P = np.where(np.isnan(pairs.scores_PT[:, teacher]), -np.inf, pairs.scores_PT[:, teacher])
        order_P = np.lexsort((-score_P, pairs.row_P))
        mine = scorer == teacher
        pair[mine] = order_P[targets.pair_E[shown[mine]]]
    return pair, pairs.scores_PT[pair, scorer]


def pick_examples(rows: pa.Table, count: int) -> list[Example]:
    """Choose groups whose rejected candidate scored high, each with documents that no other example shows.

    Args:
        rows: From ``decisions``.
        count: Examples at most.

    Returns:
        Ordinals and scores, keys query, positive, rejected, chosen and their `_score`.
    """
    by_score = np.argsort(-rows.column("rejected_score").to_numpy(), kind="stable")
    examples: list[Example] = []
    shown: set[int] = set()
    for row in by_score.tolist():
        if len(examples) == count:
            break
        example: Mapping[str, float | int] = rows.slice(row, 1).to_pylist()[0]
        docs = [int(example[part]) for part in _PARTS]
        if not shown.intersection(docs):
            shown.update(docs)
            examples.append({name: round(value, 4) for name, value in example.items()})
    return examples
