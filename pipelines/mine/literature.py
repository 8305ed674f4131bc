"""The methods of the literature as settings of a recipe, for a sweep that compares them."""

import json
from collections.abc import Sequence
from typing import Any

from pipelines.recipe import Recipe
from pipelines.train.loss_config import Distilled

METHODS: dict[str, dict[str, str | float]] = {
    "naive": {"method": "naive"},
    "shifted 10": {"method": "shifted"},
    "absolute .7": {"method": "absolute"},
    "margin_pos .05": {"method": "margin_pos"},
    "perc_pos .95": {"method": "perc_pos"},
    "perc_pos .90": {"method": "perc_pos", "threshold": 0.9},
    "double": {"method": "double"},
}
"""What a sweep compares where no grid is given: method -> what mine.select.filter says of it."""

SAMPLED = ("sampled", "top1_sampled")
"""Ways to choose that a sweep compares besides, under perc_pos .95."""

OTHERS = {"random": "random", "BM25": "bm25"}
"""Negatives that a trained sweep compares besides, unless a teacher's scores are learned: method -> kind of the teacher
whose first candidates they are."""

SOFT_LABELS = "perc_pos .95, soft labels"
"""What a trained sweep compares besides: the teacher's scores are learned as well (LG-ANNA)."""

TRAINED_ALONE = (*OTHERS, SOFT_LABELS)
"""Methods that the audit leaves out: other candidates than those it examines, or the negatives of another method."""

TEACHER_TEMPERATURES = {"dense": 0.1, "reranker": 1.0}
"""Kind of a teacher -> what divides its scores where they become soft labels."""

RANKS = ("min_rank", "max_rank", "max_positive_rank")
"""Settings of a recipe's filter that hold for every method."""


def literature(recipe: Recipe, trains: bool) -> dict[str, list[str]]:
    """Return method -> settings, for methods that judge by the scores of the teachers that supply the candidates.

    Args:
        recipe: What it says of the filter holds for none of them, but for RANKS; all else holds for all.
        trains: Whether every method is trained with: then OTHERS and SOFT_LABELS stand among them.
    """
    select = recipe.mine.select
    suppliers = select.suppliers(recipe.mine.read_by_select)
    ranks = select.filter.model_dump(include=set(RANKS), exclude_defaults=True)
    rules = {name: f"mine.select.filter={json.dumps(ranks | rule)}" for name, rule in METHODS.items()}
    # Another teacher's scores, with a threshold of their own, are one method's, not every method's.
    common = _supplied_by(suppliers, _teachers(recipe))
    methods = {name: [*common, rule, "mine.select.selection=top"] for name, rule in rules.items()}
    if select.ensemble != "intra_sample":  # Which takes each teacher's best.
        drawn = [*common, f"mine.select.sample_from={max(select.sample_from, select.num_negatives)}"]
        for selection in SAMPLED:
            name = f"perc_pos .95 {selection}"
            methods[name] = [*drawn, rules["perc_pos .95"], f"mine.select.selection={selection}"]
    if not trains:
        return methods
    others = {} if _distils(recipe) else {name: _first_of(kind, recipe) for name, kind in OTHERS.items()}
    return others | methods | _softly(recipe, suppliers, methods["perc_pos .95"])


def _teachers(recipe: Recipe) -> dict[str, dict[str, Any]]:
    teachers: dict[str, dict[str, Any]] = recipe.mine.model_dump(mode="json")["teachers"]
    return teachers


def _supplied_by(suppliers: Sequence[str], teachers: dict[str, dict[str, Any]]) -> list[str]:
    """Return the settings by which some of the teachers supply the negatives, and no other is read."""
    for name, teacher in teachers.items():
        if name not in suppliers and teacher.get("max_depth") is not None:
            teacher["max_depth"] = None  # Nothing searches deeper for it.
    return [f"mine.teachers={json.dumps(teachers)}", f"mine.select.teachers={json.dumps(list(suppliers))}"]


def _first_of(kind: str, recipe: Recipe) -> list[str]:
    """Return the settings by which a teacher of this kind, the recipe's own or one more, supplies all negatives."""
    teachers = _teachers(recipe)
    name = next((name for name, one in teachers.items() if one["kind"] == kind), f"{kind}_negatives")
    teachers.setdefault(name, {"kind": kind})
    return [
        *_supplied_by([name], teachers),
        # Bounds of ranks are of another teacher's.
        'mine.select.filter={"method": "naive"}',
        "mine.select.ensemble=none",
        "mine.select.deduplicate=false",
        "mine.select.selection=top",
    ]


def _distils(recipe: Recipe) -> bool:
    """Return whether a loss learns a teacher's scores, which other teachers' candidates have not."""
    return any(isinstance(term, Distilled) for term in recipe.train.losses)


def _softly(recipe: Recipe, suppliers: Sequence[str], method: Sequence[str]) -> dict[str, list[str]]:
    """Return the settings by which the first teacher's scores are learned, where they can be and are not already."""
    train, teacher = recipe.train, suppliers[0]
    temperature = TEACHER_TEMPERATURES.get(recipe.mine.teachers[teacher].kind)
    if temperature is None or train.cross_encoder or _distils(recipe):
        return {}
    losses = train.model_dump(mode="json")["loss"]
    soft = {"name": "soft_labels", "teacher": teacher, "teacher_temperature": temperature}
    return {SOFT_LABELS: [*method, f"train.loss={json.dumps([*losses, soft])}"]}
