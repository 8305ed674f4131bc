"""Commands about the machine and about what is stored: doctor, runs, artifacts."""

from typing import Annotated

import typer

from cluster.options import DefinitionOption, StorageOption

runs = typer.Typer(help="Past runs.", no_args_is_help=True)
artifacts = typer.Typer(help="What is stored.", no_args_is_help=True)


def doctor(definition: DefinitionOption = "local", storage: StorageOption = None) -> None:
    """Check this machine; every failed check comes with its fix.

    Example: stope doctor
    """
    from rich.console import Console
    from rich.markup import escape

    from cluster.definition import load_definition
    from cluster.doctor import run_checks

    console = Console()
    checks = run_checks(storage or load_definition(definition).storage)
    for check in checks:
        mark = "[green]ok  [/]" if check.ok else "[red]FAIL[/]"
        console.print(f"{mark} {check.name:<22} {escape(check.detail)}", highlight=False)
        if not check.ok:
            console.print(f"     fix: {escape(check.fix)}", highlight=False)
    if not all(check.ok for check in checks):
        raise typer.Exit(1)


@runs.command("ls")
def runs_ls(definition: DefinitionOption = "local", storage: StorageOption = None) -> None:
    """List the runs, newest first.

    Example: stope runs ls
    """
    from cluster.artifacts import open_store
    from cluster.listing import print_rows
    from cluster.runs import Run

    records = [run.record for run in Run.list(open_store(definition, storage).storage)]
    rows = [
        (record.state, record.created_at[:19], f"{len(record.stages)} stages", record.id)
        for record in records
    ]
    print_rows(("state", "started", "", "run"), rows)


@runs.command("show")
def runs_show(
    run: Annotated[str, typer.Argument(help="An id, or `latest`.")] = "latest",
    definition: DefinitionOption = "local",
    storage: StorageOption = None,
) -> None:
    """Show the stages, the metrics and the end of a run.

    Example: stope runs show latest
    """
    from cluster.artifacts import open_store
    from cluster.listing import print_rows
    from cluster.runs import Run

    record = Run.find(open_store(definition, storage).storage, run).record
    print_rows(("state", "run"), [(record.state, record.id)])
    stages = [
        ("cached" if stage.cached else f"{stage.seconds:.1f} s", f"{stage.rows:,}", stage.state, stage.key)
        for stage in record.stages
    ]
    print_rows(("time", "rows", "state", "artifact"), stages)
    if record.metrics:
        metrics = [
            (
                *(f"{row[key]:.4f}" for key in ("value", "ci_low", "ci_high")),
                f"{row['metric']}@{row['k']}",
                str(row["run"]),
            )
            for row in record.metrics
        ]
        print_rows(("value", "low", "high", "metric", "ranking"), metrics)
    for event in record.events:
        print_rows(("at", "event"), [(event.at, event.text)])


@artifacts.command("ls")
def artifacts_ls(definition: DefinitionOption = "local", storage: StorageOption = None) -> None:
    """List the committed artifacts.

    Example: stope artifacts ls
    """
    from cluster.artifacts import open_store
    from cluster.listing import print_rows

    rows = []
    for manifest in open_store(definition, storage).list():
        shards = [shard for made in manifest.tables.values() for shard in made.shards]
        size = sum(shard.num_bytes for shard in shards) + sum(file.num_bytes for file in manifest.files)
        counted = f"{sum(shard.rows for shard in shards):,}"
        cells = (counted, f"{size / 2**20:.1f}", f"{manifest.seconds:.1f}", manifest.created_at[:19])
        rows.append((*cells, manifest.key))
    print_rows(("rows", "MiB", "seconds", "made", "artifact"), rows)


@artifacts.command("show")
def artifacts_show(
    key: Annotated[str, typer.Argument(help="<stage>/<label>-<fingerprint>, or the start of it.")],
    definition: DefinitionOption = "local",
    storage: StorageOption = None,
) -> None:
    """Print the manifest of an artifact: config, inputs, shards, counters.

    Example: stope artifacts show ingest/docstrings
    """
    from rich.console import Console

    from cluster.artifacts import open_store
    from cluster.errors import UserError

    manifests = open_store(definition, storage).list()
    found = [manifest for manifest in manifests if manifest.key.startswith(key)]
    if not found:
        stages = ", ".join(sorted({manifest.stage for manifest in manifests})) or "nothing is stored"
        raise UserError("no such artifact", got=key, expected=stages, fix="stope artifacts ls")
    for manifest in found:
        Console().print_json(manifest.model_dump_json())


@artifacts.command("gc")
def artifacts_gc(
    yes: Annotated[bool, typer.Option("--yes", help="Delete; without it the list is only printed.")] = False,
    keep_runs: Annotated[
        int | None, typer.Option(min=0, help="Let go of what only runs older than the newest N need.")
    ] = None,
    definition: DefinitionOption = "local",
    storage: StorageOption = None,
) -> None:
    """Remove artifacts that no run and no release needs, half-written ones among them.

    Example: stope artifacts gc --keep-runs 5 --yes
    """
    from rich.console import Console

    from cluster.artifacts import open_store
    from cluster.roots import rooted_keys

    store = open_store(definition, storage)
    removed = store.collect(rooted_keys(store, keep_runs), dry_run=not yes)
    console = Console()
    for key in removed:
        console.print(f"{'removed' if yes else 'would remove'} {key}", highlight=False, soft_wrap=True)
    if not removed:
        console.print("nothing to remove")
    elif not yes:
        console.print("Nothing was deleted. To delete, add --yes")
