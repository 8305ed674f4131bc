"""From the command to a printed estimate: load, size, probe, compute, compare."""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from rich.console import Console

from cluster.artifacts import ArtifactStore
from cluster.definition import ClusterDefinition, load_definition
from cluster.errors import UserError
from cluster.machine import num_cores
from cluster.runs import Run
from cluster.session import Session
from pipelines.cost.corpus import Corpus, planned_corpus, read_corpus
from pipelines.cost.estimate import Estimate, estimate
from pipelines.cost.measured import measure_steps, with_measured
from pipelines.cost.rates import STORAGE_BYTES_S, Rates, measure_disk, measure_rates
from pipelines.cost.recipe_steps import plan_steps
from pipelines.cost.seats import Hardware, num_ranks, rates_of
from pipelines.cost.show import as_json as to_json
from pipelines.cost.show import print_estimate, size
from pipelines.cost.works import PlannedStep
from pipelines.mine.config import RerankerTeacher
from pipelines.recipe import Recipe, load_recipe
from pipelines.search.config import DenseTeacher
from pipelines.train.stages import MAIN

TABLE_WIDTH = 132
BUSY_LOAD = 0.5
"""Load of a core from which on the user is told that other work will slow the run down."""
Recorded = TypeVar("Recorded", bound=BaseModel)


@dataclass(frozen=True)
class Question:
    """What the user asks; see ``stope cost --help``.

    Args:
        recipe: A file, or the name of a shipped recipe; None with ``run``.
        settings: Overrides of the recipe.
        definition: A file, or the name of a shipped cluster definition.
        storage: Storage root that replaces the definition's.
        run: An id or `latest`; its recipe and definition are taken.
        documents: Planned number; None: of the data.
        queries: Planned number of mined queries; None: of the data.
        accelerator: Stands in for the definition's.
        measure: Whether to probe this machine; None: where the definition is local.
    """

    recipe: str | None
    settings: tuple[str, ...] = ()
    definition: str = "local"
    storage: str | None = None
    run: str | None = None
    documents: int | None = None
    queries: int | None = None
    accelerator: str | None = None
    measure: bool | None = None

    @property
    def is_planned(self) -> bool:
        """Whether the sizes are the user's, so that no artifact can belong to them."""
        return self.documents is not None or self.queries is not None


def launch(question: Question, as_json: bool) -> None:
    """Estimate and print.

    Raises:
        UserError: Something in recipe, definition, data or run is wrong.
    """
    definition = load_definition(question.definition)
    store = ArtifactStore(question.storage or definition.storage)
    run = Run.find(store.storage, question.run) if question.run else None
    recipe, definition = _asked_for(question, run, definition)
    corpora = _sizes(question, recipe, store)
    hardware, notes = _hardware(question, definition, store)
    notes += _not_priced(question, recipe)
    planned = plan_steps(
        recipe,
        corpora,
        lambda role, dtype: rates_of(hardware, role).resolve(dtype),
        num_ranks(hardware),
    )
    result = estimate(planned, hardware)
    if not question.is_planned and question.accelerator is None:
        result, missing = _compared(result, planned, recipe, definition, store, run)
        notes += missing
    notes += _disk_note(result, store)
    if as_json:
        named = {"recipe": recipe.name, "definition": definition.name, "run": run.id if run else None}
        print_json({**named, **to_json(result, corpora, notes)})
        return
    console = Console()
    # In a pipe there is no width to keep to, and a row that is cut says nothing.
    console = console if console.is_terminal else Console(width=TABLE_WIDTH)
    console.print(f"[bold]{recipe.name}[/] on {definition.name}", highlight=False)
    print_estimate(console, result, corpora, notes)


def print_json(content: Mapping[str, object]) -> None:
    """Print JSON to standard output, one object."""
    Console(soft_wrap=True, highlight=False, markup=False).print(json.dumps(content, indent=1))


def _asked_for(
    question: Question, run: Run | None, definition: ClusterDefinition
) -> tuple[Recipe, ClusterDefinition]:
    if run is None:
        if question.recipe is None:
            raise UserError("nothing to price", expected="a recipe, or --run", fix="stope cost demo")
        return load_recipe(question.recipe, question.settings), definition
    if question.recipe is not None or question.settings:
        raise UserError(
            "a run has its own recipe", got=f"--run {question.run} and a recipe", fix="leave one of them out"
        )
    return _recorded(run, Recipe, run.record.recipe), _recorded(run, ClusterDefinition, run.record.definition)


def _recorded(run: Run, model: type[Recorded], content: Mapping[str, object]) -> Recorded:
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise UserError(
            f"the {model.__name__} of the run was written by another version",
            where=f"run {run.id}",
            got=str(error.errors()[0]["msg"]),
            fix="price the recipe's file instead",
        ) from error


