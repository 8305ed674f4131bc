"""From candidates to chosen negatives: arrays in, arrays out.

Shapes: Q queries, E examples (the groups), C candidates of a teacher, K survivors, n negatives, T teachers.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.select.candidates import Candidates, Ranking, locate
from pipelines.select.config import SelectConfig
from pipelines.select.draws import gumbel_noise
from pipelines.select.ensembles import CONSULTED, ENSEMBLES
from pipelines.select.filters import NEED_POSITIVE
from pipelines.select.samplers import SAMPLERS
from pipelines.select.starved import STARVED, Slots
from pipelines.select.survivors import Known, first_columns, same_text, survive
from pipelines.select.targets import Targets


@dataclass(frozen=True)
class Rules:
    """The settings, and which of the teachers does what.

    Args:
        config: Settings for queries of one task.
        names: The teachers that selection reads, in order.
        suppliers: Indices of those that supply candidates, in order.
        judge: Index of the one whose scores the filter looks at; None: each supplier's own.
    """

    config: SelectConfig
    names: tuple[str, ...]
    suppliers: tuple[int, ...]
    judge: int | None

    @classmethod
    def of(cls, config: SelectConfig, names: Sequence[str]) -> "Rules":
        """Return the rules for the teachers ``names``.

        Raises:
            UserError: The ensemble or the thresholds do not fit these teachers.
        """
        judge = config.filter.scores_of
        suppliers = tuple(names.index(name) for name in config.suppliers(names))
        return cls(config, tuple(names), suppliers, None if judge is None else names.index(judge))

    @property
    def unit(self) -> str:
        """What a group is made for, as counters call it."""
        return "queries" if self.config.positives == "per_query" else "examples"

    def scored_by(self, supplier: int) -> int:
        """Return the teacher whose scores the filter looks at for the candidates of ``supplier``."""
        return supplier if self.judge is None else self.judge


@dataclass(frozen=True)
class Decided:
    """The groups of some queries.

    Args:
        targets: What they are made for.
        slots: Their negatives.
        scores_EnT: Score of every negative by every teacher, float32, NaN where it has none.
        complete_E: bool: enough candidates survived.
        shown_E: Index of the teacher that was consulted first.
        rejected_doc_E: Its first candidate that was taken for a false negative, -1 where none was.
        rejected_score_E: Its score by the teacher that the filter looks at, float32.
        counters: What was dropped, by reason.
    """

    targets: Targets
    slots: Slots
    scores_EnT: np.ndarray
    complete_E: np.ndarray
    shown_E: np.ndarray
    rejected_doc_E: np.ndarray
    rejected_score_E: np.ndarray
    counters: Counter[str]


def decide(found: Candidates, known: Known, rules: Rules) -> Decided:
    """Choose the negatives of every example of ``found``, whose labelled pairs are among ``known.positives``."""
    config, counters = rules.config, Counter[str]()
    targets = _consistent(Targets.of(found, config), rules, counters)
    consulted_ET = CONSULTED[config.ensemble](targets.stream_E, len(rules.suppliers))
    shown_E = np.array(rules.suppliers)[consulted_ET.argmax(axis=1)]
    columns, rejected_E = [], np.full(len(targets.row_E), -1, np.int64)
    for place, supplier in enumerate(rules.suppliers):
        asked = np.flatnonzero(consulted_ET[:, place])
        column_En, first_E = _offer(found, known, targets.take(asked), supplier, rules, counters)
        columns.append(np.full((len(targets.row_E), config.num_negatives), -1, np.int64))
        columns[-1][asked] = column_En
        mine = shown_E[asked] == supplier
        rejected_E[asked[mine]] = first_E[mine]
    slots = _judged_first(_combined(found, targets, columns, rules), known, targets, counters)
    complete_E = slots.count_E >= config.num_negatives
    filled = STARVED[config.starved](slots, targets, found, known)
    _count_starved(slots, filled, complete_E, rules, counters)
    docs_E, scores_E = _rejected(found, targets, shown_E, rejected_E, rules)
    kept = complete_E if config.starved == "drop" else np.ones(len(complete_E), bool)
    targets, filled = targets.take(kept), filled.take(kept)
    scores_EnT = _scores(found, known, targets, filled)
    rest = (complete_E[kept], shown_E[kept], docs_E[kept], scores_E[kept], counters)
    return Decided(targets, filled, scores_EnT, *rest)


def _consistent(targets: Targets, rules: Rules, counters: Counter[str]) -> Targets:
    """Drop examples whose positive no supplying teacher ranks high enough."""
    most = rules.config.filter.max_positive_rank
    if most is None:
        return targets
    found_E = targets.best_rank_ET[:, list(rules.suppliers)].min(axis=1) <= most
    counters[f"{rules.unit}_with_low_ranked_positive"] += int((~found_E).sum())
    return targets.take(found_E)


def _rows(ranking: Ranking, row_E: np.ndarray) -> Ranking:
    """Return the ranking with one row an example; without a copy where that is what it has."""
    return ranking if len(row_E) == len(ranking.docs_QC) and _is_range(row_E) else ranking.take(row_E)


def _is_range(row_E: np.ndarray) -> bool:
    return np.array_equal(row_E, np.arange(len(row_E)))


def _offer(
    found: Candidates,
    known: Known,
    targets: Targets,
    supplier: int,
    rules: Rules,
    counters: Counter[str],
) -> tuple[np.ndarray, np.ndarray]:
    """Return what one teacher offers: columns, int64 [E, n] by rank, and the first it had rejected, int64 [E]."""
    config, scorer = rules.config, rules.scored_by(supplier)
    ranking = _rows(found.rankings[supplier], targets.row_E)
    judge = None if scorer == supplier else _rows(found.rankings[scorer], targets.row_E)
    positive_E = targets.positive_ET[:, scorer]
    if config.filter.method in NEED_POSITIVE:
        counters[f"{rules.unit}_with_unscored_positive"] += int(np.isnan(positive_E).sum())
    most = config.num_negatives if config.selection == "top" else config.sample_from
    threshold = config.filter.threshold_of(rules.names[supplier])
    left = survive(ranking, judge, targets.row_E, positive_E, known, config.filter, threshold, most)
    counters.update(left.counters)
    if config.selection == "top":
        return left.columns_EK, left.rejected_E
    kept_EK = left.columns_EK >= 0
    scores_EK = np.take_along_axis(ranking.scores_QC, np.maximum(left.columns_EK, 0), axis=1)
    noise_EK = gumbel_noise(targets.stream_E, most)
    sampler, temperature = SAMPLERS[config.selection], config.sample_temperature
    drawn_EK = sampler(scores_EK, kept_EK, config.num_negatives, most, temperature, noise_EK)
    place_En = first_columns(drawn_EK, config.num_negatives)
    drawn_En = np.take_along_axis(left.columns_EK, np.maximum(place_En, 0), axis=1)
    return np.where(place_En >= 0, drawn_En, -1), left.rejected_E


def _combined(found: Candidates, targets: Targets, columns: Sequence[np.ndarray], rules: Rules) -> Slots:
    """Make one group of what the teachers offer."""
    docs = []
    for supplier, column_En in zip(rules.suppliers, columns, strict=True):
        doc_En = found.rankings[supplier].docs_QC[targets.row_E[:, None], np.maximum(column_En, 0)]
        docs.append(np.where(column_En >= 0, doc_En, -1))
    place_of_teacher_En, place_En = ENSEMBLES[rules.config.ensemble](docs, rules.config.deduplicate)
    index = np.maximum(place_of_teacher_En, 0), np.arange(len(place_En))[:, None], np.maximum(place_En, 0)
    there_En = place_En >= 0
    doc_En, column_En = (np.where(there_En, np.stack(each)[index], -1) for each in (docs, columns))
    teacher_En = np.where(there_En, np.array(rules.suppliers)[index[0]], -1)
    return Slots(doc_En, teacher_En, column_En, np.full(doc_En.shape, -1, np.int64))


def _judged_first(slots: Slots, known: Known, targets: Targets, counters: Counter[str]) -> Slots:
    """Put the documents that were judged negatives before those that were mined."""
    pairs, most = known.negatives, slots.doc_En.shape[1]
    if not len(pairs.row_P):
        return slots
    start_E = np.searchsorted(pairs.row_P, targets.row_E)
    count_E = np.searchsorted(pairs.row_P, targets.row_E, side="right") - start_E
    places_n = np.arange(most)
    judged_En = np.where(places_n < count_E[:, None], start_E[:, None] + places_n, -1)
    doc_En = np.where(judged_En >= 0, pairs.doc_P[np.maximum(judged_En, 0)], -1)
    identical_En = (doc_En >= 0) & same_text(doc_En, targets.row_E, known)
    counters["identical_text"] += int(identical_En.sum())
    judged_En, doc_En = (np.where(identical_En, -1, each) for each in (judged_En, doc_En))
    nobody_En = np.full(doc_En.shape, -1, np.int64)
    both = Slots(
        np.concatenate([doc_En, slots.doc_En], axis=1),
        np.concatenate([nobody_En, slots.teacher_En], axis=1),
        np.concatenate([nobody_En, slots.column_En], axis=1),
        np.concatenate([judged_En, slots.judged_En], axis=1),
    )
    return both.rearranged(np.argsort(both.doc_En < 0, axis=1, kind="stable")[:, :most])


def _count_starved(
    slots: Slots, filled: Slots, complete_E: np.ndarray, rules: Rules, counters: Counter[str]
) -> None:
    mode, added = rules.config.starved, int((filled.count_E - slots.count_E).sum())
    short = int((filled.count_E < rules.config.num_negatives).sum())
    dropped = int((~complete_E).sum()) if mode == "drop" else 0
    counters[f"{rules.unit}_dropped_as_starved"] += dropped
    counters[f"{rules.unit}_with_fewer_negatives"] += short - dropped
    if mode in ("repeat", "random_fill"):
        counters[f"negatives_filled_by_{mode}"] += added


def _rejected(
    found: Candidates, targets: Targets, shown_E: np.ndarray, rejected_E: np.ndarray, rules: Rules
) -> tuple[np.ndarray, np.ndarray]:
    """Return document, int64 [E], and score, float32 [E], of the first rejected candidate; -1 and NaN if none."""
    docs_E, scores_E = np.full(len(shown_E), -1, np.int64), np.full(len(shown_E), np.nan, np.float32)
    for supplier in rules.suppliers:
        mine = np.flatnonzero((shown_E == supplier) & (rejected_E >= 0))
        row, ranking = targets.row_E[mine], found.rankings[supplier]
        docs_E[mine] = ranking.docs_QC[row, rejected_E[mine]]
        if rules.scored_by(supplier) == supplier:
            scores_E[mine] = ranking.scores_QC[row, rejected_E[mine]]
        else:
            judge = found.rankings[rules.scored_by(supplier)]
            scores_E[mine] = score_by(judge, row, docs_E[mine][:, None])[:, 0]
    return docs_E, scores_E


def _scores(found: Candidates, known: Known, targets: Targets, slots: Slots) -> np.ndarray:
    """Return float32 [E, n, T]: what each teacher scored each negative, NaN where it did not."""
    scores_EnT = np.full((*slots.doc_En.shape, len(found.rankings)), np.nan, np.float32)
    named_En = (slots.teacher_En >= 0) | (slots.judged_En >= 0)
    for teacher, ranking in enumerate(found.rankings):
        own_En = slots.teacher_En == teacher
        own = ranking.scores_QC[targets.row_E[:, None], np.where(own_En, slots.column_En, 0)]
        scores_EnT[..., teacher] = np.where(own_En, own, np.float32(np.nan))
        asked_E = np.flatnonzero((named_En & ~own_En).any(axis=1))
        if len(asked_E):
            doc_En = np.where(named_En & ~own_En, slots.doc_En, -1)[asked_E]
            theirs_En = score_by(ranking, targets.row_E[asked_E], doc_En)
            scores_EnT[asked_E, :, teacher] = np.fmax(scores_EnT[asked_E, :, teacher], theirs_En)
    judged = slots.judged_En >= 0
    labelled = known.negatives.scores_PT[slots.judged_En[judged]]
    scores_EnT[judged] = np.where(np.isnan(scores_EnT[judged]), labelled, scores_EnT[judged])
    return scores_EnT


def score_by(ranking: Ranking, row_E: np.ndarray, doc_EA: np.ndarray) -> np.ndarray:
    """Return float32 [E, A]: the scores of documents in a ranking, NaN where it does not hold them."""
    column_EA = locate(doc_EA, ranking.docs_QC[row_E])
    scores_EA = ranking.scores_QC[row_E[:, None], np.maximum(column_EA, 0)]
    return np.where(column_EA >= 0, scores_EA, np.float32(np.nan))
