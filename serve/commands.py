"""Commands about serving."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from cluster.options import DefinitionOption, StorageOption

serve = typer.Typer(help="Online serving of a release.", no_args_is_help=True)


@serve.command("run")
def run(
    release: Annotated[str, typer.Argument(help="Name of a release, or `latest`.")] = "latest",
    host: Annotated[
        str, typer.Option(help="Address to listen on; other than loopback needs --keys-file.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="TCP port.")] = 8000,
    keys_file: Annotated[
        Path | None, typer.Option(help="File of API keys made by `stope serve key`.")
    ] = None,
    max_queued_tokens: Annotated[
        int, typer.Option(help="Beyond this requests are refused with 429.")
    ] = 300_000,
    definition: DefinitionOption = "local",
    storage: StorageOption = None,
) -> None:
    """Serve a release until Ctrl-C: /v1/embeddings, /v1/search, /v1/models, /health, /ready and a page at /.

    Example: stope serve run latest --port 8080
    """
    from pydantic import ValidationError
    from rich.console import Console

    from cluster import releases
    from cluster.artifacts import ArtifactStore
    from cluster.definition import load_definition
    from cluster.errors import UserError
    from cluster.session import Session
    from serve.config import ServeConfig
    from serve.run import serve_release

    loaded = load_definition(definition)
    if not loaded.is_local:
        raise UserError(
            "releases are served on the machine of the command only",
            where=f"definition {loaded.name}",
            got=loaded.provider.kind,
            expected="local",
            fix="take --definition local with --storage of the cluster",
        )
    store = ArtifactStore(storage or loaded.storage)
    record = releases.find(store, release)
    try:
        config = ServeConfig(host=host, port=port, keys_file=keys_file, max_queued_tokens=max_queued_tokens)
    except ValidationError as error:
        raise UserError("; ".join(each["msg"] for each in error.errors()), where="stope serve run") from error
    console = Console()

    def on_ready(url: str) -> None:
        console.print(f"[bold]{record.name}[/] at [cyan]{url}[/]   Ctrl-C stops", highlight=False)

    with releases.opened(store, record) as directory:
        console.print(f"Loading {record.name} ...", highlight=False)
        serve_release(directory, Session(loaded, quiet="--debug" not in sys.argv), config, on_ready)


@serve.command("key")
def key(
    name: Annotated[str, typer.Argument(help="Whose key it is.")],
    keys_file: Annotated[Path, typer.Option(help="Kept as hashes; made if absent.")] = Path("stope.keys"),
    revoke: Annotated[bool, typer.Option("--revoke", help="Take the key of this name back.")] = False,
) -> None:
    """Make an API key and print it once, or take one back.

    Example: stope serve key search-team
    """
    from rich.console import Console

    from serve.keys import create_key, revoke_key

    if revoke:
        revoke_key(keys_file, name)
        Console().print(f"revoked {name}", highlight=False)
    else:
        Console().print(create_key(keys_file, name), highlight=False, markup=False)
