"""The command that merges models."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.options import DefinitionOption, StorageOption

if TYPE_CHECKING:
    from cluster.artifacts import ArtifactStore

RUN_PREFIX = "run:"


def merge(
    output: Annotated[Path, typer.Argument(help="A directory that is not there yet.")],
    models: Annotated[
        list[str],
        typer.Argument(
            help="Two or more models of one base: directories, or run:ID for what a run trained (run:latest)."
        ),
    ],
    weight: Annotated[
        list[float] | None,
        typer.Option(
            "--weight", help="Of a model in the mean, one each, in their order. Default: all the same."
        ),
    ] = None,
    slerp: Annotated[
        float | None,
        typer.Option(
            "--slerp",
            metavar="T",
            help="Take the point T on the arc between two models, 0 to 1, in place of the mean.",
        ),
    ] = None,
    definition: DefinitionOption = "local",
    storage: StorageOption = None,
) -> None:
    """Merge the weights of models: their mean (a soup), or a point on the arc between two. No training.

    Name the output as `model.source` of a recipe to measure or to serve it.

    Example: stope merge souped run:20260101-120000-demo-1a2b run:latest
    """
    from rich.console import Console

    from cluster.artifacts import open_store
    from cluster.errors import UserError
    from models import merging

    store = open_store(definition, storage)
    directories = [_directory(model, store) for model in models]
    if slerp is None:
        merging.soup(directories, output, weight or None)
    elif weight or len(directories) != 2:
        raise UserError(
            "an arc lies between two models, and has no weights",
            where="--slerp",
            got=f"{len(directories)} models{', --weight' if weight else ''}",
            expected="two models, and T",
            fix="leave out --slerp for a mean",
        )
    else:
        merging.slerp(directories[0], directories[1], output, slerp)
    Console().print(str(output.absolute()), highlight=False, soft_wrap=True)


def _directory(model: str, store: "ArtifactStore") -> Path:
    from cluster.runs import Run
    from models.checkpoint import resolve_model
    from pipelines.release import artifact_of

    if not model.startswith(RUN_PREFIX):
        return resolve_model(model)
    run = Run.find(store.storage, model.removeprefix(RUN_PREFIX))
    return artifact_of(store, run, "train").directory("model")
