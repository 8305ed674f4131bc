"""The command that says what a recipe takes before it starts, and how near that came afterwards."""

from typing import Annotated

import typer

from cluster.options import DefinitionOption, StorageOption


def cost(
    recipe: Annotated[
        str | None,
        typer.Argument(help="A YAML file, or the name of a recipe that ships with Stope; not with --run."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Replace a setting, e.g. --set train.epochs=2. Repeatable."
        ),
    ] = None,
    definition: DefinitionOption = "local",
    storage: StorageOption = None,
    run: Annotated[
        str | None,
        typer.Option("--run", help="An id, or `latest`: the prediction beside what that run took."),
    ] = None,
    documents: Annotated[
        int | None,
        typer.Option("--documents", min=1, help="Plan for so many documents, not those of the data."),
    ] = None,
    queries: Annotated[
        int | None, typer.Option("--queries", min=1, help="Plan for so many queries that get negatives.")
    ] = None,
    accelerator: Annotated[
        str | None,
        typer.Option(
            "--accelerator", help="Compute for this device, such as H100, in place of the definition's."
        ),
    ] = None,
    measure: Annotated[
        bool | None,
        typer.Option(
            "--measure/--no-measure",
            help="Probe this machine for two seconds, or take recorded rates. Default: probe where the work runs here.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Price a recipe: device hours, wall time, memory and storage of every stage, before anything starts.

    Steps that were run show what they took beside the prediction.

    Example: stope cost medquad_minilm_cpu --documents 10000000000 --queries 1000000 -d h100x8
    """
    from pipelines.cost.launch import Question, launch

    launch(
        Question(
            recipe=recipe,
            settings=tuple(settings or ()),
            definition=definition,
            storage=storage,
            run=run,
            documents=documents,
            queries=queries,
            accelerator=accelerator,
            measure=measure,
        ),
        as_json=as_json,
    )
