"""A grid of mining methods over what is already scored: one selection each, one audit, one table."""

import json
from collections.abc import Mapping, Sequence
from itertools import product

from cluster.errors import UserError
from cluster.session import Session
from pipelines.recipe import Recipe, load_recipe
from pipelines.report.pipeline import audit_step
from pipelines.run import plan
from pipelines.steps import Step
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
"""Negatives that a trained sweep compares besides: method -> kind of the teacher whose first candidates they are."""

SOFT_LABELS = "perc_pos .95, soft labels"
"""What a trained sweep compares besides: the teacher's scores are learned as well (LG-ANNA)."""

TRAINED_ALONE = (*OTHERS, SOFT_LABELS)
"""Methods that the audit leaves out: other candidates than those it examines, or the negatives of another method."""

TEACHER_TEMPERATURES = {"dense": 0.1, "reranker": 1.0}
"""Kind of a teacher -> what divides its scores where they become soft labels."""

RANKS = ("min_rank", "max_rank", "max_positive_rank")
"""Settings of a recipe's filter that hold for every method."""

SWEPT = ("mine.select.", "train.")
"""What a grid may be made of, the latter with training: all else changes the candidates, or what is measured."""

TRAINED = ("order", "trained", "tuned_embeddings", "tuned_ranking", "metrics")
"""Steps that a trained sweep needs of every method, besides its groups."""


def sweep_settings(
    recipe: Recipe, grid: Sequence[str], methods: Sequence[str], trains: bool
) -> dict[str, list[str]]:
    """Return name -> settings of a recipe, for every method of a sweep.

    Args:
        recipe: What is swept.
        grid: ``key=value,value,...`` of a recipe each; their product is swept. Empty: the methods of the literature,
            which judge by the scores of the teachers that supply the candidates.
        methods: Names of the literature's methods, to compare these alone; empty: all.
        trains: Whether every method is trained with: then random and BM25 negatives and soft labels are compared too.

    Raises:
        UserError: A line of the grid has no values, a key stands twice or is no setting that a sweep compares; there
            is no method of this name, or a grid besides.
    """
    if not grid:
        return _chosen(_literature(recipe, trains), methods)
    if methods:
        raise UserError(
            "a grid is compared, or methods of the literature",
            where="--method",
            got=f"{methods[0]} and --grid {grid[0]}",
            fix="leave out the one or the other",
        )
    swept = SWEPT if trains else SWEPT[:1]
    axes: dict[str, list[str]] = {}
    for line in grid:
        key, _, values = line.partition("=")
        if not values or key in axes:
            raise UserError(
                "a line of the grid names a key once, with its values",
                where="--grid",
                got=line,
                expected="key=value,value,...",
                fix="--grid mine.select.filter.threshold=0.9,0.95",
            )
        if not key.startswith(swept):
            raise UserError(
                "a sweep compares what is made of the same candidates",
                where="--grid",
                got=key,
                expected=f"a key under {' or '.join(swept)}",
                fix="run the recipe once with each value, by --set, and lay the runs side by side: stope compare",
            )
        axes[key] = values.split(",")
    points = product(*([f"{key}={value}" for value in values] for key, values in axes.items()))
    return {", ".join(_short(setting) for setting in point): list(point) for point in points}


def _chosen(known: dict[str, list[str]], methods: Sequence[str]) -> dict[str, list[str]]:
    unknown = [name for name in methods if name not in known]
    if unknown:
        raise UserError(
            "a sweep knows no such method",
            where="--method",
            got=unknown[0],
            expected=f"one of {', '.join(known)} (random, BM25 and soft labels only with --train)",
        )
    return {name: settings for name, settings in known.items() if not methods or name in methods}


def _literature(recipe: Recipe, trains: bool) -> dict[str, list[str]]:
    select = recipe.mine.select
    suppliers = select.suppliers(recipe.mine.read_by_select)
    ranks = select.filter.model_dump(include=set(RANKS), exclude_defaults=True)
    rules = {name: f"mine.select.filter={json.dumps(ranks | rule)}" for name, rule in METHODS.items()}
    # Another teacher's scores, with a threshold of their own, are one method's, not every method's.
    common = [f"mine.select.teachers={json.dumps(list(suppliers))}"]
    methods = {name: [*common, rule, "mine.select.selection=top"] for name, rule in rules.items()}
    if select.ensemble != "intra_sample":  # Which takes each teacher's best.
        drawn = [*common, f"mine.select.sample_from={max(select.sample_from, select.num_negatives)}"]
        for selection in SAMPLED:
            name = f"perc_pos .95 {selection}"
            methods[name] = [*drawn, rules["perc_pos .95"], f"mine.select.selection={selection}"]
    if not trains:
        return methods
    others = {name: [*_supplied_by(kind, recipe), rules["naive"]] for name, kind in OTHERS.items()}
    return others | methods | _softly(recipe, suppliers, methods["perc_pos .95"])


