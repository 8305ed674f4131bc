"""A few decisions to look at: a query, its positive, a rejected candidate and a chosen one."""

import numpy as np

from pipelines.select.groups import Candidates, Selection


def pick_examples(found: Candidates, decided: Selection, count: int) -> list[dict[str, float | int]]:
    """Choose queries whose rejected candidate scored high, each with documents that no other example shows.

    Args:
        found: Padded candidates.
        decided: What was decided about them.
        count: Examples at most.

    Returns:
        Ordinals and teacher scores, keys query, positive, rejected, chosen and their `_score`.
    """
    has_both_Q = decided.rejected_QC.any(axis=1) & decided.chosen_QC.any(axis=1)
    rejected_Q, chosen_Q = decided.rejected_QC.argmax(axis=1), decided.chosen_QC.argmax(axis=1)
    rows = np.arange(len(found.query_Q))
    by_score = np.argsort(-np.where(has_both_Q, found.scores_QC[rows, rejected_Q], -np.inf), kind="stable")
    examples: list[dict[str, float | int]] = []
    shown: set[int] = set()
    for row in by_score[: int(has_both_Q.sum())].tolist():
        pairs = np.flatnonzero(found.positive_query == row)
        best = int(pairs[np.argmax(found.positive_score[pairs])])
        rejected, chosen = int(rejected_Q[row]), int(chosen_Q[row])
        docs = [
            int(found.positive_doc[best]),
            int(found.docs_QC[row, rejected]),
            int(found.docs_QC[row, chosen]),
        ]
        if shown.intersection(docs):
            continue
        shown.update(docs)
        scores = [found.positive_score[best], found.scores_QC[row, rejected], found.scores_QC[row, chosen]]
        example: dict[str, float | int] = {"query": int(found.query_Q[row])}
        for name, doc, score in zip(("positive", "rejected", "chosen"), docs, scores, strict=True):
            example |= {name: doc, f"{name}_score": round(float(score), 4)}
        examples.append(example)
        if len(examples) == count:
            break
    return examples
