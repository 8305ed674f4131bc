"""A grid of mining methods over what is already scored: one selection each, one audit, one table."""

from collections.abc import Mapping, Sequence
from itertools import product

from cluster.errors import UserError
from cluster.session import Session
from pipelines.recipe import load_recipe
from pipelines.report.pipeline import audit_step
from pipelines.run import plan
from pipelines.steps import Step

METHODS: dict[str, tuple[str, ...]] = {
    "naive": ("filter.method=naive",),
    "shifted 10": ("filter.method=shifted",),
    "absolute .7": ("filter.method=absolute",),
    "margin_pos .05": ("filter.method=margin_pos",),
    "perc_pos .95": ("filter.method=perc_pos",),
    "perc_pos .90": ("filter.method=perc_pos", "filter.threshold=0.9"),
    "double": ("filter.method=double",),
    "perc_pos .95 sampled": ("filter.method=perc_pos", "selection=sampled"),
    "perc_pos .95 top1_sampled": ("filter.method=perc_pos", "selection=top1_sampled"),
}
"""What a sweep compares where no grid is given: method -> settings under mine.select."""

TRAINED = ("order", "trained", "tuned_embeddings", "tuned_ranking", "metrics")
"""Steps that a trained sweep needs of every method, besides its groups."""


def sweep_settings(grid: Sequence[str]) -> dict[str, list[str]]:
    """Return name -> settings of a recipe, for every method of a sweep.

    Args:
        grid: ``key=value,value,...`` of a recipe each; their product is swept. Empty: METHODS.

    Raises:
        UserError: A line of the grid has no values, or a key stands twice.
    """
    if not grid:
        return {name: [f"mine.select.{setting}" for setting in own] for name, own in METHODS.items()}
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
        axes[key] = values.split(",")
    points = product(*([f"{key}={value}" for value in values] for key, values in axes.items()))
    return {", ".join(_short(setting) for setting in point): list(point) for point in points}


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
    for method, own in sweep_settings(grid).items():
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
