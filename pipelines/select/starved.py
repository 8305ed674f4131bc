"""What becomes of a group with too few survivors: one function a mode.

Shapes: E examples, n negatives, F examples that are short.
"""

# One signature for all functions of a dict.
# ruff: noqa: ARG001

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pipelines.select.candidates import Candidates
from pipelines.select.draws import drawn_document
from pipelines.select.survivors import Known, is_paired, same_text
from pipelines.select.targets import Targets

_ATTEMPTS = 32
"""Draws for one place before the documents that are still allowed are listed: in a corpus of any size the first or
second draw is allowed."""


@dataclass(frozen=True)
class Slots:
    """The negatives of each group, the empty places last; all int64 [E, n].

    Args:
        doc_En: Document, -1 where empty.
        teacher_En: Index of the teacher that supplied it, -1 where none did.
        column_En: Its column in that teacher's ranking, -1 where none supplied it.
        judged_En: Index of the pair that was judged a negative, -1 where it is none.
    """

    doc_En: np.ndarray
    teacher_En: np.ndarray
    column_En: np.ndarray
    judged_En: np.ndarray

    @property
    def count_E(self) -> np.ndarray:
        """Negatives of each group, int64 [E]."""
        return (self.doc_En >= 0).sum(axis=1)

    def rearranged(self, place_En: np.ndarray) -> "Slots":
        """Return the slots in another order, or over again."""
        doc, teacher, column, judged = (
            np.take_along_axis(each, place_En, axis=1)
            for each in (self.doc_En, self.teacher_En, self.column_En, self.judged_En)
        )
        return Slots(doc, teacher, column, judged)

    def take(self, kept_E: np.ndarray) -> "Slots":
        """Return some of the groups."""
        return Slots(
            self.doc_En[kept_E], self.teacher_En[kept_E], self.column_En[kept_E], self.judged_En[kept_E]
        )


Starved = Callable[[Slots, Targets, Candidates, Known], Slots]


def as_it_is(slots: Slots, targets: Targets, found: Candidates, known: Known) -> Slots:
    """Leave the places empty."""
    return slots


def repeat(slots: Slots, targets: Targets, found: Candidates, known: Known) -> Slots:
    """Go round the survivors until every place is taken; a group without any stays without."""
    places_n = np.arange(slots.doc_En.shape[1])
    return slots.rearranged(places_n % np.maximum(slots.count_E, 1)[:, None])


def random_fill(slots: Slots, targets: Targets, found: Candidates, known: Known) -> Slots:
    """Draw documents uniformly from the corpus into the empty places.

    None is drawn that is labelled for the query, has the text of the query or of a positive, stands in the group
    already, or was retrieved by a teacher: what was retrieved and is not chosen was dropped for a reason. A place
    stays empty where the corpus has no other document.
    """
    doc_En = slots.doc_En.copy()
    for place in range(doc_En.shape[1]):
        left_F = np.flatnonzero(doc_En[:, place] < 0)
        for attempt in range(_ATTEMPTS):
            if not len(left_F):
                break
            number = place * _ATTEMPTS + attempt
            doc_F = drawn_document(targets.stream_E[left_F], number, len(known.text_of_doc))
            bad_F = _forbidden(doc_F, targets.row_E[left_F], doc_En[left_F], found, known)
            doc_En[left_F[~bad_F], place] = doc_F[~bad_F]
            left_F = left_F[bad_F]
        for example in left_F.tolist():
            allowed = _allowed(int(targets.row_E[example]), doc_En[example], found, known)
            if len(allowed):
                which = drawn_document(targets.stream_E[[example]], place * _ATTEMPTS, len(allowed))
                doc_En[example, place] = allowed[which[0]]
    return Slots(doc_En, slots.teacher_En, slots.column_En, slots.judged_En)


def _forbidden(
    doc_F: np.ndarray, row_F: np.ndarray, chosen_Fn: np.ndarray, found: Candidates, known: Known
) -> np.ndarray:
    """Return bool [F]: a document that may not be drawn for the query of its row."""
    doc_F1 = doc_F[:, None]
    bad_F1 = is_paired(doc_F1, row_F, known.positives) | is_paired(doc_F1, row_F, known.negatives)
    bad_F1 |= same_text(doc_F1, row_F, known)
    for others in (chosen_Fn, *(ranking.docs_QC[row_F] for ranking in found.rankings)):
        bad_F1 |= (doc_F1 == others).any(axis=1, keepdims=True)
    return bad_F1[:, 0]


def _allowed(row: int, chosen_n: np.ndarray, found: Candidates, known: Known) -> np.ndarray:
    """Return all documents that may be drawn for one query, int64."""
    positives, judged = (pairs.doc_P[pairs.row_P == row] for pairs in (known.positives, known.negatives))
    texts = np.append(known.text_of_doc[positives], known.text_of_query_Q[row])
    allowed = ~np.isin(known.text_of_doc, texts)
    retrieved = [ranking.docs_QC[row] for ranking in found.rankings]
    taken = np.concatenate([positives, judged, chosen_n, *retrieved])
    allowed[taken[taken >= 0]] = False
    return np.flatnonzero(allowed)


STARVED: dict[str, Starved] = {
    "keep_fewer": as_it_is,
    "repeat": repeat,
    "random_fill": random_fill,
    "drop": as_it_is,
}
"""Groups that are still short under `drop` are dropped by the caller, as the name says."""