def _sizes(question: Question, recipe: Recipe, store: ArtifactStore) -> dict[str, Corpus]:
    """Return the sizes of every data set by name; those that are planned are of the main one."""
    further = {name: read_corpus(one.data, store) for name, one in recipe.also.items()}
    if not question.is_planned:
        return {MAIN: read_corpus(recipe.data, store), **further}
    try:
        known: Corpus | None = read_corpus(recipe.data, store)
    except UserError:
        # The files of a corpus that is only planned need not be there; what is missing then is asked for.
        known = None
    return {MAIN: planned_corpus(known, question.documents, question.queries, recipe.mine.split), **further}


def _not_priced(question: Question, recipe: Recipe) -> list[str]:
    """Return what the totals leave out, or take as it is."""
    notes = []
    mining = {MAIN: recipe.mine, **{name: one.mine for name, one in recipe.also.items()}}
    again = [name for name, mine in mining.items() if mine.searched_deeper]
    if again and recipe.data.kind != "texts":
        of = f" of {', '.join(again)}" if recipe.also else ""
        notes.append(
            f"queries{of} that the filters starve are searched once more, deeper; how many they are the first "
            "selection tells, so that is not priced"
        )
    if felt := [f"train.{key}" for key in ("moe", "only_train") if getattr(recipe.train, key)]:
        notes.append(
            f"{', '.join(felt)}: time, memory and checkpoints of the training are those of a training of all weights "
            "without"
        )
    if recipe.train.refresh_every_steps:
        notes.append(
            f"mining anew every {recipe.train.refresh_every_steps:,} steps of the training is not priced: each time "
            "takes as long as the first encode, search, select and generate"
        )
    teachers = [teacher for mine in mining.values() for teacher in mine.teachers.values()]
    models = [one.model for one in teachers if isinstance(one, DenseTeacher | RerankerTeacher) and one.model]
    writers = [mine.generate for mine in mining.values() if mine.generate]
    if any(model.engine == "vllm" for model in [recipe.model, *models, *writers]):
        notes.append("engine vllm is priced as torch is: time and memory are those of torch's forward pass")
    if recipe.also and question.is_planned:
        notes.append(f"--documents and --queries are of {MAIN}; what stands under also is taken as it is")
    return notes


def _hardware(
    question: Question, definition: ClusterDefinition, store: ArtifactStore
) -> tuple[Hardware, list[str]]:
    """Return what costs are computed for, and where its rates are from."""
    wanted = (
        definition.is_local and question.accelerator is None if question.measure is None else question.measure
    )
    if wanted and question.accelerator is not None:
        raise UserError(
            "this machine's rates and those of another device cannot both count",
            got=f"--measure and --accelerator {question.accelerator}",
            fix="leave one of them out",
        )
    if wanted and not definition.is_local:
        raise UserError(
            "the probe measures this machine, and the work runs elsewhere",
            got=f"--measure with definition {definition.name}",
            fix="leave --measure out; the definition's accelerators are taken from their data sheets",
        )
    notes = []
    measured: Rates | None = None
    disk = STORAGE_BYTES_S
    if wanted:
        measured = measure_rates()
        folder = Path(store.storage.locate(""))
        while not folder.is_dir():
            folder = folder.parent
        disk = measure_disk(folder)
        rates = ", ".join(f"{dtype} {flops / 1e9:,.0f} GFLOP/s" for dtype, flops in measured.flops.items())
        notes.append(f"measured now, one {measured.device}: {rates}; disk {disk / 1e6:,.0f} MB/s")
        busy = os.getloadavg()[0] / num_cores()
        if busy > BUSY_LOAD:
            notes.append(
                f"other work keeps {busy:.0%} of the cores busy: expect it to take longer by as much"
            )
    elif question.accelerator is not None:
        notes.append(
            f"rates of the {question.accelerator} from its data sheet, times the shares of rates.SHARES"
        )
    return Hardware(definition, measured, disk, question.accelerator), notes


def _compared(
    result: Estimate,
    planned: list[PlannedStep],
    recipe: Recipe,
    definition: ClusterDefinition,
    store: ArtifactStore,
    run: Run | None,
) -> tuple[Estimate, list[str]]:
    """Return the estimate with what was measured, and why nothing was where it cannot be found."""
    from pipelines.run import plan

    if not definition.is_local and run is None:
        return result, [
            "what steps took is not looked up: that needs the cluster; on its head, add --run latest"
        ]
    with Session(definition) as session:
        steps = plan(recipe, session)
    return with_measured(result, measure_steps(planned, steps, store, run)), []


def _disk_note(result: Estimate, store: ArtifactStore) -> list[str]:
    location = store.storage.locate("")
    if "://" in location:
        return []
    folder = Path(location)
    while not folder.is_dir():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if result.peak_storage_bytes <= free:
        return []
    return [f"the storage needs {size(result.peak_storage_bytes)} and {folder} has {size(free)} free"]
