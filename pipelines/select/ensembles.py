"""Which teachers supply an example, and how their survivors become one group (NV-Retriever, section 4.2).

Shapes: E examples, T supplying teachers, n negatives.
"""

# One signature for all functions of a dict.
# ruff: noqa: ARG001

from collections.abc import Callable, Sequence

import numpy as np

from pipelines.select.draws import drawn_teacher


def all_teachers(stream_E: np.ndarray, num_teachers: int) -> np.ndarray:
    """Consult every teacher for every example; bool [E, T]."""
    return np.ones((len(stream_E), num_teachers), bool)


def one_drawn(stream_E: np.ndarray, num_teachers: int) -> np.ndarray:
    """Consult one teacher for each example, drawn uniformly from its own random numbers; bool [E, T]."""
    return drawn_teacher(stream_E, num_teachers)[:, None] == np.arange(num_teachers)


CONSULTED: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "none": all_teachers,
    "cross_sample": one_drawn,
    "intra_sample": all_teachers,
}


def as_they_come(docs: Sequence[np.ndarray], deduplicate: bool) -> tuple[np.ndarray, np.ndarray]:
    """Take the negatives of the one teacher that has any; ``deduplicate`` changes nothing.

    Args:
        docs: Of each teacher, int64 [E, n]: what it offers, best first, -1 where there is no more.
        deduplicate: Not used.

    Returns:
        Teacher and place in its offer, int64 [E, n], both -1 where there is no more.
    """
    docs_TEn = np.stack(docs)
    teacher_En = docs_TEn.argmax(axis=0)
    place_En = np.broadcast_to(np.arange(docs_TEn.shape[2]), teacher_En.shape)
    there_En = docs_TEn.max(axis=0) >= 0
    return np.where(there_En, teacher_En, -1), np.where(there_En, place_En, -1)


def in_turns(docs: Sequence[np.ndarray], deduplicate: bool) -> tuple[np.ndarray, np.ndarray]:
    """Let the teachers take turns, in order, each with its best document that has not had its turn.

    Args:
        docs: Of each teacher, int64 [E, n]: what it offers, best first, -1 where there is no more.
        deduplicate: Pass over documents that another teacher has brought into the group.

    Returns:
        Teacher and place in its offer, int64 [E, n], both -1 where there is no more.
    """
    shape, num_teachers = docs[0].shape, len(docs)
    rows, places_n = np.arange(shape[0]), np.arange(shape[1])
    chosen_En, teacher_En, place_En = (np.full(shape, -1, np.int64) for _ in range(3))
    count_E, next_ET = np.zeros(shape[0], np.int64), np.zeros((shape[0], num_teachers), np.int64)
    for turn in range(num_teachers * shape[1]):
        teacher = turn % num_teachers
        offer_En = docs[teacher]
        open_En = (offer_En >= 0) & (places_n >= next_ET[:, [teacher]])
        if deduplicate:
            open_En &= (offer_En[:, :, None] != chosen_En[:, None, :]).all(axis=2)
        place_E = open_En.argmax(axis=1)
        taken = np.flatnonzero(open_En[rows, place_E] & (count_E < shape[1]))
        slot, place = count_E[taken], place_E[taken]
        chosen_En[taken, slot] = offer_En[taken, place]
        teacher_En[taken, slot], place_En[taken, slot] = teacher, place
        next_ET[taken, teacher] = place + 1
        count_E[taken] += 1
    return teacher_En, place_En


ENSEMBLES: dict[str, Callable[[Sequence[np.ndarray], bool], tuple[np.ndarray, np.ndarray]]] = {
    "none": as_they_come,
    "cross_sample": as_they_come,
    "intra_sample": in_turns,
}
