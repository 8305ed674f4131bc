"""The commands that run a recipe, whole or up to one stage."""

from collections.abc import Callable
from typing import Annotated

import typer

from cluster.options import DefinitionOption, StorageOption
from pipelines.mine.commands import sweep

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

RUN = """Run a recipe from data to release; what is there already is not computed again.

Example: stope run squad_minilm_cpu --set data.path=squad --set train.epochs=2
"""
ENCODE = """Embed the texts of a recipe with its model: labelled data, or any table of texts (recipe `texts`).

Example: stope encode texts --set data.path=corpus.parquet --set encode.precision=int8
"""
MINE = """Mine hard negatives: encode, search, select. Another filter reruns the selection alone.

Example: stope mine run demo --set mine.select.filter.method=naive
"""
TRAIN = """Mine where needed, then tune the model.

Example: stope train demo --set train.learning_rate=2e-5
"""
EVALUATE = """Train where needed, then measure before, after and the baselines on held-out queries.

Example: stope evaluate demo --set evaluate.split=dev
"""
INDEX = """Train where needed, then build the index of the tuned model.

Example: stope index demo
"""

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
    from pipelines.launch import launch

    launch("run", "demo", settings or [], definition, storage, dry_run)


def _command(target: str, text: str) -> Callable[..., None]:
    """Return the command that runs a recipe up to ``target``."""

    def command(
        recipe: RecipeArgument,
        settings: SetOption = None,
        definition: DefinitionOption = "local",
        storage: StorageOption = None,
        dry_run: DryRunOption = False,
    ) -> None:
        from pipelines.launch import launch

        launch(target, recipe, settings or [], definition, storage, dry_run)

    command.__doc__ = text
    return command


run = _command("run", RUN)
encode = _command("encode", ENCODE)
train = _command("train", TRAIN)
evaluate = _command("evaluate", EVALUATE)
index = _command("index", INDEX)
mine.command("run")(_command("mine", MINE))
mine.command("sweep")(sweep)
