"""The groups as a table.

Shapes: E groups, n negatives, T teachers, P labelled pairs, M positives or negatives of all groups.
"""

import numpy as np
import pyarrow as pa

from pipelines import schemas
from pipelines.select.candidates import Candidates
from pipelines.select.config import SelectConfig
from pipelines.select.decide import Decided
from pipelines.select.labels import Labels


def groups_table(
    found: Candidates,
    decided: Decided,
    labels: Labels,
    task_E: pa.Array,
    dataset_E: pa.Array,
    config: SelectConfig,
) -> pa.Table:
    """Return the groups, schema GROUPS; positives by falling score of the first teacher, negatives by rank or turn.

    Args:
        found: Candidates with positive pairs only.
        decided: What was decided about them.
        labels: Which queries a negative answers.
        task_E: Task of every group's query.
        dataset_E: Data set of every group's query.
        config: Says what a group is made for.
    """
    targets = decided.targets
    pair_M, count_E = _positives(found, decided, config)
    positives = pa.StructArray.from_arrays(
        [found.pairs.doc_P[pair_M], _score_lists(found.pairs.scores_PT[pair_M])], names=["doc", "scores"]
    )
    table = pa.table(
        {
            "query": found.query_Q[targets.row_E],
            "task": task_E,
            "dataset": dataset_E,
            "positives": _lists(positives, count_E),
            "negatives": _lists(_negatives(decided, labels), decided.slots.count_E),
        }
    )
    return schemas.conform(table, schemas.GROUPS)


def _positives(found: Candidates, decided: Decided, config: SelectConfig) -> tuple[np.ndarray, np.ndarray]:
    """Return the labelled pairs of all groups, int64 [M], and how many each has, int64 [E]."""
    targets, pairs = decided.targets, found.pairs
    if config.positives == "per_example":
        return targets.pair_E, np.ones(len(targets.pair_E), np.int64)
    end_E = np.searchsorted(pairs.row_P, targets.row_E, side="right")
    count_E = end_E - targets.pair_E
    # Unknown scores sort last.
    order_P = np.lexsort((pairs.doc_P, -pairs.scores_PT[:, 0], pairs.row_P))
    in_group_P = np.isin(pairs.row_P, targets.row_E)
    return order_P[in_group_P[order_P]], count_E


def _negatives(decided: Decided, labels: Labels) -> pa.StructArray:
    slots = decided.slots
    there_En = slots.doc_En >= 0
    doc_M = slots.doc_En[there_En]
    answers, count_M = labels.answers(doc_M)
    return pa.StructArray.from_arrays(
        [
            doc_M,
            _score_lists(decided.scores_EnT[there_En]),
            slots.teacher_En[there_En].astype(np.int8),
            (slots.column_En[there_En] + 1).astype(np.int32),
            _lists(pa.array(answers), count_M),
        ],
        names=["doc", "scores", "teacher", "rank", "answers"],
    )


def _score_lists(scores_MT: np.ndarray) -> pa.ListArray:
    """Return one list a row, null where a score is NaN."""
    rows, teachers = scores_MT.shape
    values = pa.array(scores_MT.ravel(), pa.float32(), from_pandas=True)
    return _lists(values, np.full(rows, teachers, np.int64))


def _lists(values: pa.Array, length_E: np.ndarray) -> pa.ListArray:
    offsets = np.concatenate([[0], np.cumsum(length_E)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), values)
