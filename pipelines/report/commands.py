"""Commands that read past runs: a page on one, several side by side."""

from pathlib import Path
from typing import Annotated

import typer

from cluster.options import DefinitionOption, StorageOption


def report(
    run: Annotated[str, typer.Argument(help="A run's id, or `latest`.")] = "latest",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write. Default: <run>.html, here.")
    ] = None,
    definition: DefinitionOption = "local",
    storage: StorageOption = None,
) -> None:
    """Write one HTML page on a run: metrics, the audit of its negatives, stages, settings.

    Example: stope report latest --output report.html
    """
    from rich.console import Console

    from cluster.artifacts import open_store
    from cluster.runs import Run
    from pipelines.report.gather import gather_run, write_page
    from pipelines.report.terminal import show_audits

    store = open_store(definition, storage)
    record = Run.find(store.storage, run).record
    gathered = gather_run(store, record)
    console = Console()
    for audits in gathered.audits.values():
        show_audits(console, audits)
    written = write_page(gathered, output or Path(f"{record.id}.html"))
    console.print(f"\n[bold]Report[/]  {written}", highlight=False, soft_wrap=True)


def compare(
    runs: Annotated[list[str], typer.Argument(help="Ids of two or more runs, or `latest`.")],
    definition: DefinitionOption = "local",
    storage: StorageOption = None,
) -> None:
    """Print the metrics of several runs side by side, with differences to the first.

    Example: stope compare 20260101-120000-demo-1a2b latest
    """
    from rich.console import Console

    from cluster.artifacts import open_store
    from cluster.errors import UserError
    from cluster.runs import Run
    from pipelines.report.comparison import compare_runs, show_comparison

    if len(runs) < 2:
        raise UserError(
            "one run has nothing beside it", got=runs[0], expected="two or more", fix="stope runs ls"
        )
    root = open_store(definition, storage).storage
    records = [Run.find(root, name).record for name in runs]
    show_comparison(Console(), records, compare_runs(records))
