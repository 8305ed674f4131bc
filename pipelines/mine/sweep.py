"""Methods of mining over what is already scored: one selection each, one audit, one table."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from cluster.errors import UserError
from cluster.session import Session
from pipelines.mine.literature import TRAINED_ALONE, literature
from pipelines.recipe import Recipe, load_recipe
from pipelines.report.pipeline import audit_step
from pipelines.run import plan
from pipelines.steps import Step

SWEPT = ("mine.select.", "mine.generate.", "train.")
"""What may be compared, the first with training or without: all else changes the candidates, or what is measured."""

TRAINED = ("order", "trained", "tuned_embeddings", "tuned_ranking", "metrics")
"""Steps that a trained sweep needs of every method, besides its groups."""


@dataclass(frozen=True)
class Comparison:
    """What a sweep lays side by side, in one of three ways; without any the methods of the literature.

    Args:
        grid: ``key=value,value,...`` of a recipe each; their product is compared.
        methods: Names of the literature's methods, to compare these alone.
        variants: ``name: key=value key=value ...`` of a recipe each, quoted as for a shell.
    """

    grid: Sequence[str] = ()
    methods: Sequence[str] = ()
    variants: Sequence[str] = ()

    @property
    def is_literature(self) -> bool:
        """Whether methods of the literature are compared."""
        return not self.grid and not self.variants

    def settings(self, recipe: Recipe, trains: bool) -> dict[str, list[str]]:
        """Return name -> settings of a recipe, for everything that is compared.

        Args:
            recipe: What is swept.
            trains: Whether everything is trained with.

        Raises:
            UserError: Two ways are mixed, there is no method of this name, a variant has no name or no settings that
                read, or a key stands twice or is not compared.
        """
        ways = {"--grid": self.grid, "--method": self.methods, "--variant": self.variants}
        asked = [f"{option} {values[0]}" for option, values in ways.items() if values]
        if len(asked) > 1:
            raise UserError(
                "a sweep compares a grid, methods of the literature, or variants",
                where=asked[1].partition(" ")[0],
                got=" and ".join(asked),
                fix="write all as --variant, or leave out the one or the other",
            )
        if self.variants:
            return _variants(self.variants, trains)
        if self.grid:
            return _product(self.grid, trains)
        return _chosen(literature(recipe, trains), self.methods)


def _product(grid: Sequence[str], trains: bool) -> dict[str, list[str]]:
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
        _check_key(key, "--grid", trains)
        axes[key] = values.split(",")
    points = product(*([f"{key}={value}" for value in values] for key, values in axes.items()))
    return {", ".join(_short(setting) for setting in point): list(point) for point in points}


def _variants(variants: Sequence[str], trains: bool) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for variant in variants:
        name, colon, written = variant.partition(":")
        # A value may hold spaces: train.moe={where: up, num_experts: 2}.
        settings = re.split(r"\s+(?=[\w.]+=)", written.strip()) if written.strip() else []
        keys = [setting.partition("=")[0] for setting in settings]
        if not colon or name in found or len({*keys}) < len(keys) or not all("=" in one for one in settings):
            raise UserError(
                "a variant has a name of its own, and settings",
                where="--variant",
                got=variant,
                expected="name: key=value key=value ...",
                fix="--variant 'plain: train.loss.name=infonce'",
            )
        for key in keys:
            _check_key(key, "--variant", trains)
        found[name] = settings
    return found


def _check_key(key: str, option: str, trains: bool) -> None:
    swept = SWEPT if trains else SWEPT[:1]
    if not key.startswith(swept):
        raise UserError(
            "a sweep compares what is made of the same candidates",
            where=option,
            got=key,
            expected=f"a key under {' or '.join(swept)}",
            fix="run the recipe once with each value, by --set, and lay the runs side by side: stope compare",
        )


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


def _short(setting: str) -> str:
    key, _, value = setting.partition("=")
    return f"{key.rpartition('.')[2]} {value}"


def sweep_steps(
    recipe_name: str,
    settings: Sequence[str],
    compared: Comparison,
    seeds: int,
    session: Session,
) -> tuple[dict[str, Step], dict[str, list[str]]]:
    """Return the steps of a sweep, and for every method the steps that hold its metrics.

    Args:
        recipe_name: A file, or the name of a shipped recipe.
        settings: Overrides that hold for all methods.
        compared: What is laid side by side.
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
    for method, own in compared.settings(swept, seeds > 0).items():
        recipe = load_recipe(recipe_name, [*settings, *own])
        planned = plan(recipe, session)
        is_alone = compared.is_literature and method in TRAINED_ALONE
        if not is_alone and planned["groups"].key not in {step.key for step in groups.values()}:
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
