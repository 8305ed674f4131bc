"""The order of training, ahead of time: which query, positive and negatives form each global batch.

A pure function of groups, labels and settings: it knows nothing of ranks. Ordinals are canonical throughout:
of texts that are identical the smallest ordinal stands for all, so equal ordinals mean equal texts.

From top to bottom: a mined group, the row that it gives in one epoch, the batches of rows, the stages of batches.
"""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from cluster.errors import UserError
from pipelines.train.alike import ALL_DIFFER, Alike
from pipelines.train.stages import MAIN, Scope, Stage

LOOK_AHEAD = 8
"""Batches' worth of rows that are searched for one that fits before a collision is masked instead: bounds the
work to a constant a row where the data has few distinct positives (classification)."""


Scores = tuple[float | None, ...]
Known = Mapping[int, frozenset[int]]
"""Query -> all of its known positives; of documents that are alike, the one that stands for them."""


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
        dataset: Where it comes from.
        task: What its query asks for.
        cluster: Of its query, within the data set.
    """

    query: int
    positives: tuple[int, ...]
    negatives: tuple[int, ...]
    scores: Mapping[int, Scores] = field(default_factory=dict)
    answers: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    dataset: str = MAIN
    task: str = ""
    cluster: int = 0


@dataclass(frozen=True)
class Row:
    """One query of one global batch.

    Args:
        query: Its ordinal.
        positive: The document it is to find.
        negatives: At most `num_negatives` documents, repeats counted; fewer where fewer were mined.
        masked: Documents of the batch, other than its positive, that the query must not push away.
        scores: Of the positive and of each negative, those of the reserve too, one a teacher.
        answers: Of each negative, likewise, the queries it answers.
        reserve: The ranks behind the negatives, some of which the training may take in their place.
        group: Number of the group that it was drawn from.
        dataset: Where it comes from.
        task: What its query asks for.
        cluster: Of its query, within the data set.
        scope: Whose documents are its negatives.
        stage: Of the training.
    """

    query: int
    positive: int
    negatives: tuple[int, ...]
    masked: tuple[int, ...] = ()
    scores: tuple[Scores, ...] = ()
    answers: tuple[tuple[int, ...], ...] = ()
    reserve: tuple[int, ...] = ()
    group: int = 0
    dataset: str = MAIN
    task: str = ""
    cluster: int = 0
    scope: Scope = "task"
    stage: int = 0

    @property
    def documents(self) -> tuple[int, ...]:
        """The positive, then the negatives, then the reserve."""
        return (self.positive, *self.negatives, *self.reserve)


def clean_groups(
    groups: Sequence[Group], known: Known, alike: Alike = ALL_DIFFER
) -> tuple[list[Group], dict[str, int]]:
    """Take known positives out of the negatives, and groups without a positive out altogether.

    Args:
        groups: With canonical ordinals, repeats and all.
        known: All known positives.
        alike: Documents that are like a known positive are no negatives either.

    Returns:
        The groups that have a positive, in the order of their queries, and the counters
        `groups_without_positive` and `negatives_known_positive`.
    """
    counters = {"groups_without_positive": 0, "negatives_known_positive": 0}
    cleaned: list[Group] = []
    for group in groups:
        kept = tuple(each for each in group.negatives if alike.document(each) not in known[group.query])
        counters["negatives_known_positive"] += len(group.negatives) - len(kept)
        if group.positives:
            cleaned.append(replace(group, positives=tuple(dict.fromkeys(group.positives)), negatives=kept))
        else:
            counters["groups_without_positive"] += 1
    return sorted(cleaned, key=lambda group: (group.query, group.positives)), counters


def check_negatives(groups: Sequence[Group], stage: Stage) -> None:
    """Refuse a number of negatives that no group of a data set can supply.

    Raises:
        UserError: A data set has no group, or none with that many negatives; or its rows would have no negative.
    """
    for name, rule in stage.sets.items():
        own = [group for group in groups if group.dataset == name]
        named = "" if len(stage.sets) == 1 and name == MAIN else f" in {name}"
        if not own:
            raise UserError(f"no group{named} has a positive, so there is nothing to train on", where="train")
        most = max(len(group.negatives) for group in own)
        if rule.num_negatives > most:
            mined = f"{'' if name == MAIN else f'also.{name}.'}mine.select.num_negatives"
            raise UserError(
                f"more negatives asked for than any query{named} has",
                where=rule.key,
                got=str(rule.num_negatives),
                expected=f"at most {most}",
                fix=f"raise {mined} to {rule.num_negatives} or lower {rule.key} to {most}",
            )
        alone = sorted({group.task for group in own if stage.scope(name, group.task) == "group"})
        if alone and not rule.num_negatives:
            raise UserError(
                f"queries{named} would have no negative",
                where=rule.key,
                got="0, without in-batch negatives" + (f" (task {', '.join(alone)})" if any(alone) else ""),
                fix=f"set {rule.key} to 1 or more, or in_batch_negatives to true",
            )


def check_reserves(groups: Sequence[Group], stages: Sequence[Stage]) -> None:
    """Refuse dynamic negatives where no group can ever take the next ones.

    Raises:
        UserError: None is drawn three times with more negatives than are taken: to compare, and to change.
    """
    if not any(stage.dynamic for stage in stages):
        return
    for group in groups:
        counts = [
            (stage.sets[group.dataset].num_negatives, stage.epochs)
            for stage in stages
            if group.dataset in stage.sets
        ]
        if sum(epochs for count, epochs in counts if 0 < count < len(group.negatives)) >= 3:
            return
    raise UserError(
        "no query has negatives left to take in place of easy ones, and an epoch left to take them in",
        where="train.dynamic_negatives",
        expected="three epochs of a data set with more mined negatives than train.num_negatives, which is at least 1",
        fix="raise mine.select.num_negatives, or epochs, or remove train.dynamic_negatives",
    )


def draw_rows(groups: Sequence[Group], epoch: int, stage: Stage, seed: int, place: int = 0) -> list[Row]:
    """Return one row a group of the stage's data sets, in the order of this epoch.

    Positives, and negatives where more were mined than are used, are taken in turn from epoch to epoch, from
    a place drawn once a group: each is used equally often. Dynamic negatives are the first ones, the others their
    reserve.

    Args:
        groups: Of all data sets.
        epoch: Counted through all stages.
        stage: Says which data sets, and how many negatives.
        seed: Of every draw.
        place: Of the stage.
    """
    starts = np.random.default_rng((seed, 0)).integers(0, 2**31, size=(len(groups), 2))
    used = np.flatnonzero([group.dataset in stage.sets for group in groups])
    rows: list[Row] = []
    for index in np.random.default_rng((seed, 1, epoch)).permutation(used):
        group = groups[index]
        positive = group.positives[(int(starts[index, 0]) + epoch) % len(group.positives)]
        mined = group.negatives
        count = min(stage.sets[group.dataset].num_negatives, len(mined))
        in_turn = count < len(mined) and not stage.dynamic
        first = int(starts[index, 1]) + epoch * count if in_turn else 0
        negatives = tuple(mined[(first + i) % len(mined)] for i in range(count))
        reserve = mined[count:] if stage.dynamic else ()
        rows.append(
            Row(
                group.query,
                positive,
                negatives,
                scores=tuple(group.scores.get(each, ()) for each in (positive, *negatives, *reserve)),
                answers=tuple(group.answers.get(each, ()) for each in (*negatives, *reserve)),
                reserve=reserve,
                group=int(index),
                dataset=group.dataset,
                task=group.task,
                cluster=group.cluster,
                scope=stage.scope(group.dataset, group.task),
                stage=place,
            )
        )
    return rows


def form_batches(
    rows: Sequence[Row], known: Known, batch_size: int, alike: Alike = ALL_DIFFER
) -> Iterator[list[Row]]:
    """Cut rows into batches without collisions where possible, with masks where not.

    Two rows collide if they share the query, or if a document of one is a known positive of the other's
    query; texts that are alike count as one. A row that collides waits for a later batch; where too many would wait,
    the batch is filled up with rows whose `masked` names the documents that must not count as their negatives.

    Args:
        rows: In the order in which they are wanted.
        known: Query -> all of its known positives.
        batch_size: Rows of a batch; the last one may have fewer.
        alike: Texts that count as one.

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
            own = {alike.document(document) for document in row.documents}
            fits = (
                alike.query(row.query) not in queries
                and known[row.query].isdisjoint(documents)
                and positives.isdisjoint(own)
            )
            if not fits:
                left.append(row)
                continue
            chosen.append(row)
            queries.add(alike.query(row.query))
            documents |= own
            positives |= known[row.query]
        missing = size - len(chosen)
        waiting.extendleft(reversed(left[missing:]))
        yield mask_collisions(chosen + left[:missing], known, alike)


def mask_collisions(rows: Sequence[Row], known: Known, alike: Alike = ALL_DIFFER) -> list[Row]:
    """Return the rows of one batch with `masked` filled in, sorted; queries that are alike share their positives."""
    stands_for: dict[int, set[int]] = {}
    for document in {document for row in rows for document in row.documents}:
        stands_for.setdefault(alike.document(document), set()).add(document)
    positives: dict[int, set[int]] = {}
    for row in rows:
        positives.setdefault(alike.query(row.query), set()).update(known[row.query])
    found = [
        {
            document
            for positive in positives[alike.query(row.query)]
            for document in stands_for.get(positive, ())
        }
        for row in rows
    ]
    return [
        replace(row, masked=tuple(sorted(documents - {row.positive})))
        for row, documents in zip(rows, found, strict=True)
    ]
