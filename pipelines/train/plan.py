"""The order of training, ahead of time: which query, positive and negatives form each global batch.

A pure function of groups, labels and settings: it knows nothing of ranks. Ordinals are canonical throughout:
of texts that are identical the smallest ordinal stands for all, so equal ordinals mean equal texts.
"""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from cluster.errors import UserError

LOOK_AHEAD = 8
"""Batches' worth of rows that are searched for one that fits before a collision is masked instead: bounds the
work to a constant a row where the data has few distinct positives (classification)."""


Scores = tuple[float | None, ...]


@dataclass(frozen=True)
class Group:
    """A query with everything it may be trained on.

    Args:
        query: Canonical ordinal.
        positives: Canonical documents, distinct.
        negatives: Canonical documents, best first, none a known positive of the query; one that stands there several
            times weighs so.
        scores: Document -> one score a teacher, None where it gave none.
        answers: Negative -> other queries that it answers.
    """

    query: int
    positives: tuple[int, ...]
    negatives: tuple[int, ...]
    scores: Mapping[int, Scores] = field(default_factory=dict)
    answers: Mapping[int, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """One query of one global batch.

    Args:
        query: Its ordinal.
        positive: The document it is to find.
        negatives: At most `num_negatives` documents, repeats counted; fewer where fewer were mined.
        masked: Documents of the batch, other than its positive, that the query must not push away.
        scores: Of the positive and of each negative, one a teacher.
        answers: Of each negative, the queries it answers.
    """

    query: int
    positive: int
    negatives: tuple[int, ...]
    masked: tuple[int, ...] = ()
    scores: tuple[Scores, ...] = ()
    answers: tuple[tuple[int, ...], ...] = ()

    @property
    def documents(self) -> tuple[int, ...]:
        """The positive, then the negatives."""
        return (self.positive, *self.negatives)


def make_groups(
    queries: Sequence[int],
    positives: Sequence[Sequence[int]],
    negatives: Sequence[Sequence[int]],
    known: Mapping[int, frozenset[int]],
    scores: Sequence[Mapping[int, Scores]] = (),
    answers: Sequence[Mapping[int, tuple[int, ...]]] = (),
) -> tuple[list[Group], dict[str, int]]:
    """Make canonical groups and count what is left out.

    Args:
        queries: Canonical query of each group.
        positives: Canonical documents of each group.
        negatives: Canonical documents of each group, best first; repeats are meant and stay.
        known: Query -> all of its known positives.
        scores: Document -> scores, of each group. Empty: none were given.
        answers: Negative -> answered queries, of each group. Empty: none are wanted.

    Returns:
        The groups that have a positive, in the order of their queries, and the counters
        `groups_without_positive` and `negatives_known_positive`.
    """
    counters = {"groups_without_positive": 0, "negatives_known_positive": 0}
    groups: list[Group] = []
    given = zip(scores or [{}] * len(queries), answers or [{}] * len(queries), strict=True)
    for query, own, mined, (scored, answered) in zip(queries, positives, negatives, given, strict=True):
        kept = tuple(document for document in mined if document not in known[query])
        counters["negatives_known_positive"] += len(mined) - len(kept)
        if own:
            groups.append(Group(query, tuple(dict.fromkeys(own)), kept, scored, answered))
        else:
            counters["groups_without_positive"] += 1
    return sorted(groups, key=lambda group: (group.query, group.positives)), counters


def check_negatives(groups: Sequence[Group], num_negatives: int) -> None:
    """Refuse a number of negatives that no group can supply.

    Raises:
        UserError: There is no group, or none has that many negatives.
    """
    if not groups:
        raise UserError("no group has a positive, so there is nothing to train on", where="train")
    most = max(len(group.negatives) for group in groups)
    if num_negatives > most:
        raise UserError(
            "more negatives asked for than any query has",
            where="train.num_negatives",
            got=str(num_negatives),
            expected=f"at most {most}",
            fix=f"raise mine.select.num_negatives to {num_negatives} or lower train.num_negatives to {most}",
        )


def draw_rows(groups: Sequence[Group], epoch: int, num_negatives: int, seed: int) -> list[Row]:
    """Return one row a group in the order of this epoch.

    Positives, and negatives where more were mined than are used, are taken in turn from epoch to epoch, from
    a place drawn once a group: each is used equally often.
    """
    starts = np.random.default_rng((seed, 0)).integers(0, 2**31, size=(len(groups), 2))
    rows: list[Row] = []
    for index in np.random.default_rng((seed, 1, epoch)).permutation(len(groups)):
        group = groups[index]
        positive = group.positives[(int(starts[index, 0]) + epoch) % len(group.positives)]
        mined, count = group.negatives, min(num_negatives, len(group.negatives))
        first = int(starts[index, 1]) + epoch * count if count < len(mined) else 0
        used = tuple(mined[(first + i) % len(mined)] for i in range(count))
        scores = tuple(group.scores.get(document, ()) for document in (positive, *used))
        answers = tuple(group.answers.get(document, ()) for document in used)
        rows.append(Row(group.query, positive, used, (), scores, answers))
    return rows


def form_batches(
    rows: Sequence[Row], known: Mapping[int, frozenset[int]], batch_size: int
) -> Iterator[list[Row]]:
    """Cut rows into batches without collisions where possible, with masks where not.

    Two rows collide if they share the query, or if a document of one is a known positive of the other's
    query. A row that collides waits for a later batch; where too many would wait, the batch is filled up with rows
    whose `masked` names the documents that must not count as their negatives.

    Args:
        rows: In the order in which they are wanted.
        known: Query -> all of its known positives.
        batch_size: Rows of a batch; the last one may have fewer.

    Yields:
        ceil(len(rows) / batch_size) batches; every row is in exactly one.
    """
    waiting = deque(rows)
    while waiting:
        size = min(batch_size, len(waiting))
        queries: set[int] = set()
        documents: set[int] = set()
        positives: set[int] = set()
        chosen: list[Row] = []
        left: list[Row] = []
        while waiting and len(chosen) < size and len(chosen) + len(left) < LOOK_AHEAD * batch_size:
            row = waiting.popleft()
            fits = (
                row.query not in queries
                and known[row.query].isdisjoint(documents)
                and positives.isdisjoint(row.documents)
            )
            if not fits:
                left.append(row)
                continue
            chosen.append(row)
            queries.add(row.query)
            documents.update(row.documents)
            positives |= known[row.query]
        missing = size - len(chosen)
        waiting.extendleft(reversed(left[missing:]))
        yield mask_collisions(chosen + left[:missing], known)


def mask_collisions(rows: Sequence[Row], known: Mapping[int, frozenset[int]]) -> list[Row]:
    """Return the rows of one batch with `masked` filled in, sorted."""
    documents = {document for row in rows for document in row.documents}
    return [
        replace(row, masked=tuple(sorted((known[row.query] & documents) - {row.positive}))) for row in rows
    ]


def plan_order(
    groups: Sequence[Group],
    known: Mapping[int, frozenset[int]],
    *,
    epochs: int,
    batch_size: int,
    num_negatives: int,
    seed: int,
) -> list[list[Row]]:
    """Return every global batch, epoch after epoch; the last one of an epoch may be smaller."""
    check_negatives(groups, num_negatives)
    return [
        batch
        for epoch in range(epochs)
        for batch in form_batches(draw_rows(groups, epoch, num_negatives, seed), known, batch_size)
    ]
