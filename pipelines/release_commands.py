"""Commands about releases."""

from typing import Annotated

import typer

from cluster.options import DefinitionOption, StorageOption

release = typer.Typer(help="Releases: a model and its index, bound for serving.", no_args_is_help=True)


@release.command("create")
def create(
    run: Annotated[str, typer.Argument(help="A run's id, or `latest`.")] = "latest",
    definition: DefinitionOption = "local",
    storage: StorageOption = None,
) -> None:
    """Bind the model and the index that a run made; the newest release is what `latest` serves.

    Example: stope release create latest
    """
    from rich.console import Console

    from cluster.artifacts import open_store
    from cluster.runs import Run
    from pipelines.release import create_release

    store = open_store(definition, storage)
    Console().print(create_release(store, Run.find(store.storage, run)).name, highlight=False)


@release.command("ls")
def ls(definition: DefinitionOption = "local", storage: StorageOption = None) -> None:
    """List the releases, newest first.

    Example: stope release ls
    """
    from cluster import releases
    from cluster.artifacts import open_store
    from cluster.listing import print_rows

    records = releases.listed(open_store(definition, storage))
    rows = [(record.created_at[:19], record.run, record.name) for record in records]
    print_rows(("made", "run", "release"), rows)