def _supplied_by(kind: str, recipe: Recipe) -> list[str]:
    """Return the settings by which a teacher of this kind, the recipe's own or one more, supplies all negatives."""
    teachers = recipe.mine.model_dump(mode="json")["teachers"]
    name = next((name for name, one in teachers.items() if one["kind"] == kind), f"{kind}_negatives")
    teachers.setdefault(name, {"kind": kind})
    return [
        f"mine.teachers={json.dumps(teachers)}",
        f'mine.select.teachers=["{name}"]',
        "mine.select.ensemble=none",
        "mine.select.deduplicate=false",
        "mine.select.selection=top",
    ]


def _softly(recipe: Recipe, suppliers: Sequence[str], method: Sequence[str]) -> dict[str, list[str]]:
    """Return the settings by which the first teacher's scores are learned, where they can be and are not already."""
    train, teacher = recipe.train, suppliers[0]
    temperature = TEACHER_TEMPERATURES.get(recipe.mine.teachers[teacher].kind)
    if (
        temperature is None
        or train.cross_encoder
        or any(isinstance(term, Distilled) for term in train.losses)
    ):
        return {}
    losses = train.model_dump(mode="json")["loss"]
    soft = {"name": "soft_labels", "teacher": teacher, "teacher_temperature": temperature}
    return {SOFT_LABELS: [*method, f"train.loss={json.dumps([*losses, soft])}"]}


def _short(setting: str) -> str:
    key, _, value = setting.partition("=")
    return f"{key.rpartition('.')[2]} {value}"


def sweep_steps(
    recipe_name: str,
    settings: Sequence[str],
    grid: Sequence[str],
    methods: Sequence[str],
    seeds: int,
    session: Session,
) -> tuple[dict[str, Step], dict[str, list[str]]]:
    """Return the steps of a sweep, and for every method the steps that hold its metrics.

    Args:
        recipe_name: A file, or the name of a shipped recipe.
        settings: Overrides that hold for all methods.
        grid: See ``sweep_settings``.
        methods: See ``sweep_settings``.
        seeds: Trainings of each method, with the seeds train.seed, train.seed + 1 ...; 0: mine only.
        session: For ``plan``.

    Returns:
        Steps in order, by key but for `data` and, where there is one to audit, `audit`; method -> keys of its `metrics`
        steps, one a seed.
    """
    steps: dict[str, Step] = {}
    groups: dict[str, Step] = {}
    teachers: dict[str, Step] = {}
    metrics: dict[str, list[str]] = {}
    swept = load_recipe(recipe_name, settings)
    for method, own in sweep_settings(swept, grid, methods, seeds > 0).items():
        recipe = load_recipe(recipe_name, [*settings, *own])
        planned = plan(recipe, session)
        if method not in TRAINED_ALONE:
            groups[method] = planned["groups"]
            teachers |= {name: planned[f"{name}_candidates"] for name in recipe.mine.read_by_select}
        steps |= {"data": planned["data"], **_by_key(planned, without=(*TRAINED, "data", "index", "audit"))}
        metrics[method] = []
        for seed in range(seeds):
            train = recipe.train.model_copy(update={"seed": recipe.train.seed + seed})
            trained = plan(recipe.model_copy(update={"train": train}), session)
            steps |= _by_key(trained, without=("data", "index", "audit"))
            metrics[method].append(trained["metrics"].key)
    if groups:
        steps["audit"] = audit_step(steps["data"], teachers, groups, swept.audit)
    return steps, metrics


def _by_key(steps: Mapping[str, Step], without: Sequence[str]) -> dict[str, Step]:
    """Return steps by the key of their artifact: methods that share a step share its entry."""
    return {step.key: step for name, step in steps.items() if name not in without}
