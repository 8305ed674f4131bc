"""What a plan must hold for a recipe's losses and schedule, checked before a worker starts."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from cluster.errors import UserError
from models.errors import ModelError
from pipelines.train.config import TrainConfig
from pipelines.train.loss_config import BixseConfig, ClpConfig, MatryoshkaConfig
from pipelines.train.plan import Row


@dataclass(frozen=True)
class TeacherScores:
    """What one teacher has scored of a plan's positives and negatives.

    Args:
        pairs: How many.
        lowest: None where there is none.
        highest: Likewise.
    """

    pairs: int
    lowest: float | None
    highest: float | None


def teacher_scores(rows: list[Row]) -> list[dict[str, Any]]:
    """Return TeacherScores of every teacher as JSON, for the plan's summary."""
    num_teachers = max((len(scores) for row in rows for scores in row.scores), default=0)
    found = []
    for teacher in range(num_teachers):
        given = [s[teacher] for row in rows for s in row.scores if len(s) > teacher]
        known = np.array([score for score in given if score is not None and np.isfinite(score)])
        bounds = (float(known.min()), float(known.max())) if len(known) else (None, None)
        found.append(asdict(TeacherScores(len(known), *bounds)))
    return found


def check_plan(summary: Mapping[str, Any], config: TrainConfig) -> None:
    """Refuse a plan that lacks what the recipe's losses need.

    Args:
        summary: Of the plan's manifest.
        config: Names the losses and the schedule.

    Raises:
        UserError: A teacher that scored nothing or is not named, scores out of range, no negative that answers a
            query, a warm-up that never ends, negatives that are never mined anew.
    """
    steps = min(summary["stage_steps"])
    if config.warmup_steps is not None and config.warmup_steps >= steps:
        raise UserError(
            f"the warm-up is as long as {'a stage of ' if len(config.stages) > 1 else ''}the training",
            where="train.warmup_steps",
            got=str(config.warmup_steps),
            expected=f"less than {steps} steps",
            fix=f"set train.warmup_steps below {steps}, or raise train.epochs",
        )
    if config.refresh_every_steps >= summary["steps"]:
        raise UserError(
            "the training ends before its negatives are mined anew",
            where="train.refresh_every_steps",
            got=str(config.refresh_every_steps),
            expected=f"less than the {summary['steps']} steps of the training, or 0: never",
            fix=f"set train.refresh_every_steps below {summary['steps']}, or raise train.epochs",
        )
    for term in config.losses:
        if isinstance(term, ClpConfig) and not summary["negatives_that_answer"]:
            raise UserError(
                "no negative answers another query, so the penalty has nothing to act on",
                where="train.loss, clp",
                expected="negatives that are labelled positives of other training queries",
                fix="choose loss infonce, or data whose documents answer several queries",
            )
        if hasattr(term, "teacher"):
            _check_teacher(term, summary)


def check_dimensions(config: TrainConfig, dimension: int) -> None:
    """Refuse prefixes that are longer than an embedding.

    Raises:
        ModelError: They are.
    """
    for term in config.loss:
        if isinstance(term, MatryoshkaConfig) and max(term.dimensions) > dimension:
            raise ModelError(
                "a prefix is longer than the embedding",
                "train.loss, matryoshka.dimensions",
                got=str(max(term.dimensions)),
                expected=f"at most {dimension}",
                fix=f"write {dimension} for the whole embedding",
            )


def _check_teacher(term: Any, summary: Mapping[str, Any]) -> None:
    names: list[str] = summary["teachers"]
    scores = [TeacherScores(**each) for each in summary["teacher_scores"]]
    where = f"train.loss, {term.name}"
    if term.teacher is None and len(scores) > 1:
        raise UserError(
            "which teacher's scores are meant?",
            where=f"{where}.teacher",
            got="null",
            expected=", ".join(names),
            fix=f"add teacher: {names[0]}",
        )
    if term.teacher is not None and term.teacher not in names:
        raise UserError(
            "no such teacher in the groups",
            where=f"{where}.teacher",
            got=term.teacher,
            expected=", ".join(names) or "null: the groups have one teacher without a name",
        )
    place = names.index(term.teacher) if term.teacher is not None else 0
    found = scores[place] if place < len(scores) else TeacherScores(0, None, None)
    if found.lowest is None or found.highest is None:
        raise UserError(
            "the teacher scored none of the training pairs",
            where=where,
            got=term.teacher or "the groups hold no scores",
            fix="choose another teacher, or loss infonce",
        )
    if (
        isinstance(term, BixseConfig)
        and not term.sigmoid_targets
        and not 0 <= found.lowest <= found.highest <= 1
    ):
        raise UserError(
            "the teacher's scores are no probabilities",
            where=where,
            got=f"scores from {found.lowest:.4g} to {found.highest:.4g}",
            expected="0 to 1",
            fix="set sigmoid_targets: true if they are logits",
        )
