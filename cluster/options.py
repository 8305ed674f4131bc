"""Options that commands of all packages share."""

from typing import Annotated

import typer

DefinitionOption = Annotated[
    str,
    typer.Option("--definition", "-d", help="Cluster definition: a YAML file, or a name such as `local`."),
]
StorageOption = Annotated[
    str | None, typer.Option("--storage", help="Where artifacts live, instead of the definition's `storage`.")
]
