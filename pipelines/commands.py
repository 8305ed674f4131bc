"""The commands that run a recipe, whole or up to one stage."""

from typing import Annotated

import typer

from cluster.options import DefinitionOption, StorageOption

RecipeArgument = Annotated[
    str, typer.Argument(help="A YAML file, or the name of a recipe that ships with Stope.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Replace a setting, e.g. --set train.epochs=2. Repeatable."
    ),
]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Say what is cached, partial or to run, and compute nothing.")
]

mine = typer.Typer(help="Hard negatives.", no_args_is_help=True)


def demo(
    settings: SetOption = None,
    definition: DefinitionOption = "local",
    storage: StorageOption = None,
    dry_run: DryRunOption = False,
) -> None:
    """Build a data set from installed documentation, mine it, tune MiniLM on it, measure and release it.

    Needs no network. Example: stope demo
    """
    _run("run", "demo", settings, definition, storage, dry_run)


def run(
    recipe: RecipeArgument,
    settings: SetOption = None,
    definition: DefinitionOption = "local",
    storage: StorageOption = None,
    dry_run: DryRunOption = False,
) -> None:
    """Run a recipe from data to release; what is there already is not computed again.

    Example: stope run squad_minilm_cpu --set data.path=squad --set train.epochs=2
    """
    _run("run", recipe, settings, definition, storage, dry_run)


def encode(
    recipe: RecipeArgument,
    settings: SetOption = None,
    definition: DefinitionOption = "local",
    storage: StorageOption = None,
    dry_run: DryRunOption = False,
) -> None:
    """Embed the documents and queries of a recipe with its teacher.

    Example: stope encode medquad_minilm_cpu --set encode.precision=float32
    """
    _run("encode", recipe, settings, definition, storage, dry_run)


@mine.command("run")
def mine_run(
    recipe: RecipeArgument,
    settings: SetOption = None,
    definition: DefinitionOption = "local",
    storage: StorageOption = None,
    dry_run: DryRunOption = False,
) -> None:
    """Mine hard negatives: encode, search, select. Another filter reruns the selection alone.

    Example: stope mine run demo --set mine.select.filter.method=naive
    """
    _run("mine", recipe, settings, definition, storage, dry_run)


def train(
    recipe: RecipeArgument,
    settings: SetOption = None,
    definition: DefinitionOption = "local",
    storage: StorageOption = None,
    dry_run: DryRunOption = False,
) -> None:
    """Mine where needed, then tune the model.

    Example: stope train demo --set train.learning_rate=2e-5
    """
    _run("train", recipe, settings, definition, storage, dry_run)


def evaluate(
    recipe: RecipeArgument,
    settings: SetOption = None,
    definition: DefinitionOption = "local",
    storage: StorageOption = None,
    dry_run: DryRunOption = False,
) -> None:
    """Train where needed, then measure before, after and the baselines on held-out queries.

    Example: stope evaluate demo --set evaluate.split=dev
    """
    _run("evaluate", recipe, settings, definition, storage, dry_run)


def index(
    recipe: RecipeArgument,
    settings: SetOption = None,
    definition: DefinitionOption = "local",
    storage: StorageOption = None,
    dry_run: DryRunOption = False,
) -> None:
    """Train where needed, then build the index of the tuned model.

    Example: stope index demo
    """
    _run("index", recipe, settings, definition, storage, dry_run)


def _run(
    target: str, recipe: str, settings: list[str] | None, definition: str, storage: str | None, dry_run: bool
) -> None:
    from pipelines.launch import launch

    launch(target, recipe, settings or [], definition, storage, dry_run)
