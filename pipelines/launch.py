"""From a command to a finished run: load, plan, execute, show, release."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape

from cluster.artifacts import ArtifactStore
from cluster.definition import ClusterDefinition, load_definition
from cluster.runs import Run
from cluster.session import Session
from pipelines import show
from pipelines.execute import Done, execute, made, survey
from pipelines.mine.sweep import Comparison, sweep_steps
from pipelines.progress import Progress
from pipelines.recipe import Recipe, load_recipe
from pipelines.release import create_release
from pipelines.report.gather import gather_run
from pipelines.report.tables import Audit
from pipelines.report.terminal import show_audit, show_audits
from pipelines.run import plan, targets


def launch(
    target: str,
    recipe_name: str,
    settings: list[str],
    definition_name: str,
    storage: str | None,
    dry_run: bool,
) -> None:
    """Run a recipe up to ``target`` and print what came of it.

    Args:
        target: A key of TARGETS.
        recipe_name: A file, or the name of a shipped recipe.
        settings: ``key=value`` overrides of the recipe.
        definition_name: A file, or the name of a shipped cluster definition.
        storage: Storage root that replaces the definition's; None keeps it.
        dry_run: Only say what would be done.

    Raises:
        UserError: Something in recipe, definition or data is wrong.
        KeyboardInterrupt, SystemExit: Ctrl-C or SIGTERM; the record says so, and the same command resumes.
    """
    console = Console()
    recipe = load_recipe(recipe_name, settings)
    definition = load_definition(definition_name)
    store = ArtifactStore(storage or definition.storage)
    with Session(definition, quiet="--debug" not in sys.argv) as session:
        steps = plan(recipe, session)
        wanted = targets(target, steps)
        if dry_run:
            show.survey(steps, survey(steps, wanted, store))
            return
        with _recorded(console, recipe, definition, store) as run:
            done = execute(steps, wanted, store, session, Progress(console), run)
            _conclude(console, run, done)
            if target == "mine":
                (audit,) = (name for name in wanted if name.endswith("audit"))
                show_audit(console, Audit.read(made(done[audit])))
            if "trained" in done and (recipe.rounds > 1 or recipe.train.refresh_every_steps):
                for audits in gather_run(store, run.record).audits.values():
                    show_audits(console, audits)
            if target == "encode":
                show.embeddings(console, made(done[wanted[0]]))
            if target == "run" and recipe.train.cross_encoder:
                show.reranker(console, made(done["trained"]), recipe)
            elif target == "run":
                _release(console, recipe_name, run, done, store, storage)


def launch_sweep(
    recipe_name: str,
    compared: Comparison,
    settings: list[str],
    seeds: int,
    definition_name: str,
    storage: str | None,
    dry_run: bool,
) -> None:
    """Run the methods of a sweep and print one table of what they chose, and one of what they trained.

    Args:
        recipe_name: A file, or the name of a shipped recipe.
        compared: What is laid side by side.
        settings: ``key=value`` overrides that hold for all methods.
        seeds: Trainings of each method; 0: mine only.
        definition_name: A file, or the name of a shipped cluster definition.
        storage: Storage root that replaces the definition's; None keeps it.
        dry_run: Only say what would be done.
    """
    console = Console()
    recipe = load_recipe(recipe_name, settings)
    definition = load_definition(definition_name)
    store = ArtifactStore(storage or definition.storage)
    with Session(definition, quiet="--debug" not in sys.argv) as session:
        steps, metrics = sweep_steps(recipe_name, settings, compared, seeds, session)
        audited = [name for name in ("audit",) if name in steps]
        wanted = (*audited, *(key for keys in metrics.values() for key in keys))
        if dry_run:
            show.survey(steps, survey(steps, wanted, store))
            return
        with _recorded(console, recipe, definition, store) as run:
            done = execute(steps, wanted, store, session, Progress(console), run)
            for name in audited:
                audit = made(done[name])
                show_audit(console, Audit.read(audit))
                console.print(
                    f"[bold]Page[/]  {escape(str(audit.file('report.html')))}",
                    highlight=False,
                    soft_wrap=True,
                )
            if seeds:
                show.trained_methods(
                    console, {method: [made(done[key]) for key in keys] for method, keys in metrics.items()}
                )


@contextmanager
def _recorded(
    console: Console, recipe: Recipe, definition: ClusterDefinition, store: ArtifactStore
) -> Iterator[Run]:
    """Keep the record of a run, whatever becomes of it."""
    run = Run.create(
        store.storage, recipe.model_dump(mode="json"), definition.model_dump(mode="json"), recipe.name
    )
    console.print(
        f"[bold]{escape(recipe.name)}[/]  run {run.id}  storage {escape(store.storage.locate(''))}",
        highlight=False,
    )
    try:
        yield run
    except (KeyboardInterrupt, SystemExit):  # Ctrl-C, SIGTERM
        run.finish("interrupted")
        console.print(
            "Stopped. Finished shards and checkpoints are kept: the same command goes on from there."
        )
        raise
    except BaseException as error:
        run.event(f"{type(error).__name__}: {error}")
        run.finish("failed")
        raise
    run.finish("done")


def _conclude(console: Console, run: Run, done: Mapping[str, Done]) -> None:
    if "data" in done and done["data"].artifact:
        show.ingested(console, done["data"].artifact)
    for name in ("groups", "round1.groups"):
        if name in done and done[name].artifact:
            show.mined(console, made(done[name]))
            break
    show.stages(console, list(done.values()))
    if "metrics" in done and done["metrics"].artifact:
        metrics = done["metrics"].artifact
        run.set_metrics(metrics.read("metrics").to_pylist())
        show.metrics(console, metrics)
    if "index" in done and done["index"].artifact:
        show.index(console, made(done["index"]))


def _release(
    console: Console,
    recipe_name: str,
    run: Run,
    done: Mapping[str, Done],
    store: ArtifactStore,
    storage: str | None,
) -> None:
    name = create_release(store, run).name
    data = store.get(done["data"].step.key)
    query = data.read_shard("queries", 0, columns=["text"]).column("text")[0].as_py()
    show.next_commands(console, name, recipe_name, query, storage)
