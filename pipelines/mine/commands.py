"""The command that compares methods of mining."""

from typing import Annotated

import typer

from cluster.options import DefinitionOption, StorageOption

GridOption = Annotated[
    list[str] | None,
    typer.Option(
        "--grid",
        metavar="KEY=V1,V2",
        help="Values of a setting to compare, e.g. --grid mine.select.filter.threshold=0.9,0.95. Repeatable: the "
        "product is swept. Without it the methods of the literature are.",
    ),
]
MethodOption = Annotated[
    list[str] | None,
    typer.Option(
        "--method",
        metavar="NAME",
        help="One of the literature's methods, by the name it has in the table; these alone are compared. Repeatable.",
    ),
]
VariantOption = Annotated[
    list[str] | None,
    typer.Option(
        "--variant",
        metavar="'NAME: KEY=VALUE ...'",
        help="Settings to compare under a name of their own, e.g. --variant 'plain: train.loss.name=infonce'. "
        "Repeatable.",
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Replace a setting for all methods. Repeatable."),
]


def sweep(
    recipe: Annotated[
        str, typer.Argument(help="A YAML file, or the name of a recipe that ships with Stope.")
    ],
    grid: GridOption = None,
    methods: MethodOption = None,
    variants: VariantOption = None,
    settings: SetOption = None,
    train: Annotated[
        bool,
        typer.Option(
            "--train",
            help="Train and evaluate with every method's negatives as well, with random and BM25 negatives, and with "
            "soft labels.",
        ),
    ] = False,
    seeds: Annotated[int, typer.Option(min=1, help="With --train: trainings of each method, averaged.")] = 1,
    definition: DefinitionOption = "local",
    storage: StorageOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what is cached, partial or to run, and compute nothing.")
    ] = False,
) -> None:
    """Compare methods of mining over what is already scored, in one table; with --train what they train.

    Example: stope mine sweep demo --grid mine.select.filter.threshold=0.9,0.95,0.98
    """
    from pipelines.launch import launch_sweep
    from pipelines.mine.sweep import Comparison

    compared = Comparison(grid or (), methods or (), variants or ())
    launch_sweep(recipe, compared, settings or [], seeds if train else 0, definition, storage, dry_run)
