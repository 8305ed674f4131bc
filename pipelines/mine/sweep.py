"""A grid of mining methods over what is already scored: one selection each, one audit, one table."""

import json
from collections.abc import Mapping, Sequence
from itertools import product

from cluster.errors import UserError
from cluster.session import Session
from pipelines.recipe import load_recipe
from pipelines.report.pipeline import audit_step
from pipelines.run import plan
from pipelines.select.config import SelectConfig
from pipelines.steps import Step

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

RANKS = ("min_rank", "max_rank", "max_positive_rank")
"""Settings of a recipe's filter that hold for every method."""

SWEPT = ("mine.select.", "train.")
"""What a grid may be made of, the latter with training: all else changes the candidates, or what is measured."""

TRAINED = ("order", "trained", "tuned_embeddings", "tuned_ranking", "metrics")
"""Steps that a trained sweep needs of every method, besides its groups."""


def sweep_settings(
    grid: Sequence[str], select: SelectConfig, suppliers: Sequence[str], trains: bool
) -> dict[str, list[str]]:
    """Return name -> settings of a recipe, for every method of a sweep.

    Args:
        grid: ``key=value,value,...`` of a recipe each; their product is swept. Empty: METHODS, which judge by the
            scores of the teachers that supply the candidates.
        select: What the recipe says of selecting.
        suppliers: Teachers whose candidates become negatives.
        trains: Whether every method is trained with.

    Raises:
        UserError: A line of the grid has no values, a key stands twice or is no setting that a sweep compares.
    """
    if not grid:
        return _methods(select, suppliers)
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


def _methods(select: SelectConfig, suppliers: Sequence[str]) -> dict[str, list[str]]:
    ranks = select.filter.model_dump(include=set(RANKS), exclude_defaults=True)
    # Another teacher's scores, with a threshold of their own, are one method's, not every method's.
    common = [f"mine.select.teachers={json.dumps(list(suppliers))}"]
    rules = {name: f"mine.select.filter={json.dumps(ranks | rule)}" for name, rule in METHODS.items()}
    methods = {name: [*common, rule, "mine.select.selection=top"] for name, rule in rules.items()}
    if select.ensemble == "intra_sample":  # Which takes each teacher's best.
        return methods
    common.append(f"mine.select.sample_from={max(select.sample_from, select.num_negatives)}")
    for selection in SAMPLED:
        rule = rules["perc_pos .95"]
        methods[f"perc_pos .95 {selection}"] = [*common, rule, f"mine.select.selection={selection}"]
    return methods


def _short(setting: str) -> str:
    key, _, value = setting.partition("=")
    return f"{key.rpartition('.')[2]} {value}"


def sweep_steps(
    recipe_name: str,
    settings: Sequence[str],
    grid: Sequence[str],
    seeds: int,
    session: Session,
) -> tuple[dict[str, Step], dict[str, list[str]]]:
    """Return the steps of a sweep, and for every method the steps that hold its metrics.

    Args:
        recipe_name: A file, or the name of a shipped recipe.
        settings: Overrides that hold for all methods.
        grid: See ``sweep_settings``.
        seeds: Trainings of each method, with the seeds train.seed, train.seed + 1 ...; 0: mine only.
        session: For ``plan``.

    Returns:
        Steps in order, by key but for `data` and `audit`; method -> keys of its `metrics` steps, one a seed.
    """
    steps: dict[str, Step] = {}
    groups: dict[str, Step] = {}
    teachers: dict[str, Step] = {}
    metrics: dict[str, list[str]] = {}
    recipe = load_recipe(recipe_name, settings)
    select = recipe.mine.select
    suppliers = select.suppliers(recipe.mine.read_by_select)
    for method, own in sweep_settings(grid, select, suppliers, seeds > 0).items():
        recipe = load_recipe(recipe_name, [*settings, *own])
        planned = plan(recipe, session)
        groups[method] = planned["groups"]
        teachers |= {name: planned[f"{name}_candidates"] for name in recipe.mine.read_by_select}
        steps |= {"data": planned["data"], **_by_key(planned, without=(*TRAINED, "data", "index", "audit"))}
        metrics[method] = []
        for seed in range(seeds):
            train = recipe.train.model_copy(update={"seed": recipe.train.seed + seed})
            trained = plan(recipe.model_copy(update={"train": train}), session)
            steps |= _by_key(trained, without=("data", "index", "audit"))
            metrics[method].append(trained["metrics"].key)
    steps["audit"] = audit_step(steps["data"], teachers, groups, recipe.audit)
    return steps, metrics


def _by_key(steps: Mapping[str, Step], without: Sequence[str]) -> dict[str, Step]:
    """Return steps by the key of their artifact: methods that share a step share its entry."""
    return {step.key: step for name, step in steps.items() if name not in without}
